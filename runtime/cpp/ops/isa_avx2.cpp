// AVX2 and FMA: x86-64 processors since 2013. It has no exact product of unsigned and signed bytes (vpmaddubsw
// saturates), so bytes are widened to 16 bits on the way.
#include "chain.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
#define EDGEAE_TARGET "avx2,fma"
#include "select.hpp"

#include "kernels.hpp"

namespace edgeae::ops {
namespace {

struct Avx2 {
    typedef float F __attribute__((vector_size(32)));
    typedef std::int32_t I __attribute__((vector_size(32)));
    using Q = std::int16_t;
    static constexpr int lanes = 8, vectors = 4, rows = 3, tile = 3, group = 2, offset = 0, matrix_side = 0;

    static EDGEAE_INLINE __m256i weights(const std::int8_t* from) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    }
    static EDGEAE_INLINE I dot(I sum, __m256i weight, const Q* q) {
        return sum + (I)_mm256_madd_epi16(weight, _mm256_set1_epi32(load<std::int32_t>(q)));
    }
    static EDGEAE_INLINE void narrow(Q* to, F value) {
        const __m256i whole = _mm256_cvtps_epi32((__m256)value);
        store(to, _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1)));
    }
};

}  // namespace

extern const Machine avx2 = describe<Avx2>("avx2");

}  // namespace edgeae::ops

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

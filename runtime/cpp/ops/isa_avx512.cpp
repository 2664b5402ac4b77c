// AVX-512 without VNNI: x86-64 servers of 2017 and 2018. Bytes are widened to 16 bits, as for AVX2.
#include "chain.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
#define EDGEAE_TARGET "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"
#include "select.hpp"

#include "kernels.hpp"

namespace edgeae::ops {
namespace {

struct Avx512 {
    typedef float F __attribute__((vector_size(64)));
    typedef std::int32_t I __attribute__((vector_size(64)));
    using Q = std::int16_t;
    static constexpr int lanes = 16, vectors = 4, rows = 4, tile = 6, group = 2, offset = 0, matrix_side = 0;

    static EDGEAE_INLINE __m512i weights(const std::int8_t* from) {
        return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
    static EDGEAE_INLINE I dot(I sum, __m512i weight, const Q* q) {
        return sum + (I)_mm512_madd_epi16(weight, _mm512_set1_epi32(load<std::int32_t>(q)));
    }
    static EDGEAE_INLINE void narrow(Q* to, F value) {
        store(to, _mm512_cvtepi32_epi16(_mm512_cvtps_epi32((__m512)value)));
    }
};

}  // namespace

extern const Machine avx512 = describe<Avx512>("avx512");

}  // namespace edgeae::ops

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

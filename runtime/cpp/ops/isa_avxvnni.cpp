// AVX2 with AVX-VNNI: x86-64 processors since 2021 that lack AVX-512.
#include "chain.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
#define EDGEAE_TARGET "avx2,fma,avxvnni"
#include "select.hpp"

#include "kernels.hpp"

namespace edgeae::ops {
namespace {

struct AvxVnni {
    typedef float F __attribute__((vector_size(32)));
    typedef std::int32_t I __attribute__((vector_size(32)));
    using Q = std::uint8_t;
    static constexpr int lanes = 8, vectors = 4, rows = 3, tile = 3, group = 4, offset = 0, matrix_side = 0;

    static EDGEAE_INLINE __m256i weights(const std::int8_t* from) { return load<__m256i>(from); }
    static EDGEAE_INLINE I dot(I sum, __m256i weight, const Q* q) {
        return (I)_mm256_dpbusd_avx_epi32((__m256i)sum, _mm256_set1_epi32(load<std::int32_t>(q)), weight);
    }
    static EDGEAE_INLINE void narrow(Q* to, F value) {
        const __m256i whole = _mm256_cvtps_epi32((__m256)value);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        store(to, _mm_cvtsi128_si64(_mm_packus_epi16(words, words)));
    }
};

}  // namespace

extern const Machine avxvnni = describe<AvxVnni>("avxvnni");

}  // namespace edgeae::ops

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

// How AVX-512 with VNNI adds up bytes: for the files of the instruction sets that have it, after select.hpp.
#pragma once

#include "kernels.hpp"

namespace edgeae::ops {
namespace {

struct Vnni {
    typedef float F __attribute__((vector_size(64)));
    typedef std::int32_t I __attribute__((vector_size(64)));
    using Q = std::uint8_t;
    static constexpr int lanes = 16, vectors = 4, rows = 4, tile = 6, group = 4, offset = 0, matrix_side = 0;

    static EDGEAE_INLINE __m512i weights(const std::int8_t* from) { return load<__m512i>(from); }
    static EDGEAE_INLINE I dot(I sum, __m512i weight, const Q* q) {
        return (I)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(load<std::int32_t>(q)), weight);
    }
    static EDGEAE_INLINE void narrow(Q* to, F value) {
        store(to, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32((__m512)value)));
    }
};

}  // namespace
}  // namespace edgeae::ops

// NEON with dot products: arm64 processors since 2018. They multiply signed bytes only, so that activations are stored
// less by 128.
#include "chain.hpp"
#if defined(__aarch64__)
#include <arm_neon.h>
#if defined(__clang__)
#define EDGEAE_TARGET "dotprod"
#else
#define EDGEAE_TARGET "arch=armv8.2-a+dotprod"
#endif
#include "select.hpp"

#include "kernels.hpp"

namespace edgeae::ops {
namespace {

struct Dotprod {
    typedef float F __attribute__((vector_size(16)));
    typedef std::int32_t I __attribute__((vector_size(16)));
    using Q = std::int8_t;
    static constexpr int lanes = 4, vectors = 4, rows = 4, tile = 6, group = 4, offset = 128, matrix_side = 0;

    static EDGEAE_INLINE int8x16_t weights(const std::int8_t* from) { return vld1q_s8(from); }
    static EDGEAE_INLINE I dot(I sum, int8x16_t weight, const Q* q) {
        const int8x16_t same = vreinterpretq_s8_s32(vdupq_n_s32(load<std::int32_t>(q)));
        return (I)vdotq_s32((int32x4_t)sum, weight, same);
    }
    static EDGEAE_INLINE void narrow(Q* to, F value) {
        const int32x4_t whole = vsubq_s32(vcvtnq_s32_f32((float32x4_t)value), vdupq_n_s32(offset));
        const int16x4_t words = vmovn_s32(whole);
        const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
        __builtin_memcpy(to, &bytes, lanes);
    }
};

}  // namespace

extern const Machine dotprod = describe<Dotprod>("dotprod");

}  // namespace edgeae::ops

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

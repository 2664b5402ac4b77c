// Whatever every processor of the target has: SSE2 on x86-64, NEON on arm64. Vectors of 128 bits.
#include "kernels.hpp"

namespace edgeae::ops {
namespace {

struct Portable {
    typedef float F __attribute__((vector_size(16)));
    typedef std::int32_t I __attribute__((vector_size(16)));
    typedef std::int16_t Words __attribute__((vector_size(8)));
    typedef std::int8_t Bytes __attribute__((vector_size(4)));
    using Q = std::int16_t;
    static constexpr int lanes = 4, vectors = 4, rows = 2, tile = 2, group = 1, offset = 0, matrix_side = 0;

    static EDGEAE_INLINE Words weights(const std::int8_t* from) {
        return __builtin_convertvector(load<Bytes>(from), Words);
    }
    // 255 * 128 fits into 16 bits
    static EDGEAE_INLINE I dot(I sum, Words weight, const Q* q) {
        return sum + __builtin_convertvector(weight * *q, I);
    }
    static EDGEAE_INLINE void narrow(Q* to, F value) {
        const F rounder = 12582912.0f - F{};
        const I whole = (I)(value + rounder) - (I)rounder;
        for (int i = 0; i < lanes; ++i) to[i] = static_cast<Q>(whole[i]);
    }
};

}  // namespace

extern const Machine portable = describe<Portable>("portable");

}  // namespace edgeae::ops

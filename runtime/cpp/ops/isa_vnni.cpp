// AVX-512 with VNNI: x86-64 servers since 2019, AMD since Zen 4.
#include "chain.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
#define EDGEAE_TARGET "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
#include "select.hpp"

#include "vnni.hpp"

namespace edgeae::ops {

extern const Machine vnni = describe<Vnni>("vnni");

}  // namespace edgeae::ops

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

// AMX: x86-64 servers since 2023, which multiply whole matrices of bytes. A few rows and fp32 go as with VNNI.
//
// Source: Intel's Software Developer's Manual, volume 1, chapter 18, and volume 2, LDTILECFG and TDPBUSD.
#include "chain.hpp"
#if EDGEAE_HAS_AMX
#include <immintrin.h>
#define EDGEAE_TARGET "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8"
#include "select.hpp"

#include "vnni.hpp"

namespace edgeae::ops {
namespace {

struct Amx : Vnni {
    static constexpr int matrix_side = 32;  // two tiles of 16 rows by two of 16 outputs

    // Tiles are of 16 rows of 64 bytes. They are the thread's own, and given back.
    static void begin() {
        struct {
            std::uint8_t palette, start, reserved[14];
            std::uint16_t row_bytes[16];
            std::uint8_t rows[16];
        } config = {};
        config.palette = 1;
        for (int i = 0; i < 8; ++i) {
            config.row_bytes[i] = 64;
            config.rows[i] = 16;
        }
        __asm__ volatile("" : : "r"(&config) : "memory");
        _tile_loadconfig(&config);
    }
    static void end() { _tile_release(); }

    // Tiles 0 to 3 hold the sums, 4 and 5 inputs, 6 and 7 weights: what VNNI reads as vectors lies as tiles do. Beyond
    // the layer's inputs the weights are those of the next panel, and q is zero.
    template <bool more_rows, bool more_outputs>
    static void add_up(const std::int8_t* weight, int weight_step, int groups, const Q* q, int q_step, std::int32_t* sums) {
        __asm__ volatile("" ::: "memory");  // the instructions below do not tell compilers what they read
        _tile_zero(0);
        if (more_outputs) _tile_zero(1);
        if (more_rows) _tile_zero(2);
        if (more_rows && more_outputs) _tile_zero(3);
        for (int k = 0; k < groups; k += 16, q += 64, weight += 16 * static_cast<std::ptrdiff_t>(weight_step)) {
            _tile_loadd(4, q, q_step);
            _tile_loadd(6, weight, weight_step);
            _tile_dpbusd(0, 4, 6);
            if (more_rows) {
                _tile_loadd(5, q + 16 * q_step, q_step);
                _tile_dpbusd(2, 5, 6);
            }
            if (more_outputs) {
                _tile_loadd(7, weight + 64, weight_step);
                _tile_dpbusd(1, 4, 7);
            }
            if (more_rows && more_outputs) _tile_dpbusd(3, 5, 7);
        }
        constexpr int step = matrix_side * static_cast<int>(sizeof(std::int32_t));
        _tile_stored(0, sums, step);
        if (more_outputs) _tile_stored(1, sums + 16, step);
        if (more_rows) _tile_stored(2, sums + 16 * matrix_side, step);
        if (more_rows && more_outputs) _tile_stored(3, sums + 16 * matrix_side + 16, step);
        __asm__ volatile("" ::: "memory");
    }

    // sums [32, 32]: of up to 32 rows of q by one or two vectors of outputs, the first of which is at `weight`.
    static void multiply(const std::int8_t* weight, int weight_step, int groups, const Q* q, int q_step, int rows,
                         int vectors_left, std::int32_t* sums) {
        if (rows > 16 && vectors_left > 1) return add_up<true, true>(weight, weight_step, groups, q, q_step, sums);
        if (rows > 16) return add_up<true, false>(weight, weight_step, groups, q, q_step, sums);
        if (vectors_left > 1) return add_up<false, true>(weight, weight_step, groups, q, q_step, sums);
        add_up<false, false>(weight, weight_step, groups, q, q_step, sums);
    }
};

}  // namespace

extern const Machine amx = describe<Amx>("amx");

}  // namespace edgeae::ops

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

// A dense chain: what one node of the operator library computes, packed for one instruction set.
//
//   x [rows, width] -> (x - shift) * factor -> layers -> (y * out_factor + out_shift), or its error against the input
//
// Everything here is plain data, so that files compiled for different instruction sets share no inline function: the
// linker keeps one copy of each, and the one it keeps might not run on an older processor.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgeae::ops {

enum class Activation { linear, relu, leaky_relu, elu, gelu, silu, tanh, sigmoid };
enum class Score { none, squared, absolute, cross_entropy };

constexpr std::size_t alignment = 64;  // bytes: a cache line, and the widest vector
constexpr int row_step = 16;           // rows of scratch memory are padded to this many numbers
constexpr int rows_together = 8;       // rows that go through a layer before the next layer begins

constexpr int padded(int size) { return (size + row_step - 1) / row_step * row_step; }

struct Layer {
    int in = 0, out = 0;
    Activation activation = Activation::linear;
    float alpha = 0;                // of leaky_relu and elu
    const float* bias = nullptr;    // [padded(out)]
    const float* weight = nullptr;  // fp32 panels, see pack.hpp; null in an int8 chain

    // int8: y = (sum over k of (q[k] - zero) * w[n, k]) * input_scale * scale[n] + bias[n]
    const std::int8_t* quantised = nullptr;       // panels
    const float* scale = nullptr;                 // [padded(out)], one per output channel
    const std::int32_t* correction = nullptr;     // [padded(out)]: (storage offset - zero) * sum over k of w[n, k]
    float input_scale = 0;                        // 0: chosen for every row from its largest magnitude
    int input_zero = 0;                           // 0 for inputs that are never negative, which get all 255 steps
};

struct Chain {
    int width = 0, out_width = 0, largest = 0;  // largest: of all layers' outputs
    bool bytes = false;                         // x is uint8
    const float *shift = nullptr, *factor = nullptr;          // [padded(width)] or null
    const float *out_factor = nullptr, *out_shift = nullptr;  // [padded(out_width)] or null
    const Layer* layers = nullptr;
    int count = 0;
    Score score = Score::none;
    const float* weight = nullptr;  // [padded(width)] or null: multiplies the difference
    float score_factor = 1;
    bool clip = false;  // cross_entropy: x may lie outside 0..1
};

// What a file compiled for one instruction set offers, and how it wants weights to lie.
struct Machine {
    const char* name;
    int lanes;    // 32-bit numbers in a vector
    int vectors;  // vectors in a panel
    int group;    // int8: consecutive inputs whose products one instruction adds up
    int offset;   // int8: what activations are stored less by
    int activation_bytes;  // int8: of a stored activation

    // x: [rows, width] float or uint8; out: [rows] or [rows, out_width]; scratch: scratch_bytes(), aligned.
    void (*run)(const Chain& chain, const void* x, float* out, std::int64_t rows, char* scratch);
};

// Scratch memory of a block of rows: the normalised input, two rows that layers read and write, quantised inputs.
inline std::size_t scratch_bytes(const Chain& chain, int rows) {
    const std::size_t widest = static_cast<std::size_t>(padded(chain.largest > chain.width ? chain.largest : chain.width));
    return static_cast<std::size_t>(rows) *
           (sizeof(float) * (static_cast<std::size_t>(padded(chain.width)) + 2 * widest) + sizeof(std::int16_t) * widest);
}

}  // namespace edgeae::ops

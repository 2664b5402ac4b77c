// A dense chain: what one node of the operator library computes, packed for one instruction set.
//
//   x [rows, width] -> (x - shift) * factor -> layers -> (y * out_factor + out_shift), or its error against the input
//
// Everything here is plain data, so that files compiled for different instruction sets share no inline function: the
// linker keeps one copy of each, and the one it keeps might not run on an older processor.
#pragma once

#include <cstddef>
#include <cstdint>

// AMX needs the operating system's leave, and a compiler that knows it.
#if defined(__x86_64__) && defined(__linux__) && (__has_include(<amxint8intrin.h>) || __has_include(<amxintrin.h>))
#define EDGEAE_HAS_AMX 1
#else
#define EDGEAE_HAS_AMX 0
#endif

namespace edgeae::ops {

enum class Activation { linear, relu, leaky_relu, elu, gelu, silu, tanh, sigmoid };
enum class Score { none, squared, absolute, cross_entropy };

constexpr std::size_t alignment = 64;  // bytes: a cache line, and the widest vector
constexpr int row_step = 16;           // rows of scratch memory are padded to this many numbers
constexpr int rows_together = 8;       // a call of more rows goes through the layers in blocks, see blocks.hpp
constexpr int block_rows = 96;         // rows of a block; the last one takes up to `rows_together` more
constexpr int most_rows = block_rows + rows_together;

constexpr std::size_t beyond = 4096;   // readable bytes after the weights: a matrix of bytes may end after them

constexpr int padded(int size) { return (size + row_step - 1) / row_step * row_step; }
constexpr int padded_bytes(int size) { return (size + 63) / 64 * 64; }  // of a row of quantised inputs in a block

// The most rows that go through the layers together, in a call of `all` rows.
constexpr int rows_at_once(std::int64_t all) {
    return all < most_rows ? static_cast<int>(all) : most_rows;
}

// How many of those that are left are next: after a block at least `rows_together` + 1.
constexpr int next_rows(std::int64_t left) { return left <= most_rows ? static_cast<int>(left) : block_rows; }

struct Layer {
    int in = 0, out = 0;
    Activation activation = Activation::linear;
    float alpha = 0;                // of leaky_relu and elu
    int keep = 0;                   // after the activation: the largest outputs that stay, the others become 0; 0: all
    int active = 0;                 // inputs that are not zero, as far as there are no ties; 0: any number
    const float* bias = nullptr;    // [padded(out)]
    const float* weight = nullptr;  // fp32 panels, see pack.hpp; null in an int8 chain

    // int8: y = (sum over k of (q[k] - zero) * w[n, k]) * input_scale * scale[n] + bias[n]
    const std::int8_t* quantised = nullptr;       // panels
    const float* scale = nullptr;                 // [padded(out)], one per output channel
    const std::int32_t* correction = nullptr;     // [padded(out)]: (storage offset - zero) * sum over k of w[n, k]
    float input_scale = 0;                        // 0: chosen for every row from its largest magnitude
    int input_zero = 0;                           // 0 for inputs that are never negative, which get all 255 steps
    const float* input_factor = nullptr;          // [padded(in)] or null: multiplies the input before it is quantised
};

struct Chain {
    int width = 0, out_width = 0, largest = 0;  // largest: of all layers' outputs, those of the score among them
    bool bytes = false;                         // x is uint8
    const float *shift = nullptr, *factor = nullptr;          // [padded(width)] or null
    const float *out_factor = nullptr, *out_shift = nullptr;  // [padded(out_width)] or null
    const Layer* layers = nullptr;
    int count = 0;
    Score score = Score::none;
    const float* weight = nullptr;  // [padded(width)] or null: multiplies the difference
    float score_factor = 1;
    bool clip = false;  // cross_entropy: x may lie outside 0..1
    float score_shift = 0;

    // More of a score, see README.md. Layers here are fp32, in an int8 chain too.
    const Layer* whitening = nullptr;   // squared: what the difference goes through first, [width] -> [width]
    const Layer* prototypes = nullptr;  // [width] -> one number for each prototype, of which the smallest counts
    const float *middle = nullptr, *spread = nullptr;  // [padded(width)] or null: (x - middle) * spread is what it reads
    float distance_factor = 0;                         // of the sum of the squares of that
    int gaussian = 0;             // the number, from 1, of the layer that gives means, then as many log variances
    float divergence_factor = 0;  // of the sum of mean² + exp(log variance) - log variance
    float log_variance_bound = 0; // log variance = bound * tanh(output / bound); 0: without bound
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

// Scratch memory of a block of rows: the normalised input, two rows that layers read and write, quantised inputs; those
// of a large block twice, and for whole matrices of 32 rows.
inline std::size_t scratch_bytes(const Chain& chain, int rows) {
    const int widest = chain.largest > chain.width ? chain.largest : chain.width;
    const int integers = rows <= rows_together ? rows : 2 * ((rows + 31) / 32 * 32);
    return static_cast<std::size_t>(rows) * sizeof(float) *
               (static_cast<std::size_t>(padded(chain.width)) + 2 * static_cast<std::size_t>(padded(widest))) +
           static_cast<std::size_t>(integers) * sizeof(std::int16_t) * static_cast<std::size_t>(padded_bytes(widest));
}

}  // namespace edgeae::ops

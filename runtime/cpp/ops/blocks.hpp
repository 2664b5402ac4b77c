// A layer for a block of rows, which share every weight that is read. Part of kernels.hpp.
//
// A tile of `tile` rows by a panel of outputs is added up in registers. Weights pass by in slabs that stay in the
// first-level cache while all rows of the block use them; between two slabs the sums wait in y. Where a processor
// multiplies matrices of bytes, M::multiply does that for int8. A sum is added up in the same order wherever its row
// stands in a block.
#pragma once

namespace edgeae::ops {
namespace {

constexpr int slab_bytes = 24 * 1024;  // of a first-level cache of 32 KiB or more

// What becomes of a layer's sums: numbers in y, or at once what the next int8 layer reads.
template <class M>
struct Target {
    float* y;  // [rows, y_step]
    int y_step;
    typename M::Q* q;  // [rows, q_step], or null
    int q_step;
    float inverse, zero;  // of the next layer's input
    bool relu;

    EDGEAE_INLINE void put(int row, int n, typename M::F value) const {
        using F = typename M::F;
        using A = Math<M>;
        if (relu) value = A::at_least(value, F{});
        if (q == nullptr) return store(y + row * y_step + n, value);
        narrow<M>(q + row * q_step + n, value * inverse + zero);
    }
};

template <class M>
struct Slab {
    const Layer& layer;
    int first;     // output
    int from, to;  // inputs, int8: groups of them
    const float* x;          // fp32 inputs [rows, x_step]
    const typename M::Q* q;  // int8 inputs [rows, x_step]
    int x_step;
    const float* scales;  // int8: of each row's inputs
    const Target<M>& target;
};

template <class M, int vectors, int rows>
void tile_floats(const Slab<M>& slab, int row) {
    using F = typename M::F;
    constexpr int width = vectors * M::lanes;
    const Layer& layer = slab.layer;
    const float* weight = layer.weight + static_cast<std::ptrdiff_t>(slab.first) * layer.in + slab.from * width;
    const float* x = slab.x + row * slab.x_step;
    float* y = slab.target.y + row * slab.target.y_step + slab.first;
    const bool begins = slab.from == 0, ends = slab.to == layer.in;
    F sums[rows][vectors];
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vectors; ++v)
            sums[r][v] = load<F>(begins ? layer.bias + slab.first + v * M::lanes : y + r * slab.target.y_step + v * M::lanes);
    for (int k = slab.from; k < slab.to; ++k, weight += width) {
        F w[vectors];
        for (int v = 0; v < vectors; ++v) w[v] = load<F>(weight + v * M::lanes);
        for (int r = 0; r < rows; ++r)
            for (int v = 0; v < vectors; ++v) sums[r][v] += w[v] * x[r * slab.x_step + k];
    }
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vectors; ++v) {
            if (ends)
                slab.target.put(row + r, slab.first + v * M::lanes, sums[r][v]);
            else
                store(y + r * slab.target.y_step + v * M::lanes, sums[r][v]);
        }
}

template <class M, int vectors, int rows>
void tile_bytes(const Slab<M>& slab, int row) {
    using F = typename M::F;
    using I = typename M::I;
    constexpr int width = vectors * M::lanes * M::group;
    const Layer& layer = slab.layer;
    const int groups = (layer.in + M::group - 1) / M::group;
    const std::int8_t* weight =
        layer.quantised + static_cast<std::ptrdiff_t>(slab.first) * groups * M::group + slab.from * width;
    const typename M::Q* q = slab.q + row * slab.x_step;
    float* y = slab.target.y + row * slab.target.y_step + slab.first;
    I sums[rows][vectors];
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vectors; ++v)
            sums[r][v] = slab.from == 0 ? load<I>(layer.correction + slab.first + v * M::lanes)
                                        : load<I>(y + r * slab.target.y_step + v * M::lanes);
    for (int k = slab.from; k < slab.to; ++k, weight += width)
        for (int v = 0; v < vectors; ++v) {
            const auto w = M::weights(weight + v * M::lanes * M::group);
            for (int r = 0; r < rows; ++r) sums[r][v] = M::dot(sums[r][v], w, q + r * slab.x_step + k * M::group);
        }
    for (int v = 0; v < vectors; ++v) {
        const int n = slab.first + v * M::lanes;
        const F scale = load<F>(layer.scale + n), bias = load<F>(layer.bias + n);
        for (int r = 0; r < rows; ++r) {
            if (slab.to == groups)
                slab.target.put(row + r, n,
                                __builtin_convertvector(sums[r][v], F) * (scale * slab.scales[row + r]) + bias);
            else
                store(y + r * slab.target.y_step + v * M::lanes, sums[r][v]);
        }
    }
}

template <class M, int vectors, int rows = M::tile>
EDGEAE_INLINE void tile_rows(const Slab<M>& slab, int row, int rows_left) {
    if constexpr (rows > 1) {
        if (rows_left < rows) return tile_rows<M, vectors, rows - 1>(slab, row, rows_left);
    }
    if (slab.layer.weight != nullptr)
        tile_floats<M, vectors, rows>(slab, row);
    else
        tile_bytes<M, vectors, rows>(slab, row);
}

template <class M, int vectors = M::vectors>
EDGEAE_INLINE void tile(const Slab<M>& slab, int vectors_left, int rows) {
    if constexpr (vectors > 1) {
        if (vectors_left < vectors) return tile<M, vectors - 1>(slab, vectors_left, rows);
    }
    for (int row = 0; row < rows; row += M::tile) tile_rows<M, vectors>(slab, row, rows - row);
}

template <class M>
void multiply_tiles(const Layer& layer, int rows, const float* x, const typename M::Q* q, int x_step,
                    const float* scales, const Target<M>& target) {
    const bool floats = layer.weight != nullptr;
    const int vectors = (layer.out + M::lanes - 1) / M::lanes;
    const int steps = floats ? layer.in : (layer.in + M::group - 1) / M::group;
    for (int v = 0; v < vectors; v += M::vectors) {
        const int left = vectors - v, wide = left < M::vectors ? left : M::vectors;
        const int most = slab_bytes / (wide * M::lanes * (floats ? static_cast<int>(sizeof(float)) : M::group));
        const int slabs = (steps + most - 1) / most, size = (steps + slabs - 1) / slabs;
        for (int from = 0; from < steps; from += size) {
            const int to = from + size < steps ? from + size : steps;
            tile<M>({layer, v * M::lanes, from, to, x, q, x_step, scales, target}, left, rows);
        }
    }
}

// Makes a processor ready to multiply matrices, for as long as it lives.
template <class M, bool has_them>
struct Matrices {
    explicit Matrices(bool wanted) : wanted_(wanted) {
        if (wanted) M::begin();
    }
    ~Matrices() {
        if (wanted_) M::end();
    }
    Matrices(const Matrices&) = delete;
    Matrices& operator=(const Matrices&) = delete;

private:
    bool wanted_;
};

template <class M>
struct Matrices<M, false> {
    explicit Matrices(bool) {}
};

// The sums of blocks of 32 rows by 32 outputs, as a processor that multiplies matrices of bytes gives them.
template <class M>
void multiply_matrices(const Layer& layer, int rows, const typename M::Q* q, int q_step, const float* scales,
                       const Target<M>& target) {
    using F = typename M::F;
    using I = typename M::I;
    constexpr int side = M::matrix_side, pair = side / M::lanes;
    alignas(alignment) std::int32_t sums[side * side];
    const int vectors = (layer.out + M::lanes - 1) / M::lanes;
    const int groups = (layer.in + M::group - 1) / M::group;
    for (int v = 0; v < vectors; v += pair) {
        const int panel = v / M::vectors * M::vectors, left = vectors - panel;
        const int wide = left < M::vectors ? left : M::vectors, here = vectors - v < pair ? vectors - v : pair;
        const std::int8_t* weight = layer.quantised +
            (static_cast<std::ptrdiff_t>(panel) * groups + (v - panel)) * M::lanes * M::group;
        for (int row = 0; row < rows; row += side) {
            const int high = rows - row < side ? rows - row : side;
            M::multiply(weight, wide * M::lanes * M::group, groups, q + row * q_step, q_step, high, here, sums);
            for (int i = 0; i < here; ++i) {
                const int n = (v + i) * M::lanes;
                const F scale = load<F>(layer.scale + n), bias = load<F>(layer.bias + n);
                const I correction = load<I>(layer.correction + n);
                for (int r = 0; r < high; ++r) {
                    const I sum = load<I>(sums + r * side + i * M::lanes) + correction;
                    target.put(row + r, n, __builtin_convertvector(sum, F) * (scale * scales[row + r]) + bias);
                }
            }
        }
    }
}

// Zeros after each row's `size` numbers, up to what a matrix of bytes reads: the weights there are any.
template <class M>
void clear_padding(typename M::Q* q, int rows, int q_step, int size) {
    if (size == q_step) return;
    for (int r = 0; r < rows; ++r)
        __builtin_memset(q + r * q_step + size, 0, static_cast<std::size_t>(q_step - size) * sizeof *q);
}

// A layer for a block of more than `rows_together` rows. `next`: the layer that follows, if all that it needs is this
// one's output as bytes. Returns whether that was done: then `after` holds them, and y nothing.
template <class M>
bool run_block(const Layer& layer, const Layer* next, int rows, const float* x, int x_step, float* y, int y_step,
               typename M::Q* q, typename M::Q* after, bool quantised) {
    float scales[most_rows];
    const int q_step = padded_bytes(layer.in);
    const bool relu = layer.activation == Activation::relu, simple = (relu || layer.activation == Activation::linear) && layer.keep == 0;
    Target<M> target = {y, y_step, nullptr, 0, 0, 0, relu};
    if (layer.weight != nullptr) {
        multiply_tiles<M>(layer, rows, x, nullptr, x_step, nullptr, target);
    } else {
        for (int r = 0; r < rows; ++r)
            scales[r] = quantised ? layer.input_scale : quantise<M>(layer, x + r * x_step, q + r * q_step);
        clear_padding<M>(q, rows, q_step, layer.in);
        if (next != nullptr && simple && next->weight == nullptr && next->input_scale > 0 &&
            next->input_factor == nullptr) {
            target.q = after;
            target.q_step = padded_bytes(layer.out);
            target.inverse = reciprocal(next->input_scale);
            target.zero = static_cast<float>(next->input_zero);
        }
        if constexpr (M::matrix_side > 0)
            multiply_matrices<M>(layer, rows, q, q_step, scales, target);
        else
            multiply_tiles<M>(layer, rows, nullptr, q, q_step, scales, target);
    }
    if (!simple)
        for (int r = 0; r < rows; ++r) {
            if (!relu) activate<M>(layer, y + r * y_step);
            if (layer.keep > 0) keep_largest<M>(layer, y + r * y_step);
        }
    return target.q != nullptr;
}

// A layer for up to `most_rows` rows: x [rows, x_step] -> y [rows, y_step], whose rows are written to whole vectors.
// q: memory for the inputs at int8, as scratch_bytes() has it for rows of x_step numbers.
template <class M>
void run_layer(const Layer& layer, int rows, const float* x, int x_step, float* y, int y_step, typename M::Q* q) {
    if (rows > rows_together)
        run_block<M>(layer, nullptr, rows, x, x_step, y, y_step, q, nullptr, false);
    else
        run_few<M>(layer, rows, x, x_step, y, y_step, q);
}

}  // namespace
}  // namespace edgeae::ops

// The arithmetic, once for all instruction sets. A file for one of them selects it by pragma, says in a type `M` how
// wide vectors are and how int8 products are added up, includes this and instantiates `run<M>`.
//
// Vectors are the compilers' vector extensions (GCC, clang): ordinary arithmetic that becomes whatever instructions the
// selected set has. Nothing of the standard library's templates may be used here, see chain.hpp.
#pragma once

#include "chain.hpp"

namespace edgeae::ops {
namespace {

#define EDGEAE_INLINE inline __attribute__((always_inline))

template <class V, class T>
EDGEAE_INLINE V load(const T* from) {
    V value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}

template <class V, class T>
EDGEAE_INLINE void store(T* to, V value) {
    __builtin_memcpy(to, &value, sizeof value);
}

template <class M>
struct Math {
    using F = typename M::F;
    using I = typename M::I;

    static EDGEAE_INLINE F all(float value) { return value - F{}; }
    // The order of operands lets NaN through.
    static EDGEAE_INLINE F at_least(F x, F low) { return x < low ? low : x; }
    static EDGEAE_INLINE F at_most(F x, F high) { return x > high ? high : x; }
    static EDGEAE_INLINE F magnitude(F x) { return (F)((I)x & 0x7fffffff); }

    static EDGEAE_INLINE float sum(F x) {
        float total = 0;
        for (int i = 0; i < M::lanes; ++i) total += x[i];
        return total;
    }

    // Cephes' expf: within 2 ulp from -87 to 88, constant beyond.
    static EDGEAE_INLINE F exp(F x) {
        const F rounder = all(12582912.0f);  // 1.5 * 2^23: adding it leaves a whole number in the low bits
        x = at_most(at_least(x, all(-87.0f)), all(88.0f));
        const F shifted = x * 1.44269504088896341f + rounder;
        const F n = shifted - rounder;
        const F r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
        F p = r * 1.9875691500e-4f + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        p = p * (r * r) + (r + 1.0f);
        return (F)((I)p + (((I)shifted - (I)rounder) << 23));
    }

    static EDGEAE_INLINE F sigmoid(F x) { return 1.0f / (1.0f + exp(-x)); }

    // The rational approximation that Eigen and ONNX Runtime use: within 4 ulp.
    static EDGEAE_INLINE F tanh(F x) {
        x = at_most(at_least(x, all(-9.0f)), all(9.0f));
        const F s = x * x;
        F p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
        p = p * s + -8.60467152213735e-11f;
        p = p * s + 5.12229709037114e-08f;
        p = p * s + 1.48572235717979e-05f;
        p = p * s + 6.37261928875436e-04f;
        p = p * s + 4.89352455891786e-03f;
        F q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
        q = q * s + 2.26843463243900e-03f;
        q = q * s + 4.89352518554385e-03f;
        return x * p / q;
    }

    // Abramowitz and Stegun 7.1.26: within 1.5e-7.
    static EDGEAE_INLINE F erf(F x) {
        const F a = magnitude(x);
        const F t = 1.0f / (a * 0.3275911f + 1.0f);
        F p = t * 1.061405429f + -1.453152027f;
        p = p * t + 1.421413741f;
        p = p * t + -0.284496736f;
        p = p * t + 0.254829592f;
        const F y = 1.0f - p * t * exp(-a * a);
        return x < F{} ? -y : y;
    }

    // log(1 + exp(x)), with log(1 + t) = 2 artanh(t / (2 + t)), whose argument is at most 1/3.
    static EDGEAE_INLINE F softplus(F x) {
        const F t = exp(-magnitude(x));
        const F s = t / (t + 2.0f);
        const F q = s * s;
        F p = q * (2.0f / 13) + 2.0f / 11;
        p = p * q + 2.0f / 9;
        p = p * q + 2.0f / 7;
        p = p * q + 2.0f / 5;
        p = p * q + 2.0f / 3;
        p = p * q + 2.0f;
        return p * s + at_least(x, F{});
    }

    static EDGEAE_INLINE F apply(Activation kind, F x, float alpha) {
        switch (kind) {
            case Activation::relu: return at_least(x, F{});
            case Activation::leaky_relu: return x < F{} ? x * alpha : x;
            case Activation::elu: return x < F{} ? (exp(x) - 1.0f) * alpha : x;
            case Activation::gelu: return x * 0.5f * (erf(x * 0.70710678118654752f) + 1.0f);
            case Activation::silu: return x * sigmoid(x);
            case Activation::tanh: return tanh(x);
            case Activation::sigmoid: return sigmoid(x);
            case Activation::linear: break;
        }
        return x;
    }
};

// One panel of a layer for a few rows: what the functions below read and where they write.
template <class M>
struct Panel {
    const Layer& layer;
    int first;             // output
    const float* x;        // fp32 inputs [rows, x_step]
    const typename M::Q* q;  // int8 inputs [rows, x_step], in whole groups
    int x_step;
    const float* scales;  // int8: of each row's inputs
    float* y;             // outputs [rows, y_step], from `first` on
    int y_step;
};

// Every weight is read once for all rows, in the order in which it lies. `steps` chains of additions run side by side,
// so that enough are under way to hide the latency of each. Prefetching by hand costs 5 to 10 % at one row.
template <class M, int vectors, int rows>
void multiply_floats(const Panel<M>& panel) {
    using F = typename M::F;
    constexpr int steps = vectors * rows >= 8 ? 1 : (vectors * rows >= 4 ? 2 : 4);
    constexpr int width = vectors * M::lanes;
    const int in = panel.layer.in, x_step = panel.x_step;
    const float* weight = panel.layer.weight + static_cast<std::ptrdiff_t>(panel.first) * in;
    const float* bias = panel.layer.bias + panel.first;
    const float* x = panel.x;
    F sums[steps][rows][vectors];
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vectors; ++v) {
            sums[0][r][v] = load<F>(bias + v * M::lanes);
            for (int s = 1; s < steps; ++s) sums[s][r][v] = F{};
        }
    int k = 0;
    for (; k + steps <= in; k += steps, weight += steps * width)
        for (int s = 0; s < steps; ++s)
            for (int v = 0; v < vectors; ++v) {
                const F w = load<F>(weight + s * width + v * M::lanes);
                for (int r = 0; r < rows; ++r) sums[s][r][v] += w * x[r * x_step + k + s];
            }
    for (; k < in; ++k, weight += width)
        for (int v = 0; v < vectors; ++v) {
            const F w = load<F>(weight + v * M::lanes);
            for (int r = 0; r < rows; ++r) sums[0][r][v] += w * x[r * x_step + k];
        }
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vectors; ++v) {
            F total = sums[0][r][v];
            for (int s = 1; s < steps; ++s) total += sums[s][r][v];
            store(panel.y + r * panel.y_step + v * M::lanes, total);
        }
}

// The same with int8 weights.
template <class M, int vectors, int rows>
void multiply_bytes(const Panel<M>& panel) {
    using F = typename M::F;
    using I = typename M::I;
    constexpr int steps = vectors * rows >= 8 ? 1 : (vectors * rows >= 4 ? 2 : 4);
    constexpr int width = vectors * M::lanes * M::group;
    const Layer& layer = panel.layer;
    const int groups = (layer.in + M::group - 1) / M::group, q_step = panel.x_step;
    const std::int8_t* weight = layer.quantised + static_cast<std::ptrdiff_t>(panel.first) * groups * M::group;
    const typename M::Q* q = panel.q;
    I sums[steps][rows][vectors];
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vectors; ++v) {
            sums[0][r][v] = load<I>(layer.correction + panel.first + v * M::lanes);
            for (int s = 1; s < steps; ++s) sums[s][r][v] = I{};
        }
    int k = 0;
    for (; k + steps <= groups; k += steps, weight += steps * width)
        for (int s = 0; s < steps; ++s)
            for (int v = 0; v < vectors; ++v) {
                const auto w = M::weights(weight + s * width + v * M::lanes * M::group);
                for (int r = 0; r < rows; ++r)
                    sums[s][r][v] = M::dot(sums[s][r][v], w, q + r * q_step + (k + s) * M::group);
            }
    for (; k < groups; ++k, weight += width)
        for (int v = 0; v < vectors; ++v) {
            const auto w = M::weights(weight + v * M::lanes * M::group);
            for (int r = 0; r < rows; ++r) sums[0][r][v] = M::dot(sums[0][r][v], w, q + r * q_step + k * M::group);
        }
    for (int v = 0; v < vectors; ++v) {
        const int n = panel.first + v * M::lanes;
        const F scale = load<F>(layer.scale + n), bias = load<F>(layer.bias + n);
        for (int r = 0; r < rows; ++r) {
            I total = sums[0][r][v];
            for (int s = 1; s < steps; ++s) total += sums[s][r][v];
            const F y = __builtin_convertvector(total, F) * (scale * panel.scales[r]) + bias;
            store(panel.y + r * panel.y_step + v * M::lanes, y);
        }
    }
}

// Makes constants of how many vectors and rows are left.
template <class M, int vectors, int rows = M::rows>
EDGEAE_INLINE void multiply_rows(const Panel<M>& panel, int rows_left) {
    if constexpr (rows > 1) {
        if (rows_left < rows) return multiply_rows<M, vectors, rows - 1>(panel, rows_left);
    }
    if (panel.layer.weight != nullptr)
        multiply_floats<M, vectors, rows>(panel);
    else
        multiply_bytes<M, vectors, rows>(panel);
}

template <class M, int vectors = M::vectors>
EDGEAE_INLINE void multiply(const Panel<M>& panel, int vectors_left, int rows_left) {
    if constexpr (vectors > 1) {
        if (vectors_left < vectors) return multiply<M, vectors - 1>(panel, vectors_left, rows_left);
    }
    multiply_rows<M, vectors>(panel, rows_left);
}

// Of a scale; of zero, or of a number so small that it would overflow: zero.
EDGEAE_INLINE float reciprocal(float scale) { return scale > 1e-37f ? 1.0f / scale : 0.0f; }

template <class M>
EDGEAE_INLINE void narrow(typename M::Q* to, typename M::F value) {
    using F = typename M::F;
    value = value > F{} ? value : F{};  // NaN becomes 0: low bounds compare first here, unlike at_least
    M::narrow(to, Math<M>::at_most(value, Math<M>::all(255.0f)));
}

// Quantise one row of `size` numbers whose padding is readable, and return its scale.
template <class M>
float quantise(const Layer& layer, const float* x, typename M::Q* q) {
    using F = typename M::F;
    using A = Math<M>;
    const int size = layer.in;
    const float steps = layer.input_zero == 0 ? 255.0f : 127.0f;
    float scale = layer.input_scale;
    if (scale == 0) {
        F largest{};
        int i = 0;
        for (; i + M::lanes <= size; i += M::lanes) {
            const F value = A::magnitude(load<F>(x + i));
            largest = value > largest ? value : largest;
        }
        float found = 0;
        for (int lane = 0; lane < M::lanes; ++lane) found = largest[lane] > found ? largest[lane] : found;
        for (; i < size; ++i) {
            const float value = x[i] < 0 ? -x[i] : x[i];
            found = value > found ? value : found;
        }
        scale = found / steps;
    }
    const float inverse = reciprocal(scale);
    const F zero = A::all(static_cast<float>(layer.input_zero));
    for (int i = 0; i < size; i += M::lanes) {
        F value = load<F>(x + i);
        if (layer.input_factor != nullptr) value *= load<F>(layer.input_factor + i);
        narrow<M>(q + i, value * inverse + zero);
    }
    return scale;  // q is written to whole vectors, so to whole groups; the weights of what is beyond `size` are zero
}

template <class M>
void normalise(const Chain& chain, const void* x, std::int64_t row, float* to) {
    using F = typename M::F;
    const int width = chain.width;
    if (chain.bytes) {
        const std::uint8_t* from = static_cast<const std::uint8_t*>(x) + row * width;
        for (int i = 0; i < width; ++i) to[i] = from[i];
    } else {
        __builtin_memcpy(to, static_cast<const float*>(x) + row * width, sizeof(float) * static_cast<std::size_t>(width));
    }
    for (int i = width; i < padded(width); ++i) to[i] = 0;
    if (chain.shift == nullptr && chain.factor == nullptr) return;
    for (int i = 0; i < width; i += M::lanes) {
        F value = load<F>(to + i);
        if (chain.shift != nullptr) value -= load<F>(chain.shift + i);
        if (chain.factor != nullptr) value *= load<F>(chain.factor + i);
        store(to + i, value);
    }
}

template <class M, Activation kind>
void activate_as(const Layer& layer, float* y) {
    using F = typename M::F;
    for (int i = 0; i < layer.out; i += M::lanes)
        store(y + i, Math<M>::apply(kind, load<F>(y + i), layer.alpha));
}

template <class M>
void activate(const Layer& layer, float* y) {
    switch (layer.activation) {
        case Activation::linear: return;
        case Activation::relu: return activate_as<M, Activation::relu>(layer, y);
        case Activation::leaky_relu: return activate_as<M, Activation::leaky_relu>(layer, y);
        case Activation::elu: return activate_as<M, Activation::elu>(layer, y);
        case Activation::gelu: return activate_as<M, Activation::gelu>(layer, y);
        case Activation::silu: return activate_as<M, Activation::silu>(layer, y);
        case Activation::tanh: return activate_as<M, Activation::tanh>(layer, y);
        case Activation::sigmoid: return activate_as<M, Activation::sigmoid>(layer, y);
    }
}

}  // namespace
}  // namespace edgeae::ops

#include "sparse.hpp"

namespace edgeae::ops {
namespace {

// A layer for a few rows: panel after panel, so that one that was fetched from memory for the first is near for the others.
template <class M>
void run_few(const Layer& layer, int rows, const float* x, int x_step, float* y, int y_step, typename M::Q* q) {
    float scales[rows_together];
    if (layer.weight == nullptr)
        for (int r = 0; r < rows; ++r) scales[r] = quantise<M>(layer, x + r * x_step, q + r * x_step);
    const int vectors = (layer.out + M::lanes - 1) / M::lanes;
    for (int v = 0; v < vectors; v += M::vectors)
        for (int r = 0; r < rows; r += M::rows) {
            const int first = v * M::lanes;
            const Panel<M> panel = {layer,  first,      x + r * x_step,         q + r * x_step,
                                    x_step, scales + r, y + r * y_step + first, y_step};
            multiply<M>(panel, vectors - v, rows - r);
        }
    for (int r = 0; r < rows; ++r) activate<M>(layer, y + r * y_step);
    if (layer.keep > 0)
        for (int r = 0; r < rows; ++r) keep_largest<M>(layer, y + r * y_step);
}

}  // namespace
}  // namespace edgeae::ops

#include "blocks.hpp"
#include "tails.hpp"

namespace edgeae::ops {
namespace {

template <class M>
void run_rows(const Chain& chain, const void* x, float* out, std::int64_t first, int rows, char* scratch) {
    const int step = padded(chain.width);
    const int inner = padded(chain.largest > chain.width ? chain.largest : chain.width);
    float* normal = reinterpret_cast<float*>(scratch);
    float* pair[2] = {normal + rows * step, normal + rows * (step + inner)};
    typename M::Q* q = reinterpret_cast<typename M::Q*>(normal + rows * (step + 2 * inner));
    typename M::Q* spare = q + (rows + 31) / 32 * 32 * padded_bytes(inner);  // of blocks only
    const float* target = normal;
    // Rows stay where they lie, but not for fp32 tiles, which would fetch them from memory in small pieces.
    const bool in_pieces = rows > rows_together && chain.layers->weight != nullptr;
    if (!chain.bytes && chain.shift == nullptr && chain.factor == nullptr && step == chain.width && !in_pieces)
        target = static_cast<const float*>(x) + first * step;
    else
        for (int r = 0; r < rows; ++r) normalise<M>(chain, x, first + r, normal + r * step);
    const float* from = target;
    int from_step = step;
    bool quantised = false;
    float* own_out = out + first * (chain.score == Score::none ? chain.out_width : 1);
    for (int i = 0; i < chain.count; ++i) {
        float* to = pair[i % 2];
        const Layer& layer = chain.layers[i];
        if (rows > rows_together) {
            const Layer* next = i + 1 < chain.count && i + 1 != chain.gaussian ? &layer + 1 : nullptr;
            quantised = run_block<M>(layer, next, rows, from, from_step, to, inner, q, spare, quantised);
            typename M::Q* const other = spare;
            spare = q;
            q = other;
        } else if (is_sparse<M>(layer)) {
            run_sparse<M>(layer, rows, pair[(i + 1) % 2], to, inner, q);
        } else {
            run_few<M>(layer, rows, from, from_step, to, inner, q);
        }
        if (i + 1 == chain.gaussian) diverge<M>(chain, rows, to, inner, own_out);
        from = to;
        from_step = inner;
    }
    end_rows<M>(chain, rows, target, pair[(chain.count - 1) % 2], pair[chain.count % 2], inner, q, own_out);
}

template <class M>
void run(const Chain& chain, const void* x, float* out, std::int64_t rows, char* scratch) {
    [[maybe_unused]] const Matrices<M, (M::matrix_side > 0)> matrices(chain.layers->weight == nullptr && rows > rows_together);
    for (std::int64_t first = 0; first < rows;) {
        const int together = next_rows(rows - first);
        run_rows<M>(chain, x, out, first, together, scratch);
        first += together;
    }
}

template <class M>
constexpr Machine describe(const char* name) {
    return {name, M::lanes, M::vectors, M::group, M::offset, static_cast<int>(sizeof(typename M::Q)), run<M>};
}

}  // namespace
}  // namespace edgeae::ops

// What follows the layers: the score of each row of a block, or its values in the user's units. Part of kernels.hpp.
//
// x: normalised rows [rows, padded(width)]; y: what the last layer gave, spare: memory of the same size, both
// [rows, step] with room for the largest layer and its padding.
#pragma once

namespace edgeae::ops {
namespace {

template <class M>
void fill_padding(float* row, int size, float value) {
    for (int i = size; i < padded(size); ++i) row[i] = value;
}

template <class M>
float squares(float* row, int size) {
    using F = typename M::F;
    fill_padding<M>(row, size, 0);
    F total{};
    for (int i = 0; i < size; i += M::lanes) {
        const F value = load<F>(row + i);
        total += value * value;
    }
    return Math<M>::sum(total);
}

template <class M>
float smallest(float* row, int size) {
    using F = typename M::F;
    fill_padding<M>(row, size, 3.4e38f);
    F least = load<F>(row);
    for (int i = M::lanes; i < size; i += M::lanes) least = Math<M>::at_most(least, load<F>(row + i));
    float found = least[0];
    for (int lane = 1; lane < M::lanes; ++lane) found = least[lane] < found ? least[lane] : found;
    return found;
}

template <class M, Score kind>
float error_as(const Chain& chain, const float* x, const float* y) {
    using F = typename M::F;
    using A = Math<M>;
    F total{};
    for (int i = 0; i < chain.width; i += M::lanes) {
        const F target = load<F>(x + i), out = load<F>(y + i);
        if constexpr (kind == Score::cross_entropy) {
            F inside = target;
            if (chain.clip) {
                inside = A::at_most(A::at_least(target, F{}), A::all(1.0f));
                total += (target - inside) * (target - inside);
            }
            total += A::softplus(out) - inside * out;
        } else {
            F difference = target - out;
            if (chain.weight != nullptr) difference *= load<F>(chain.weight + i);
            total += kind == Score::absolute ? A::magnitude(difference) : difference * difference;
        }
    }
    return A::sum(total) * chain.score_factor;
}

// The padding of x is zero; y's gets what adds nothing.
template <class M>
float error(const Chain& chain, const float* x, float* y) {
    fill_padding<M>(y, chain.width, chain.score == Score::cross_entropy ? -200.0f : 0.0f);
    switch (chain.score) {
        case Score::squared: return error_as<M, Score::squared>(chain, x, y);
        case Score::absolute: return error_as<M, Score::absolute>(chain, x, y);
        default: return error_as<M, Score::cross_entropy>(chain, x, y);
    }
}

template <class M>
void finish(const Chain& chain, float* y, float* out) {
    using F = typename M::F;
    for (int i = 0; i < chain.out_width; i += M::lanes) {
        F value = load<F>(y + i);
        if (chain.out_factor != nullptr) value *= load<F>(chain.out_factor + i);
        if (chain.out_shift != nullptr) value += load<F>(chain.out_shift + i);
        store(y + i, value);
    }
    __builtin_memcpy(out, y, sizeof(float) * static_cast<std::size_t>(chain.out_width));
}

// The part of an evidence lower bound that the latents give, y: means, then log variances; out: [rows].
template <class M>
void diverge(const Chain& chain, int rows, const float* y, int step, float* out) {
    using F = typename M::F;
    using A = Math<M>;
    const int latents = chain.layers[chain.gaussian - 1].out / 2;
    const float bound = chain.log_variance_bound;
    for (int r = 0; r < rows; ++r) {
        const float* row = y + static_cast<std::ptrdiff_t>(r) * step;
        F total{};
        for (int i = 0; i < latents; i += M::lanes) {
            const int left = latents - i < M::lanes ? latents - i : M::lanes;
            F mean{}, spread{};
            __builtin_memcpy(&mean, row + i, sizeof(float) * static_cast<std::size_t>(left));
            __builtin_memcpy(&spread, row + latents + i, sizeof(float) * static_cast<std::size_t>(left));
            if (bound > 0) spread = A::tanh(spread / bound) * bound;
            const F overflow = spread > 88.0f ? A::all(__builtin_inff()) : F{};  // exp() stays finite there
            F value = mean * mean + (A::exp(spread) - spread) + overflow;
            for (int lane = left; lane < M::lanes; ++lane) value[lane] = 0;
            total += value;
        }
        out[r] = A::sum(total) * chain.divergence_factor;
    }
}

// The squares of the differences after they went through a layer.
template <class M>
void whiten(const Chain& chain, int rows, const float* x, float* y, float* spare, int step, typename M::Q* q, float* out) {
    using F = typename M::F;
    for (int r = 0; r < rows; ++r)
        for (int i = 0; i < chain.width; i += M::lanes) {
            float* to = y + static_cast<std::ptrdiff_t>(r) * step + i;
            F difference = load<F>(x + static_cast<std::ptrdiff_t>(r) * padded(chain.width) + i) - load<F>(to);
            if (chain.weight != nullptr) difference *= load<F>(chain.weight + i);
            store(to, difference);
        }
    run_layer<M>(*chain.whitening, rows, y, step, spare, step, q);
    for (int r = 0; r < rows; ++r)
        out[r] += squares<M>(spare + static_cast<std::ptrdiff_t>(r) * step, chain.width) * chain.score_factor;
}

// How far x is from the nearest prototype: |u|² + the smallest of |p|² - 2 u.p, the second from a layer.
template <class M>
void approach(const Chain& chain, int rows, const float* x, float* y, float* spare, int step, typename M::Q* q, float* out) {
    using F = typename M::F;
    for (int r = 0; r < rows; ++r)
        for (int i = 0; i < chain.width; i += M::lanes) {
            F value = load<F>(x + static_cast<std::ptrdiff_t>(r) * padded(chain.width) + i);
            if (chain.middle != nullptr) value -= load<F>(chain.middle + i);
            if (chain.spread != nullptr) value *= load<F>(chain.spread + i);
            store(spare + static_cast<std::ptrdiff_t>(r) * step + i, value);
        }
    run_layer<M>(*chain.prototypes, rows, spare, step, y, step, q);
    for (int r = 0; r < rows; ++r) {
        const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(r) * step;
        const float own = squares<M>(spare + row, chain.width) * chain.distance_factor;
        out[r] += own + smallest<M>(y + row, chain.prototypes->out);
    }
}

// out: [rows] or [rows, out_width]; a chain with Gaussian latents has left their part of the scores there.
template <class M>
void end_rows(const Chain& chain, int rows, const float* x, float* y, float* spare, int step, typename M::Q* q, float* out) {
    if (chain.score == Score::none) {
        for (int r = 0; r < rows; ++r)
            finish<M>(chain, y + static_cast<std::ptrdiff_t>(r) * step, out + static_cast<std::ptrdiff_t>(r) * chain.out_width);
        return;
    }
    for (int r = 0; r < rows; ++r) out[r] = (chain.gaussian > 0 ? out[r] : 0) + chain.score_shift;
    if (chain.whitening != nullptr)
        whiten<M>(chain, rows, x, y, spare, step, q, out);
    else
        for (int r = 0; r < rows; ++r)
            out[r] += error<M>(chain, x + static_cast<std::ptrdiff_t>(r) * padded(chain.width), y + static_cast<std::ptrdiff_t>(r) * step);
    if (chain.prototypes != nullptr) approach<M>(chain, rows, x, y, spare, step, q, out);
}

}  // namespace
}  // namespace edgeae::ops

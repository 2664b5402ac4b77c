// k-sparse layers: keeping the largest outputs, and multiplying by the few inputs that are not zero. Part of kernels.hpp.
#pragma once

namespace edgeae::ops {
namespace {

// Keep the `keep` largest of a layer's outputs, and whatever ties with the smallest of them.
//
// As integers whose order is that of the numbers; the threshold is found by halving, first between the numbers, which is
// quick where they are spread evenly, then between the integers, which ends after 32 steps.
template <class M>
void keep_largest(const Layer& layer, float* y) {
    using I = typename M::I;
    constexpr int quick = 14;
    const auto ordered = [](auto bits) { return bits ^ ((bits >> 31) & 0x7fffffff); };  // and back again
    const auto number = [&](std::int32_t key) { return load<float>(&(key = ordered(key))); };
    const int whole = (layer.out + M::lanes - 1) / M::lanes * M::lanes;
    constexpr std::int32_t least = -0x7fffffff - 1;
    I low{}, high{};
    low += 0x7fffffff;
    high += least;
    for (int i = 0; i < whole; i += M::lanes) {
        const I key = ordered(load<I>(y + i));
        store(y + i, key);
        if (i + M::lanes > layer.out) break;
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    std::int32_t lowest = 0x7fffffff, highest = least;
    for (int lane = 0; lane < M::lanes && layer.out >= M::lanes; ++lane) {
        lowest = low[lane] < lowest ? low[lane] : lowest;
        highest = high[lane] > highest ? high[lane] : highest;
    }
    for (int i = layer.out / M::lanes * M::lanes; i < whole; ++i) {
        const std::int32_t key = i < layer.out ? load<std::int32_t>(y + i) : least;
        if (i >= layer.out) store(y + i, key);
        else lowest = key < lowest ? key : lowest;
        highest = key > highest ? key : highest;
    }
    // At least `keep` are `lowest` or more, fewer are more than `highest`.
    for (int step = 0; lowest < highest; ++step) {
        std::int32_t middle = static_cast<std::int32_t>((static_cast<std::int64_t>(lowest) + highest) >> 1) + 1;
        if (step == 0) middle = lowest + 1;  // zeros after a rectifier
        else if (step <= quick) {
            const float half = 0.5f * number(lowest) + 0.5f * number(highest);
            const std::int32_t key = ordered(load<std::int32_t>(&half));
            if (key > lowest && key <= highest) middle = key;
        }
        I more{};
        for (int i = 0; i < whole; i += M::lanes) more -= load<I>(y + i) >= middle;
        int count = 0;
        for (int lane = 0; lane < M::lanes; ++lane) count += more[lane];
        if (count >= layer.keep) lowest = middle;
        else highest = middle - 1;
        if (count == layer.keep) break;
    }
    for (int i = 0; i < whole; i += M::lanes) {
        const I key = load<I>(y + i);
        store(y + i, key >= lowest ? ordered(key) : I{});
    }
}

// Whether so few inputs are not zero that it pays to fetch the weights of those only: a third of the groups of inputs
// that lie together at most, to be worth the order in which all of them lie.
template <class M>
bool is_sparse(const Layer& layer) {
    const std::int64_t group = layer.weight != nullptr ? 1 : M::group;
    return layer.active > 0 && 3 * group * layer.active <= layer.in && layer.in <= 65536;
}

// One panel for one row: `count` of its inputs, at the places `which`, or of its groups of inputs at int8, each less what
// zeros give.
template <class M, int vectors = M::vectors>
void multiply_places(const Panel<M>& panel, int vectors_left, const std::uint16_t* which, int count) {
    if constexpr (vectors > 1) {
        if (vectors_left < vectors) return multiply_places<M, vectors - 1>(panel, vectors_left, which, count);
    }
    using F = typename M::F;
    using I = typename M::I;
    constexpr int width = vectors * M::lanes;
    const Layer& layer = panel.layer;
    if (layer.weight != nullptr) {
        const float* weight = layer.weight + static_cast<std::ptrdiff_t>(panel.first) * layer.in;
        F even[vectors], odd[vectors];  // two chains of additions: enough under way
        for (int v = 0; v < vectors; ++v) {
            even[v] = load<F>(layer.bias + panel.first + v * M::lanes);
            odd[v] = F{};
        }
        const auto add = [&](F* sums, int k) __attribute__((always_inline)) {
            const float* from = weight + static_cast<std::ptrdiff_t>(k) * width;
            for (int v = 0; v < vectors; ++v) sums[v] += load<F>(from + v * M::lanes) * panel.x[k];
        };
        for (int i = 0; i < count; i += 2) {
            add(even, load<std::uint16_t>(which + i));
            if (i + 1 < count) add(odd, load<std::uint16_t>(which + i + 1));
        }
        for (int v = 0; v < vectors; ++v) store(panel.y + v * M::lanes, even[v] + odd[v]);
        return;
    }
    const int groups = (layer.in + M::group - 1) / M::group;
    const std::int8_t* weight = layer.quantised + static_cast<std::ptrdiff_t>(panel.first) * groups * M::group;
    typename M::Q zeros[M::group];
    for (auto& zero : zeros) zero = static_cast<typename M::Q>(layer.input_zero - M::offset);
    I sums[vectors], less[vectors];
    for (int v = 0; v < vectors; ++v) sums[v] = less[v] = I{};
    for (int i = 0; i < count; ++i) {
        const int group = load<std::uint16_t>(which + i);
        const std::int8_t* from = weight + static_cast<std::ptrdiff_t>(group) * width * M::group;
        for (int v = 0; v < vectors; ++v) {
            const auto w = M::weights(from + v * M::lanes * M::group);
            sums[v] = M::dot(sums[v], w, panel.q + group * M::group);
            less[v] = M::dot(less[v], w, zeros);
        }
    }
    for (int v = 0; v < vectors; ++v) {
        const int n = panel.first + v * M::lanes;
        const F scale = load<F>(layer.scale + n) * panel.scales[0];
        store(panel.y + v * M::lanes, __builtin_convertvector(sums[v] - less[v], F) * scale + load<F>(layer.bias + n));
    }
}

// A layer for a few rows x [rows, step], most of whose inputs are zero; the rows of x are lost. y: [rows, step].
template <class M>
void run_sparse(const Layer& layer, int rows, float* x, float* y, int step, typename M::Q* q) {
    const int vectors = (layer.out + M::lanes - 1) / M::lanes;
    const bool floats = layer.weight != nullptr;
    // where the places of each row are: at int8 the numbers are not needed once they are bytes
    const auto places_of = [&](int r) {
        return floats ? reinterpret_cast<std::uint16_t*>(q) + r * padded_bytes(layer.in)
                      : reinterpret_cast<std::uint16_t*>(x + r * step);
    };
    int counts[rows_together];
    float scales[rows_together];
    for (int r = 0; r < rows; ++r) {
        std::uint16_t* to = places_of(r);
        int count = 0;
        if (floats) {
            for (int k = 0; k < layer.in; ++k) {
                store(to + count, static_cast<std::uint16_t>(k));
                count += !(x[r * step + k] == 0);  // NaN counts
            }
        } else {
            typename M::Q* const row = q + r * step;
            scales[r] = quantise<M>(layer, x + r * step, row);
            const auto zero = static_cast<typename M::Q>(layer.input_zero - M::offset);
            for (int k = 0; k < layer.in; k += M::group) {
                bool any = false;
                for (int g = 0; g < M::group; ++g) any |= row[k + g] != zero;
                store(to + count, static_cast<std::uint16_t>(k / M::group));
                count += any;
            }
        }
        counts[r] = count;
    }
    for (int v = 0; v < vectors; v += M::vectors)
        for (int r = 0; r < rows; ++r) {
            const int first = v * M::lanes;
            const Panel<M> panel = {layer, first, x + r * step, q + r * step, step, scales + r, y + r * step + first, step};
            multiply_places<M>(panel, vectors - v, places_of(r), counts[r]);
        }
    for (int r = 0; r < rows; ++r) activate<M>(layer, y + r * step);
    if (layer.keep > 0)
        for (int r = 0; r < rows; ++r) keep_largest<M>(layer, y + r * step);
}

}  // namespace
}  // namespace edgeae::ops

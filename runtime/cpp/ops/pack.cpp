#include "pack.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace edgeae::ops {
namespace {

constexpr std::size_t stack_bytes = 64 * 1024;
constexpr std::int64_t largest_width = 1 << 24;

void require(bool holds, const char* problem) {
    if (!holds) throw std::invalid_argument(std::string("edgeae Chain: ") + problem);
}

// Hands out aligned pieces of one block of memory; without a block it only counts.
class Arena {
public:
    explicit Arena(char* memory) : memory_(memory) {}

    template <class T>
    T* take(std::size_t count) {
        char* place = memory_ == nullptr ? nullptr : memory_ + used_;
        used_ += (count * sizeof(T) + alignment - 1) / alignment * alignment;
        return reinterpret_cast<T*>(place);
    }

    bool counting() const { return memory_ == nullptr; }
    std::size_t used() const { return used_; }

private:
    char* memory_;
    std::size_t used_ = 0;
};

class Reader {
public:
    Reader(const float* numbers, std::size_t left) : next_(numbers), left_(left) {}

    const float* take(std::size_t count) {
        require(count <= left_, "fewer constants than its attributes promise");
        const float* taken = next_;
        next_ += count;
        left_ -= count;
        return taken;
    }

    bool finished() const { return left_ == 0; }

private:
    const float* next_;
    std::size_t left_;
};

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> words;
    for (std::size_t start = 0; start < text.size();) {
        const std::size_t end = std::min(text.find(',', start), text.size());
        words.push_back(text.substr(start, end - start));
        start = end + 1;
    }
    return words;
}

Activation activation(const std::string& name) {
    static const char* const names[] = {"linear", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"};
    const auto* found = std::find(std::begin(names), std::end(names), name);
    require(found != std::end(names), "an unknown activation");
    return static_cast<Activation>(found - std::begin(names));
}

Score score_kind(const std::string& name) {
    static const char* const names[] = {"none", "squared", "absolute", "cross_entropy"};
    const auto* found = std::find(std::begin(names), std::end(names), name);
    require(found != std::end(names), "an unknown score");
    return static_cast<Score>(found - std::begin(names));
}

const float* copy_padded(Arena& arena, const float* from, int size) {
    float* to = arena.take<float>(static_cast<std::size_t>(padded(size)));
    if (!arena.counting()) std::fill(std::copy(from, from + size, to), to + padded(size), 0.0f);
    return to;
}

// Calls place(n, k) in the order in which a layer's weights lie; n may be `out` or more, k `in` or more: padding.
template <class Place>
void in_panel_order(const Layer& layer, const Machine& machine, int group, Place&& place) {
    const int vectors = (layer.out + machine.lanes - 1) / machine.lanes;
    for (int v = 0; v < vectors; v += machine.vectors) {
        const int outputs = std::min(machine.vectors, vectors - v) * machine.lanes;
        for (int k = 0; k < layer.in; k += group)
            for (int n = 0; n < outputs; ++n)
                for (int g = 0; g < group; ++g) place(v * machine.lanes + n, k + g);
    }
}

std::size_t panel_size(const Layer& layer, const Machine& machine, int group) {
    const auto whole = [](int size, int step) { return static_cast<std::size_t>((size + step - 1) / step * step); };
    return whole(layer.out, machine.lanes) * whole(layer.in, group);
}

void pack_float(Layer& layer, Arena& arena, Reader& reader, const Machine& machine) {
    const float* weight = reader.take(static_cast<std::size_t>(layer.in) * static_cast<std::size_t>(layer.out));
    layer.bias = copy_padded(arena, reader.take(static_cast<std::size_t>(layer.out)), layer.out);
    float* to = arena.take<float>(panel_size(layer, machine, 1));
    layer.weight = to;
    if (arena.counting()) return;
    in_panel_order(layer, machine, 1, [&](int n, int k) {
        *to++ = n < layer.out ? weight[static_cast<std::ptrdiff_t>(n) * layer.in + k] : 0.0f;
    });
}

void pack_int8(Layer& layer, bool evened, Arena& arena, Reader& reader, const Machine& machine) {
    const float* weight = reader.take(static_cast<std::size_t>(layer.in) * static_cast<std::size_t>(layer.out));
    layer.bias = copy_padded(arena, reader.take(static_cast<std::size_t>(layer.out)), layer.out);
    const float* given = reader.take(static_cast<std::size_t>(layer.out));
    if (evened) layer.input_factor = copy_padded(arena, reader.take(static_cast<std::size_t>(layer.in)), layer.in);
    const auto width = static_cast<std::size_t>(padded(layer.out));
    float* scale = arena.take<float>(width);
    auto* correction = arena.take<std::int32_t>(width);
    auto* to = arena.take<std::int8_t>(panel_size(layer, machine, machine.group));
    layer.scale = scale;
    layer.correction = correction;
    layer.quantised = to;
    if (arena.counting()) return;
    std::fill(scale, scale + width, 0.0f);
    std::fill(correction, correction + width, 0);
    for (int n = 0; n < layer.out; ++n) {
        const float* row = weight + static_cast<std::ptrdiff_t>(n) * layer.in;
        float largest = 0;
        for (int k = 0; k < layer.in; ++k) largest = std::max(largest, std::fabs(row[k]));
        scale[n] = given[n] > 0 ? given[n] : largest / 127.0f;
    }
    in_panel_order(layer, machine, machine.group, [&](int n, int k) {
        std::int8_t q = 0;
        if (n < layer.out && k < layer.in && scale[n] > 0) {
            const float steps = std::nearbyint(weight[static_cast<std::ptrdiff_t>(n) * layer.in + k] / scale[n]);
            q = static_cast<std::int8_t>(steps > -128 ? std::min(steps, 127.0f) : -128);
            correction[n] += (machine.offset - layer.input_zero) * q;
        }
        *to++ = q;
    });
}

std::vector<Layer> describe_layers(const Description& given) {
    const std::size_t count = given.widths.empty() ? 0 : given.widths.size() - 1;
    const std::vector<std::string> activations = split(given.activations);
    require(count > 0 && activations.size() == count && given.alphas.size() == count && given.keeps.size() == count,
            "not one entry for every layer");
    require(!given.int8 || (given.input_scales.size() == count && given.input_zeros.size() == count &&
                            given.evened.size() == count),
            "not one scale and one zero for every layer");
    require(given.gaussian >= 0 && given.gaussian < static_cast<std::int64_t>(count), "no layer after its latents");
    for (const std::int64_t width : given.widths) require(width > 0 && width <= largest_width, "an impossible width");
    std::vector<Layer> layers(count);
    for (std::size_t i = 0; i < count; ++i) {
        Layer& layer = layers[i];
        layer.in = static_cast<int>(given.widths[i]);
        layer.out = static_cast<int>(given.widths[i + 1]);
        layer.activation = activation(activations[i]);
        layer.alpha = given.alphas[i];
        if (i > 0) layer.active = static_cast<int>(given.keeps[i - 1]);
        require(given.keeps[i] >= 0 && given.keeps[i] <= layer.out, "more outputs to keep than there are");
        layer.keep = static_cast<int>(given.keeps[i]);
        if (i > 0 && static_cast<std::int64_t>(i) == given.gaussian) {
            require(layer.in % 2 == 0, "means without as many log variances");
            layer.in /= 2;
        }
        if (!given.int8) continue;
        layer.input_scale = given.input_scales[i];
        require(layer.input_scale >= 0 && std::isfinite(layer.input_scale), "an impossible scale");
        require(given.input_zeros[i] >= 0 && given.input_zeros[i] <= 255, "a zero point outside 0..255");
        layer.input_zero = static_cast<int>(given.input_zeros[i]);
        require(layer.input_scale > 0 || layer.input_zero == 0 || layer.input_zero == 128,
                "a row's own scale needs the zero point 0 or 128");
        require(layer.input_scale > 0 || given.evened[i] == 0, "an evened input needs a scale");
        // int32 sums of products of at most 255 and 128, corrections included
        require(layer.in <= 32768, "more inputs than int8 sums hold");
    }
    return layers;
}

void lay_out(Chain& chain, std::vector<Layer>& layers, const std::vector<Layer*>& tails, const Description& given,
             Reader reader, Arena& arena, const Machine& machine) {
    for (const std::string& name : split(given.constants)) {
        const bool after = name == "out_factor" || name == "out_shift";
        const int size = after ? chain.out_width : chain.width;
        const float* values = copy_padded(arena, reader.take(static_cast<std::size_t>(size)), size);
        (name == "shift"        ? chain.shift
         : name == "factor"     ? chain.factor
         : name == "weight"     ? chain.weight
         : name == "middle"     ? chain.middle
         : name == "spread"     ? chain.spread
         : name == "out_factor" ? chain.out_factor
                                : chain.out_shift) = values;
    }
    for (std::size_t i = 0; i < layers.size(); ++i) {
        if (given.int8)
            pack_int8(layers[i], given.evened[i] != 0, arena, reader, machine);
        else
            pack_float(layers[i], arena, reader, machine);
    }
    for (Layer* layer : tails) pack_float(*layer, arena, reader, machine);
    require(reader.finished(), "more constants than its attributes promise");
}

// Numbers below 1e-38 can slow arithmetic down a hundredfold; within a run they count as zero.
class FlushDenormals {
#if defined(__x86_64__)
public:
    FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(before_); }

private:
    unsigned before_;
#elif defined(__aarch64__)
public:
    FlushDenormals() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
        __asm__ volatile("msr fpcr, %0" : : "r"(before_ | 1u << 24));
    }
    ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(before_)); }

private:
    std::uint64_t before_;
#else
public:
    FlushDenormals() {}
#endif
public:
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
};

}  // namespace

PackedChain::PackedChain(const Description& given, const float* numbers, std::size_t count, bool bytes,
                         const Machine& machine)
    : machine_(machine), layers_(describe_layers(given)) {
    chain_.width = layers_.front().in;
    chain_.out_width = layers_.back().out;
    for (const Layer& layer : layers_) chain_.largest = std::max(chain_.largest, layer.out);
    chain_.bytes = bytes;
    chain_.layers = layers_.data();
    chain_.count = static_cast<int>(layers_.size());
    chain_.score = score_kind(given.score);
    chain_.score_factor = given.score_factor;
    chain_.clip = given.clip;
    chain_.score_shift = given.score_shift;
    chain_.distance_factor = given.distance_factor;
    chain_.gaussian = static_cast<int>(given.gaussian);
    chain_.divergence_factor = given.divergence_factor;
    chain_.log_variance_bound = given.log_variance_bound;
    require(chain_.score == Score::none || chain_.width == chain_.out_width, "a score of rows of different widths");
    require(chain_.score != Score::none || (given.gaussian == 0 && given.prototypes == 0), "parts of a score without one");
    require(!given.whitened || chain_.score == Score::squared, "whitening without squares");
    require(given.prototypes >= 0 && given.prototypes <= largest_width, "an impossible number of prototypes");
    std::vector<Layer*> tails;
    if (given.whitened) {
        chain_.whitening = &whitening_;
        whitening_.in = whitening_.out = chain_.width;
        tails.push_back(&whitening_);
    }
    if (given.prototypes > 0) {
        chain_.prototypes = &prototypes_;
        prototypes_.in = chain_.width;
        prototypes_.out = static_cast<int>(given.prototypes);
        tails.push_back(&prototypes_);
    }
    for (const Layer* layer : tails) chain_.largest = std::max(chain_.largest, layer->out);

    for (const std::string& name : split(given.constants)) {
        const char* const known[] = {"shift", "factor", "weight", "middle", "spread", "out_factor", "out_shift"};
        require(std::find(std::begin(known), std::end(known), name) != std::end(known), "an unknown constant");
    }
    Arena counting(nullptr);
    lay_out(chain_, layers_, tails, given, Reader(numbers, count), counting, machine);
    memory_.reset(static_cast<char*>(::operator new(counting.used() + beyond, std::align_val_t(alignment))));
    Arena arena(memory_.get());
    lay_out(chain_, layers_, tails, given, Reader(numbers, count), arena, machine);
}

void PackedChain::run(const void* x, float* out, std::int64_t rows) const {
    const FlushDenormals flush;
    const std::size_t needed = scratch_bytes(chain_, rows_at_once(rows));
    if (needed <= stack_bytes) {  // one row of up to 4,600 values, seven of 640: nothing is allocated
        alignas(alignment) char scratch[stack_bytes];
        machine_.run(chain_, x, out, rows, scratch);
    } else {
        const std::unique_ptr<char, Free> scratch(
            static_cast<char*>(::operator new(needed, std::align_val_t(alignment))));
        machine_.run(chain_, x, out, rows, scratch.get());
    }
}

}  // namespace edgeae::ops

// Every instruction set that runs here against plain loops in double, on memory of the exact size, so that
// AddressSanitizer sees a step too far. Needs nothing of ONNX Runtime:
//   c++ -std=c++17 -O1 -g -fsanitize=address,undefined test_ops.cpp isa_*.cpp machines.cpp pack.cpp -pthread && ./a.out
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <stdexcept>
#include <thread>

#include "machines.hpp"
#include "pack.hpp"

using namespace edgeae::ops;

namespace {

const char* const activations[] = {"linear", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"};
const char* const scores[] = {"none", "squared", "absolute", "cross_entropy"};
int failures = 0;

void expect(bool holds, const char* machine, const char* what, double found = 0, double wanted = 0) {
    if (holds) return;
    ++failures;
    std::printf("%s: %s: found %.9g, wanted %.9g\n", machine, what, found, wanted);
}

double apply(const std::string& kind, double x, double alpha) {
    if (kind == "relu") return std::max(x, 0.0);
    if (kind == "leaky_relu") return x < 0 ? alpha * x : x;
    if (kind == "elu") return x < 0 ? alpha * std::expm1(x) : x;
    if (kind == "gelu") return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    if (kind == "silu") return x / (1 + std::exp(-x));
    if (kind == "tanh") return std::tanh(x);
    if (kind == "sigmoid") return 1 / (1 + std::exp(-x));
    return x;
}

struct Example {
    Description given;
    std::vector<float> numbers;
    bool bytes = false;
};

using Random = std::mt19937;

float uniform(Random& random, float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(random);
}

int pick(Random& random, int below) { return std::uniform_int_distribution<int>(0, below - 1)(random); }

// Of a layer: the one after Gaussian latents reads the means only.
std::int64_t inputs(const Description& given, int layer) {
    const std::int64_t width = given.widths[static_cast<std::size_t>(layer)];
    return layer > 0 && layer == given.gaussian ? width / 2 : width;
}

Example make_example(Random& random, bool int8, std::vector<std::int64_t> widths = {}) {
    const int sizes[] = {1, 2, 3, 7, 13, 16, 31, 64, 65, 129, 640};
    Example made;
    Description& given = made.given;
    given.score = scores[pick(random, 4)];
    if (widths.empty())
        for (int left = 2 + pick(random, 4); left > 0; --left) widths.push_back(sizes[pick(random, 11)]);
    given.widths = widths;
    const int count = static_cast<int>(widths.size()) - 1;
    for (int i = 0; i < count; ++i) {
        given.activations += (i ? "," : "") + std::string(activations[pick(random, 8)]);
        given.alphas.push_back(0.2f);
    }
    const bool scores_rows = given.score != "none";
    if (scores_rows) given.widths.back() = given.widths.front();
    if (scores_rows && count > 1 && pick(random, 3) == 0) {
        given.gaussian = 1 + pick(random, count - 1);
        given.widths[static_cast<std::size_t>(given.gaussian)] *= 2;
        given.divergence_factor = 0.5f / static_cast<float>(given.widths.back());
        given.log_variance_bound = pick(random, 2) == 0 ? 0.0f : 10.0f;
    }
    for (int i = 0; i < count; ++i) {
        const auto out = static_cast<int>(given.widths[static_cast<std::size_t>(i) + 1]);
        const int most = pick(random, 2) == 0 ? out : 1 + out / 16;  // few go another way
        given.keeps.push_back(i + 1 != given.gaussian && pick(random, 4) == 0 ? 1 + pick(random, most) : 0);
    }
    given.score_shift = pick(random, 2) == 0 ? 0.0f : -3.0f;
    given.whitened = given.score == "squared" && pick(random, 2) == 0;
    if (scores_rows && pick(random, 3) == 0) {
        given.prototypes = sizes[pick(random, 11)];
        given.distance_factor = 1.0f / static_cast<float>(given.widths.front());
    }
    given.score_factor = 1.0f / static_cast<float>(given.widths.back());
    given.clip = pick(random, 2) == 1;
    made.bytes = pick(random, 4) == 0;
    const auto constant = [&](const char* name, std::int64_t size) {
        if (pick(random, 2) == 0 && !(made.bytes && std::strcmp(name, "factor") == 0)) return;
        given.constants += (given.constants.empty() ? "" : ",") + std::string(name);
        const bool small = made.bytes && std::strcmp(name, "factor") == 0;
        for (std::int64_t i = 0; i < size; ++i)
            made.numbers.push_back(uniform(random, 0.5f, 1.5f) * (small ? 1.0f / 255 : 1));
    };
    constant("shift", given.widths.front());
    constant("factor", given.widths.front());
    if (given.score == "squared" || given.score == "absolute") constant("weight", given.widths.front());
    if (given.prototypes > 0) {
        constant("middle", given.widths.front());
        constant("spread", given.widths.front());
    }
    if (given.score == "none") {
        constant("out_factor", given.widths.back());
        constant("out_shift", given.widths.back());
    }
    given.int8 = int8;
    const auto layer = [&](std::int64_t in, std::int64_t out, float bound) {
        for (std::int64_t k = 0; k < in * out; ++k) made.numbers.push_back(uniform(random, -bound, bound));
        for (std::int64_t n = 0; n < out; ++n) made.numbers.push_back(uniform(random, -0.5f, 0.5f));
    };
    for (int i = 0; i < count; ++i) {
        const std::int64_t in = inputs(given, i), out = given.widths[static_cast<std::size_t>(i) + 1];
        const float bound = std::sqrt(3.0f / static_cast<float>(in));
        layer(in, out, bound);
        if (!int8) continue;
        for (std::int64_t n = 0; n < out; ++n) made.numbers.push_back(pick(random, 2) == 0 ? 0.0f : bound / 100);
        const int choice = pick(random, 3);
        given.input_scales.push_back(choice == 0 ? 0.0f : 0.02f);
        given.input_zeros.push_back(choice == 0 ? 128 : (choice == 1 ? 0 : pick(random, 256)));
        given.evened.push_back(choice != 0 && pick(random, 3) == 0);
        for (std::int64_t k = 0; k < in && given.evened.back() != 0; ++k) made.numbers.push_back(uniform(random, 0.5f, 1.5f));
    }
    const std::int64_t width = given.widths.front();
    if (given.whitened) layer(width, width, std::sqrt(3.0f / static_cast<float>(width)));
    if (given.prototypes > 0) layer(width, given.prototypes, 1.0f / static_cast<float>(width));
    return made;
}

// What a chain computes, for one row; int8 with the integers that the float32 formulas give.
std::vector<double> reference(const Example& example, const std::vector<double>& row) {
    const Description& given = example.given;
    const float* next = example.numbers.data();
    const auto take = [&](std::int64_t size) {
        const float* taken = next;
        next += size;
        return taken;
    };
    const auto has = [&](const char* name) { return ("," + given.constants + ",").find("," + std::string(name) + ",") != std::string::npos; };
    const float* shift = has("shift") ? take(given.widths.front()) : nullptr;
    const float* factor = has("factor") ? take(given.widths.front()) : nullptr;
    const float* weight = has("weight") ? take(given.widths.front()) : nullptr;
    const float* middle = has("middle") ? take(given.widths.front()) : nullptr;
    const float* spread = has("spread") ? take(given.widths.front()) : nullptr;
    const float* out_factor = given.constants.find("out_factor") != std::string::npos ? take(given.widths.back()) : nullptr;
    const float* out_shift = has("out_shift") ? take(given.widths.back()) : nullptr;
    std::vector<double> x = row;
    for (std::size_t i = 0; i < x.size(); ++i) {
        float value = static_cast<float>(x[i]);
        if (shift != nullptr) value -= shift[i];
        if (factor != nullptr) value *= factor[i];
        x[i] = value;
    }
    std::vector<double> y = x;
    std::size_t start = 0;
    double score = given.score_shift;
    for (std::size_t i = 0; i + 1 < given.widths.size(); ++i) {
        const std::int64_t in = inputs(given, static_cast<int>(i)), out = given.widths[i + 1];
        const std::size_t end = std::min(given.activations.find(',', start), given.activations.size());
        const std::string kind = given.activations.substr(start, end - start);
        start = end + 1;
        const float *w = take(in * out), *b = take(out), *s = given.int8 ? take(out) : nullptr;
        const float* even = given.int8 && given.evened[i] != 0 ? take(in) : nullptr;
        y.resize(static_cast<std::size_t>(in));
        for (std::size_t k = 0; even != nullptr && k < y.size(); ++k) y[k] *= even[k];
        double scale = 1, zero = 0;
        if (given.int8) {
            zero = static_cast<double>(given.input_zeros[i]);
            scale = given.input_scales[i];
            if (scale == 0) {
                for (const double value : y) scale = std::max(scale, std::fabs(value));
                scale /= zero == 0 ? 255 : 127;
            }
            for (double& value : y) {
                const double q = std::nearbyint((scale > 1e-37 ? value / scale : 0) + zero);
                value = (std::min(std::max(q, 0.0), 255.0) - zero) * scale;
            }
        }
        std::vector<double> after;
        for (std::int64_t n = 0; n < out; ++n) {
            double step = 0, total = b[n];
            if (s != nullptr) {
                for (std::int64_t k = 0; k < in; ++k) step = std::max(step, std::fabs(static_cast<double>(w[n * in + k])) / 127);
                if (s[n] > 0) step = s[n];
            }
            for (std::int64_t k = 0; k < in; ++k) {
                double value = w[n * in + k];
                if (step > 0) value = std::min(std::max(std::nearbyint(value / step), -128.0), 127.0) * step;
                total += value * y[static_cast<std::size_t>(k)];
            }
            after.push_back(apply(kind, total, given.alphas[i]));
        }
        y = after;
        if (given.keeps[i] > 0) {
            const auto last = static_cast<std::ptrdiff_t>(given.keeps[i]) - 1;
            std::nth_element(after.begin(), after.begin() + last, after.end(), std::greater<>());
            const double least = after[static_cast<std::size_t>(last)];
            for (double& value : y) value = value >= least ? value : 0;
        }
        if (static_cast<std::int64_t>(i) + 1 == given.gaussian) {
            const std::size_t latents = y.size() / 2;
            const double bound = given.log_variance_bound;
            for (std::size_t k = 0; k < latents; ++k) {
                const double raw = y[latents + k], variance = bound > 0 ? bound * std::tanh(raw / bound) : raw;
                score += given.divergence_factor * (y[k] * y[k] + std::exp(variance) - variance);
            }
        }
    }
    if (given.score == "none") {
        for (std::size_t i = 0; i < y.size(); ++i) {
            if (out_factor != nullptr) y[i] *= out_factor[i];
            if (out_shift != nullptr) y[i] += out_shift[i];
        }
        return y;
    }
    const auto multiply = [&](const std::vector<double>& by, std::int64_t outputs) {
        const auto in = static_cast<std::int64_t>(by.size());
        const float *w = take(in * outputs), *b = take(outputs);
        std::vector<double> made;
        for (std::int64_t n = 0; n < outputs; ++n) {
            double sum = b[n];
            for (std::int64_t k = 0; k < in; ++k) sum += static_cast<double>(w[n * in + k]) * by[static_cast<std::size_t>(k)];
            made.push_back(sum);
        }
        return made;
    };
    double total = 0;
    if (given.whitened) {
        for (std::size_t i = 0; i < x.size(); ++i) y[i] = (x[i] - y[i]) * (weight != nullptr ? weight[i] : 1);
        for (const double value : multiply(y, static_cast<std::int64_t>(y.size()))) total += value * value;
    }
    if (given.prototypes > 0) {
        std::vector<double> moved = x;
        for (std::size_t i = 0; i < x.size(); ++i) {
            if (middle != nullptr) moved[i] -= middle[i];
            if (spread != nullptr) moved[i] *= spread[i];
            score += moved[i] * moved[i] * given.distance_factor;
        }
        const std::vector<double> others = multiply(moved, given.prototypes);
        score += *std::min_element(others.begin(), others.end());
    }
    for (std::size_t i = 0; i < x.size() && !given.whitened; ++i) {
        if (given.score == "cross_entropy") {
            const double inside = given.clip ? std::min(std::max(x[i], 0.0), 1.0) : x[i];
            total += std::log1p(std::exp(-std::fabs(y[i]))) + std::max(y[i], 0.0) - inside * y[i];
            total += (x[i] - inside) * (x[i] - inside);
        } else {
            const double difference = (x[i] - y[i]) * (weight != nullptr ? weight[i] : 1);
            total += given.score == "squared" ? difference * difference : std::fabs(difference);
        }
    }
    return {total * given.score_factor + score};
}

struct Rows {
    std::vector<float> floats;
    std::vector<std::uint8_t> bytes;
    std::int64_t count;
    const void* data() const { return bytes.empty() ? static_cast<const void*>(floats.data()) : bytes.data(); }
    std::vector<double> row(std::int64_t index, std::int64_t width) const {
        if (bytes.empty()) return {floats.begin() + index * width, floats.begin() + (index + 1) * width};
        return {bytes.begin() + index * width, bytes.begin() + (index + 1) * width};
    }
};

Rows make_rows(Random& random, const Example& example, std::int64_t count) {
    Rows made{{}, {}, count};
    for (std::int64_t i = 0; i < count * example.given.widths.front(); ++i) {
        if (example.bytes)
            made.bytes.push_back(static_cast<std::uint8_t>(pick(random, 256)));
        else
            made.floats.push_back(uniform(random, -2, 2));
    }
    return made;
}

void compare(const Machine& machine, const Example& example, const Rows& rows) {
    const PackedChain packed(example.given, example.numbers.data(), example.numbers.size(), example.bytes, machine);
    const bool score = example.given.score != "none";
    const std::int64_t wide = score ? 1 : example.given.widths.back();
    std::vector<float> out(static_cast<std::size_t>(rows.count * wide), -1);
    packed.run(rows.data(), out.data(), rows.count);
    double far = 0, largest = 0, off = 0;
    for (std::int64_t r = 0; r < rows.count; ++r) {
        const auto wanted = reference(example, rows.row(r, example.given.widths.front()));
        for (std::int64_t i = 0; i < wide; ++i) {
            largest = std::max(largest, std::fabs(wanted[static_cast<std::size_t>(i)]));
            const double apart = std::fabs(out[static_cast<std::size_t>(r * wide + i)] - wanted[static_cast<std::size_t>(i)]);
            off += apart > 1e-5 * (1 + std::fabs(wanted[static_cast<std::size_t>(i)]));
            far = std::max(far, apart);
        }
    }
    // int8: a value halfway between two levels may be rounded either way, which is rare
    expect(off <= 0.25 * static_cast<double>(out.size()), machine.name, "most values", off, 0);
    expect(far <= (example.given.int8 ? 0.05 : 5e-6) * (1 + largest), machine.name, example.given.activations.c_str(), far, 0);

    std::vector<float> again(out.size(), -2);
    std::vector<std::thread> threads;
    for (std::int64_t r = 0; r < std::min<std::int64_t>(rows.count, 4); ++r)
        threads.emplace_back([&, r] {
            const std::size_t size = rows.bytes.empty() ? sizeof(float) : 1;
            const char* x = static_cast<const char*>(rows.data()) + static_cast<std::size_t>(r * example.given.widths.front()) * size;
            packed.run(x, again.data() + r * wide, 1);
        });
    for (auto& thread : threads) thread.join();
    for (std::int64_t i = 0; i < std::min<std::int64_t>(rows.count, 4) * wide; ++i) {
        const double one = again[static_cast<std::size_t>(i)], other = out[static_cast<std::size_t>(i)];
        expect(std::fabs(one - other) <= 1e-5 * (1 + std::fabs(other)), machine.name, "a row alone", one, other);
    }
}

// Many rows at once against the same rows a few at a time, on memory of the exact size.
void compare_blocks(const Machine& machine, const Example& example, const Rows& rows) {
    const PackedChain packed(example.given, example.numbers.data(), example.numbers.size(), example.bytes, machine);
    const std::int64_t width = example.given.widths.front(), size = rows.bytes.empty() ? sizeof(float) : 1;
    const std::int64_t wide = example.given.score != "none" ? 1 : example.given.widths.back();
    std::vector<float> out(static_cast<std::size_t>(rows.count * wide), -1), few(out.size(), -2);
    packed.run(rows.data(), out.data(), rows.count);
    for (std::int64_t r = 0, next = 1; r < rows.count; r += next, next = std::min<std::int64_t>(next + 1, rows_together))
        packed.run(static_cast<const char*>(rows.data()) + r * width * size, few.data() + r * wide, std::min(next, rows.count - r));
    double off = 0, far = 0, largest = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
        const double apart = std::fabs(out[i] - few[i]);
        off += apart > 1e-5 * (1 + std::fabs(few[i]));
        far = std::max(far, apart);
        largest = std::max(largest, std::fabs(static_cast<double>(few[i])));
    }
    // the same integers, but a sum that is rounded otherwise may become another one
    expect(off <= (example.given.int8 ? 0.1 : 0) * static_cast<double>(out.size()), machine.name, "most of many", off, 0);
    expect(far <= (example.given.int8 ? 0.05 : 1e-5) * (1 + largest), machine.name, "many rows", far, 0);
}

// A row that is not finite shows it in its own score, and in no other.
void spoil(const Machine& machine, bool int8, std::size_t count) {
    Random random(5);
    Example example;
    do example = make_example(random, int8);
    while (example.bytes || example.given.score == "none");
    Rows rows = make_rows(random, example, static_cast<std::int64_t>(count));
    const PackedChain packed(example.given, example.numbers.data(), example.numbers.size(), false, machine);
    std::vector<float> before(count), after(count);
    packed.run(rows.data(), before.data(), rows.count);
    const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
    for (const float value : bad) {
        rows.floats[static_cast<std::size_t>(2 * example.given.widths.front())] = value;
        packed.run(rows.data(), after.data(), rows.count);
        for (std::size_t r = 0; r < count; ++r) {
            if (r == 2) expect(!std::isfinite(after[r]), machine.name, "a bad row", after[r], value);
            else expect(std::memcmp(&after[r], &before[r], sizeof(float)) == 0, machine.name, "a good row", after[r], before[r]);
        }
    }
}

void refuse(const Machine& machine) {
    Random random(3);
    const Example good = make_example(random, false);
    const auto refused = [&](auto&& change) {
        Example bad = good;
        change(bad);
        try {
            const PackedChain packed(bad.given, bad.numbers.data(), bad.numbers.size(), bad.bytes, machine);
        } catch (const std::invalid_argument&) {
            return true;
        }
        return false;
    };
    expect(refused([](Example& bad) { bad.numbers.pop_back(); }), machine.name, "a number too few");
    expect(refused([](Example& bad) { bad.numbers.push_back(0); }), machine.name, "a number too many");
    expect(refused([](Example& bad) { bad.given.activations = "sine"; }), machine.name, "an unknown activation");
    expect(refused([](Example& bad) { bad.given.widths[0] = 0; }), machine.name, "a width of zero");
    expect(refused([](Example& bad) { bad.given.widths[0] = std::int64_t{1} << 40; }), machine.name, "a huge width");
    expect(refused([](Example& bad) { bad.given.widths.clear(); }), machine.name, "no layers");
    expect(refused([](Example& bad) { bad.given.score = "rank"; }), machine.name, "an unknown score");
    expect(refused([](Example& bad) { bad.given.constants = "mean"; }), machine.name, "an unknown constant");
    expect(refused([](Example& bad) { bad.given.int8 = true; }), machine.name, "int8 without scales");
    expect(refused([](Example& bad) { bad.given.keeps[0] = bad.given.widths[1] + 1; }), machine.name, "too many to keep");
    expect(refused([](Example& bad) { bad.given.keeps.clear(); }), machine.name, "nothing about what to keep");
    expect(refused([](Example& bad) { bad.given.gaussian = 99; }), machine.name, "latents of no layer");
    expect(refused([](Example& bad) { bad.given.prototypes = std::int64_t{1} << 40; }), machine.name, "too many prototypes");
    expect(refused([](Example& bad) { bad.given.score = "absolute", bad.given.whitened = true; }), machine.name, "whitening");
}

}  // namespace

int main() {
    for (const Machine* machine : available_machines()) {
        Random random(1);
        for (int i = 0; i < 60; ++i) {
            const Example example = make_example(random, i % 2 == 1);
            compare(*machine, example, make_rows(random, example, 1 + i % 9));
        }
        for (const bool int8 : {false, true}) {  // rows that need more memory than a call keeps ready
            const Example wide = make_example(random, int8, {4000, 3, 4000});
            compare(*machine, wide, make_rows(random, wide, 6));
        }
        const int counts[] = {9, 16, 33, 64, 95, 97, 104, 105, 200, 257};
        for (int i = 0; i < 40; ++i) {
            const Example example = make_example(random, i % 2 == 1);
            compare_blocks(*machine, example, make_rows(random, example, counts[i % 10]));
        }
        for (const bool int8 : {false, true})
            for (const std::size_t count : {5, 40}) spoil(*machine, int8, count);
        refuse(*machine);
        std::printf("%s: done\n", machine->name);
    }
    try {
        choose_machine("abacus");
        expect(false, "abacus", "was chosen");
    } catch (const std::invalid_argument&) {
    }
    return failures == 0 ? 0 : 1;
}

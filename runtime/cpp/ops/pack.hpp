// From a description in ONNX's terms to a packed chain.
//
// A panel holds `vectors * lanes` outputs, the last of a layer as many vectors as are left. In it, fp32 weights lie as
// [in][outputs], int8 weights as [in / group][outputs][group], so that reading a layer reads memory from one end to the
// other; layer follows layer.
#pragma once

#include <memory>
#include <new>
#include <string>
#include <vector>

#include "chain.hpp"

namespace edgeae::ops {

// The attributes of a node; README.md explains them.
struct Description {
    std::vector<std::int64_t> widths;  // of the input and of every layer's output
    std::string activations;           // one per layer, separated by commas
    std::vector<float> alphas;         // one per layer
    std::string score;                 // "none", "squared", "absolute" or "cross_entropy"
    float score_factor = 1;
    bool clip = false;
    std::string constants;  // which stand before the layers: "shift", "factor", "weight", "out_factor", "out_shift"
    bool int8 = false;
    std::vector<float> input_scales;  // int8, one per layer: 0 to choose one for every row
    std::vector<std::int64_t> input_zeros;  // int8, one per layer
};

class PackedChain {
public:
    // numbers: the constants named above, then for every layer its weight [out, in], its bias [out] and, at int8, the
    // scale of each output channel [out], 0 to choose it from the largest weight.
    // Throws std::invalid_argument if the description and the numbers do not fit each other.
    PackedChain(const Description& description, const float* numbers, std::size_t count, bool bytes,
                const Machine& machine);

    // out: [rows] for a score, else [rows, out_width]. Any number of threads may call it at once.
    void run(const void* x, float* out, std::int64_t rows) const;

    const Chain& chain() const { return chain_; }

private:
    struct Free {
        void operator()(char* memory) const { ::operator delete(memory, std::align_val_t(alignment)); }
    };

    const Machine& machine_;
    Chain chain_;
    std::vector<Layer> layers_;
    std::unique_ptr<char, Free> memory_;
};

}  // namespace edgeae::ops

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
    std::vector<std::int64_t> keeps;   // one per layer: outputs that stay, 0 for all
    std::string score;                 // "none", "squared", "absolute" or "cross_entropy"
    float score_factor = 1;
    float score_shift = 0;
    bool clip = false;
    bool whitened = false;
    std::int64_t prototypes = 0;  // how many
    float distance_factor = 0;
    std::int64_t gaussian = 0;  // the number of a layer, from 1; 0: none
    float divergence_factor = 0, log_variance_bound = 0;
    std::string constants;  // the names of those that stand before the layers
    bool int8 = false;
    std::vector<float> input_scales;  // int8, one per layer: 0 to choose one for every row
    std::vector<std::int64_t> input_zeros;  // int8, one per layer
    std::vector<std::int64_t> evened;       // int8, one per layer: whether its input has factors
};

class PackedChain {
public:
    // numbers: the constants named above, then for every layer its weight [out, in], its bias [out] and, at int8, the
    // scale of each output channel [out], 0 to choose it from the largest weight, and its input's factors [in] if it is
    // evened. Then, always fp32, weight and bias of the whitening [width, width] and of the prototypes [many, width].
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
    Layer whitening_, prototypes_;
    std::unique_ptr<char, Free> memory_;
};

}  // namespace edgeae::ops

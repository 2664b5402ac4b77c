// The operators as ONNX Runtime sees them: edgeae::DenseChain for float32 rows, edgeae::DenseChainBytes for uint8 ones.
//
// Plain C API, so that one library serves every ONNX Runtime from 1.16 on, whatever headers it was compiled with.
// No exception leaves a callback.
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <stdexcept>

#include <onnxruntime_c_api.h>

#include "machines.hpp"
#include "pack.hpp"

#if defined(_WIN32)
#define EDGEAE_EXPORT extern "C" __declspec(dllexport)
#else
#define EDGEAE_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace edgeae::ops {
namespace {

constexpr std::uint32_t oldest_api = 16;
constexpr std::size_t most_dimensions = 9;

// What a kernel calls at every run; `shape_reference` needs ONNX Runtime 1.24 and allocates nothing.
struct Runtime {
    const OrtApi* api = nullptr;
    bool shape_reference = false;
};

void check(const OrtApi* api, OrtStatus* status) {
    if (status == nullptr) return;
    const std::string message = api->GetErrorMessage(status);
    api->ReleaseStatus(status);
    throw std::invalid_argument("edgeae Chain: " + message);
}

class Attributes {
public:
    Attributes(const OrtApi* api, const OrtKernelInfo* info) : api_(api), info_(info) {}

    std::string text(const char* name) const {
        std::size_t size = 0;
        check(api_, api_->KernelInfoGetAttribute_string(info_, name, nullptr, &size));
        std::string value(size, '\0');
        check(api_, api_->KernelInfoGetAttribute_string(info_, name, value.data(), &size));
        value.resize(std::strlen(value.c_str()));
        return value;
    }

    std::int64_t whole(const char* name) const {
        std::int64_t value = 0;
        check(api_, api_->KernelInfoGetAttribute_int64(info_, name, &value));
        return value;
    }

    float number(const char* name) const {
        float value = 0;
        check(api_, api_->KernelInfoGetAttribute_float(info_, name, &value));
        return value;
    }

    std::vector<std::int64_t> wholes(const char* name) const {
        std::size_t size = 0;
        check(api_, api_->KernelInfoGetAttributeArray_int64(info_, name, nullptr, &size));
        std::vector<std::int64_t> values(size);
        check(api_, api_->KernelInfoGetAttributeArray_int64(info_, name, values.data(), &size));
        return values;
    }

    std::vector<float> numbers(const char* name) const {
        std::size_t size = 0;
        check(api_, api_->KernelInfoGetAttributeArray_float(info_, name, nullptr, &size));
        std::vector<float> values(size);
        check(api_, api_->KernelInfoGetAttributeArray_float(info_, name, values.data(), &size));
        return values;
    }

private:
    const OrtApi* api_;
    const OrtKernelInfo* info_;
};

Description read(const Attributes& attributes) {
    Description given;
    given.widths = attributes.wholes("widths");
    given.activations = attributes.text("activations");
    given.alphas = attributes.numbers("alphas");
    given.keeps = attributes.wholes("keeps");
    given.score = attributes.text("score");
    given.score_factor = attributes.number("score_factor");
    given.score_shift = attributes.number("score_shift");
    given.clip = attributes.whole("clip") != 0;
    given.whitened = attributes.whole("whitened") != 0;
    given.prototypes = attributes.whole("prototypes");
    given.distance_factor = attributes.number("distance_factor");
    given.gaussian = attributes.whole("gaussian");
    given.divergence_factor = attributes.number("divergence_factor");
    given.log_variance_bound = attributes.number("log_variance_bound");
    given.constants = attributes.text("constants");
    given.int8 = attributes.whole("int8") != 0;
    if (given.int8) {
        given.input_scales = attributes.numbers("input_scales");
        given.input_zeros = attributes.wholes("input_zeros");
        given.evened = attributes.wholes("evened");
    }
    return given;
}

struct Shape {
    const std::int64_t* sizes = nullptr;
    std::size_t count = 0;
    std::int64_t copy[most_dimensions];
};

void read_shape(const Runtime& runtime, const OrtValue* value, Shape& shape) {
    const OrtApi* api = runtime.api;
#if ORT_API_VERSION >= 24
    if (runtime.shape_reference) {
        ONNXTensorElementDataType type;
        return check(api, api->GetTensorElementTypeAndShapeDataReference(value, &type, &shape.sizes, &shape.count));
    }
#endif
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api, api->GetTensorTypeAndShape(value, &info));
    OrtStatus* status = api->GetDimensionsCount(info, &shape.count);
    if (status == nullptr && shape.count <= most_dimensions)
        status = api->GetDimensions(info, shape.copy, shape.count);
    api->ReleaseTensorTypeAndShapeInfo(info);
    check(api, status);
    shape.sizes = shape.copy;
}

class Kernel {
public:
    Kernel(const Runtime& runtime, const OrtKernelInfo* info, bool bytes) : runtime_(runtime) {
        const OrtApi* api = runtime.api;
        const Attributes attributes(api, info);
        row_ = attributes.wholes("row");
        const auto out_row = attributes.wholes("out_row");
        if (row_.size() >= most_dimensions || out_row.size() >= most_dimensions)
            throw std::invalid_argument("edgeae Chain: rows of too many dimensions");
        int constant = 0;
        const OrtValue* numbers = nullptr;
        check(api, api->KernelInfoGetConstantInput_tensor(info, 1, &constant, &numbers));
        if (constant == 0) throw std::invalid_argument("edgeae Chain: its second input must be an initializer");
        Shape shape;
        read_shape(runtime, numbers, shape);
        if (shape.count != 1) throw std::invalid_argument("edgeae Chain: its second input must be a vector");
        void* data = nullptr;
        check(api, api->GetTensorMutableData(const_cast<OrtValue*>(numbers), &data));
        const char* name = std::getenv("EDGEAE_OPS_ISA");
        chain_ = std::make_unique<PackedChain>(read(attributes), static_cast<const float*>(data),
                                               static_cast<std::size_t>(shape.sizes[0]), bytes,
                                               choose_machine(name == nullptr ? "" : name));
        const auto product = [](const std::vector<std::int64_t>& sizes) {
            return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>());
        };
        const Chain& chain = chain_->chain();
        const bool scores = chain.score != Score::none;
        if (product(row_) != chain.width || (scores ? !out_row.empty() : product(out_row) != chain.out_width))
            throw std::invalid_argument("edgeae Chain: its rows are not as wide as its layers");
        out_count_ = 1 + out_row.size();
        for (std::size_t i = 0; i < out_row.size(); ++i) out_shape_[i + 1] = out_row[i];
    }

    void compute(OrtKernelContext* context) const {
        const OrtApi* api = runtime_.api;
        const OrtValue* input = nullptr;
        OrtValue* output = nullptr;
        void *x = nullptr, *out = nullptr;
        check(api, api->KernelContext_GetInput(context, 0, &input));
        Shape shape;
        read_shape(runtime_, input, shape);
        bool fits = shape.count == 1 + row_.size();
        for (std::size_t i = 0; fits && i < row_.size(); ++i) fits = shape.sizes[i + 1] == row_[i];
        if (!fits) throw std::invalid_argument("edgeae Chain: x is not of the shape that its attributes promise");
        std::int64_t out_shape[most_dimensions];
        std::memcpy(out_shape, out_shape_, sizeof out_shape);
        out_shape[0] = shape.sizes[0];
        check(api, api->KernelContext_GetOutput(context, 0, out_shape, out_count_, &output));
        check(api, api->GetTensorMutableData(const_cast<OrtValue*>(input), &x));
        check(api, api->GetTensorMutableData(output, &out));
        chain_->run(x, static_cast<float*>(out), out_shape[0]);
    }

private:
    Runtime runtime_;
    std::unique_ptr<PackedChain> chain_;
    std::vector<std::int64_t> row_;
    std::int64_t out_shape_[most_dimensions] = {};
    std::size_t out_count_ = 1;
};

// ONNX Runtime passes this struct back to every callback but those of a kernel.
struct Operator : OrtCustomOp {
    bool bytes;
    Runtime runtime;
};

template <class Function>
OrtStatus* guarded(const OrtApi* api, Function&& function) noexcept {
    try {
        function();
        return nullptr;
    } catch (const std::exception& problem) {
        return api->CreateStatus(ORT_INVALID_ARGUMENT, problem.what());
    } catch (...) {
        return api->CreateStatus(ORT_FAIL, "edgeae Chain: unknown error");
    }
}

struct Instance {
    Kernel kernel;
    const OrtApi* api;
};

void define(Operator& made, bool bytes, const Runtime& runtime) {
    static_cast<OrtCustomOp&>(made) = OrtCustomOp{};
    made.bytes = bytes;
    made.runtime = runtime;
    made.version = oldest_api;
    made.GetName = [](const OrtCustomOp* op) -> const char* {
        return static_cast<const Operator*>(op)->bytes ? "DenseChainBytes" : "DenseChain";
    };
    made.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
    made.GetInputTypeCount = [](const OrtCustomOp*) -> std::size_t { return 2; };
    made.GetInputType = [](const OrtCustomOp* op, std::size_t index) {
        const bool bytes = index == 0 && static_cast<const Operator*>(op)->bytes;
        return bytes ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    };
    made.GetOutputTypeCount = [](const OrtCustomOp*) -> std::size_t { return 1; };
    made.GetOutputType = [](const OrtCustomOp*, std::size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
    made.GetInputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
    made.GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
    made.GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return OrtMemTypeDefault; };
    made.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
    made.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
    made.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
    made.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    made.CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
        const auto& self = *static_cast<const Operator*>(op);
        return guarded(self.runtime.api, [&] {
            *kernel = new Instance{Kernel(self.runtime, info, self.bytes), self.runtime.api};
        });
    };
    made.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
        const auto& instance = *static_cast<const Instance*>(kernel);
        return guarded(instance.api, [&] { instance.kernel.compute(context); });
    };
    made.KernelDestroy = [](void* kernel) { delete static_cast<Instance*>(kernel); };
}

Runtime find_runtime(const OrtApiBase* base) {
    Runtime found;
    found.api = base->GetApi(oldest_api);
#if ORT_API_VERSION >= 24
    // "1.24.0": asking for an interface that is not there would print an error.
    const char* version = base->GetVersionString();
    const long minor = std::strncmp(version, "1.", 2) == 0 ? std::strtol(version + 2, nullptr, 10) : 0;
    const OrtApi* newer = minor >= 24 ? base->GetApi(24) : nullptr;
    if (newer != nullptr) {
        found.api = newer;
        found.shape_reference = true;
    }
#endif
    return found;
}

}  // namespace
}  // namespace edgeae::ops

// What ONNX Runtime looks for in an operator library.
EDGEAE_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
    using namespace edgeae::ops;
    static const Runtime runtime = find_runtime(base);
    if (runtime.api == nullptr) return nullptr;  // older than 1.16: the operators stay unknown, and sessions say so
    static Operator operators[2];
    static OrtCustomOpDomain* domain = nullptr;
    static OrtStatus* const failed = [] {
        for (int i = 0; i < 2; ++i) define(operators[i], i == 1, runtime);
        OrtStatus* status = runtime.api->CreateCustomOpDomain("edgeae", &domain);
        for (int i = 0; status == nullptr && i < 2; ++i)
            status = runtime.api->CustomOpDomain_Add(domain, &operators[i]);
        return status;
    }();
    return failed != nullptr ? failed : runtime.api->AddCustomOpDomain(options, domain);
}

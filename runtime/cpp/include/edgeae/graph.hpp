// One graph as an ONNX Runtime session whose metadata and tensors were checked.
#pragma once

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bundle.hpp"
#include "denormals.hpp"
#include "errors.hpp"
#include "json.hpp"
#include "options.hpp"
#include "ort.hpp"

namespace edgeae::detail {

enum class Role { encoder, decoder, scorer };

inline const char* name_of(Role role) {
  return role == Role::encoder ? "encoder" : role == Role::decoder ? "decoder" : "scorer";
}

/// Any number of threads may run one graph at once.
class Graph {
 public:
  // `where` names the graph in messages. Throws BundleError if it is no graph of edgeae's, or DeviceError.
  Graph(const std::string& data, std::string where, const Device& device, const Options& options)
      : where_(std::move(where)), device_(device.name), session_(load(data, device, options)) {
    read_metadata();
    check_tensor("input", source(), byte_input() ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                 source_shape_);
    check_tensor("output", target(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, target_shape_);
    OrtMemoryInfo* memory = nullptr;
    OrtRunOptions* run_options = nullptr;
    check(ort().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    memory_.reset(memory);
    check(ort().CreateRunOptions(&run_options));
    run_options_.reset(run_options);
    check(ort().RunOptionsSetRunLogSeverityLevel(run_options, ORT_LOGGING_LEVEL_FATAL));
  }

  Role role() const { return role_; }
  const std::string& where() const { return where_; }
  const Signature& signature() const { return signature_; }
  std::optional<std::int64_t> batch() const { return batch_; }

  const char* source() const { return role_ == Role::decoder ? "z" : "x"; }
  const char* target() const { return role_ == Role::encoder ? "z" : role_ == Role::decoder ? "x_hat" : "score"; }
  bool byte_input() const { return role_ != Role::decoder && signature_.input_dtype == "uint8"; }
  const std::vector<std::int64_t>& source_shape() const { return source_shape_; }  // of one row
  std::size_t source_values() const { return product(source_shape_); }             // in one row
  std::size_t target_values() const { return product(target_shape_); }

  // A tensor of `rows` rows over the caller's memory.
  Value source_value(void* place, std::size_t rows) const {
    return tensor(place, rows, source_shape_, byte_input());
  }
  Value target_value(float* place, std::size_t rows) const { return tensor(place, rows, target_shape_, false); }

  // Run on `rows` rows at `from`, float or byte as `byte_input` says, and write to `to`.
  void run(const void* from, std::size_t rows, float* to) const {
    const Value input = source_value(const_cast<void*>(from), rows), output = target_value(to, rows);
    const char *input_name = source(), *output_name = target();
    const OrtValue* inputs[] = {input.get()};
    OrtValue* outputs[] = {output.get()};
    const DenormalsAsZero denormals;
    finish(ort().Run(session_.get(), run_options_.get(), &input_name, inputs, 1, &output_name, 1, outputs));
  }

  IoBinding bind(const Value& input, const Value& output) const {
    OrtIoBinding* raw = nullptr;
    check(ort().CreateIoBinding(session_.get(), &raw));
    IoBinding binding(raw);
    check(ort().BindInput(raw, source(), input.get()));
    check(ort().BindOutput(raw, target(), output.get()));
    return binding;
  }

  void run(const IoBinding& binding) const {
    const DenormalsAsZero denormals;
    finish(ort().RunWithBinding(session_.get(), run_options_.get(), binding.get()));
  }

  // Refuse what the manifest says otherwise.
  void require(Role role, const Signature& wanted, std::optional<std::int64_t> batch) const {
    const auto refuse = [&](const std::string& key, const std::string& found, const std::string& expected) {
      throw BundleError(where_ + ": its metadata says edgeae." + key + " = " + found + ", the manifest says " + expected +
                        "; export the bundle again");
    };
    const auto equal = [&](const std::string& key, const std::string& found, const std::string& expected) {
      if (found != expected) refuse(key, quoted(found), quoted(expected));
    };
    equal("role", name_of(role_), name_of(role));
    equal("variant", signature_.variant, wanted.variant);
    equal("precision", signature_.precision, wanted.precision);
    equal("input_shape", joined(signature_.input_shape, ","), joined(wanted.input_shape, ","));
    equal("input_dtype", signature_.input_dtype, wanted.input_dtype);
    equal("layout", signature_.layout, wanted.layout);
    equal("latent_dim", text(signature_.latent_dim), text(wanted.latent_dim));
    equal("score", signature_.score, wanted.score);
    if (signature_.threshold != wanted.threshold)  // by value: both may be written in their own way
      refuse("threshold", float_text(signature_.threshold), float_text(wanted.threshold));
    if (signature_.feature_names != wanted.feature_names) refuse("feature_names", names(signature_), names(wanted));
    if (batch_ != batch)
      throw BundleError(where_ + ": its batch is " + (batch_ ? text(*batch_) : "symbolic") + ", the manifest says " +
                        (batch ? text(*batch) : "symbolic") + "; export the bundle again");
  }

 private:
  static std::size_t product(const std::vector<std::int64_t>& shape) {
    std::size_t count = 1;
    for (const std::int64_t side : shape) count *= static_cast<std::size_t>(side);
    return count;
  }

  static std::string names(const Signature& signature) {
    if (!signature.feature_names) return "None";
    std::vector<std::string> all;
    for (const std::string& name : *signature.feature_names) all.push_back(quoted(name));
    return tuple_of(all);
  }

  Session load(const std::string& data, const Device& device, const Options& options) const {
    try {
      return make_session(data.data(), data.size(), device, options);
    } catch (const OrtProblem& problem) {
      throw BundleError(where_ + ": ONNX Runtime " + ort_version() + " cannot load it: " + problem.what());
    }
  }

  void finish(OrtStatus* status) const {
    if (status == nullptr) return;
    try {
      check(status);
    } catch (const OrtProblem& problem) {
      throw DeviceError(where_ + ": failed on " + device_ + ": " + problem.what() +
                        "; if memory is short, set options={'chunk': ...}");
    }
  }

  void read_metadata() {
    OrtModelMetadata* raw = nullptr;
    check(ort().SessionGetModelMetadata(session_.get(), &raw));
    const ModelMetadata metadata(raw);
    OrtAllocator* allocator = nullptr;
    check(ort().GetAllocatorWithDefaultOptions(&allocator));
    const auto find = [&](const std::string& key) -> std::optional<std::string> {
      char* found = nullptr;
      check(ort().ModelMetadataLookupCustomMetadataMap(raw, allocator, ("edgeae." + key).c_str(), &found));
      if (found == nullptr) return std::nullopt;
      std::string value = found;
      check(ort().AllocatorFree(allocator, found));
      return value;
    };
    const auto get = [&](const std::string& key) {
      const auto value = find(key);
      if (!value)
        throw BundleError(where_ + ": not a graph of an edgeae bundle, its metadata has no edgeae." + key +
                          "; make one with: edgeae export, or edgeae adopt");
      return *value;
    };
    const auto number = [&](const std::string& key, const std::string& word) {
      double value = 0;
      if (!parse_double(word, value) || !std::isfinite(value))
        throw BundleError(where_ + ": edgeae." + key + " is " + in_quotes(word) + ", expected a number");
      return value;
    };
    const auto whole = [&](const std::string& key, const std::string& word) {
      const double value = number(key, word);
      if (!(value >= 0 && value <= 1 << 28) || value != static_cast<double>(static_cast<std::int64_t>(value)))
        throw BundleError(where_ + ": edgeae." + key + " is " + in_quotes(word) + ", expected a whole number");
      return static_cast<std::int64_t>(value);
    };
    const std::int64_t version = whole("format_version", get("format_version"));
    if (version > kFormatVersion)
      throw BundleError(text(where_, ": format version ", version, " is newer than this edgeae reads (",
                             kFormatVersion, "); upgrade edgeae"));
    const std::string role = get("role");
    if (role != "encoder" && role != "decoder" && role != "scorer")
      throw BundleError(where_ + ": edgeae.role is " + in_quotes(role) + ", expected encoder, decoder or scorer");
    role_ = role == "encoder" ? Role::encoder : role == "decoder" ? Role::decoder : Role::scorer;
    signature_.variant = get("variant");
    signature_.precision = get("precision");
    std::istringstream sides(get("input_shape"));
    for (std::string side; std::getline(sides, side, ',');)
      signature_.input_shape.push_back(whole("input_shape", side));
    signature_.input_dtype = get("input_dtype");
    signature_.layout = get("layout");
    signature_.latent_dim = whole("latent_dim", get("latent_dim"));
    signature_.score = get("score");
    signature_.threshold = number("threshold", get("threshold"));
    if (const auto list = find("feature_names")) {
      const Json parsed = parse_json(*list, where_ + ": edgeae.feature_names");
      check_names()(parsed, where_ + ": edgeae.feature_names");
      signature_.feature_names = read_names(parsed);
    }
    check_signature(signature_, where_);
    const std::vector<std::int64_t> latent = {signature_.latent_dim};
    source_shape_ = role_ == Role::decoder ? latent : signature_.input_shape;
    if (role_ != Role::scorer) target_shape_ = role_ == Role::encoder ? latent : signature_.input_shape;
  }

  // The graph must have one such tensor, [batch, *row]; the input decides what the batch is.
  void check_tensor(const std::string& what, const std::string& wanted, ONNXTensorElementDataType wanted_type,
                    const std::vector<std::int64_t>& row) {
    const bool input = what == "input";
    std::size_t count = 0;
    check(input ? ort().SessionGetInputCount(session_.get(), &count) : ort().SessionGetOutputCount(session_.get(), &count));
    OrtAllocator* allocator = nullptr;
    check(ort().GetAllocatorWithDefaultOptions(&allocator));
    std::vector<std::string> found;
    for (std::size_t i = 0; i < count; ++i) {
      char* name = nullptr;
      check(input ? ort().SessionGetInputName(session_.get(), i, allocator, &name)
                  : ort().SessionGetOutputName(session_.get(), i, allocator, &name));
      found.push_back(in_quotes(name));
      check(ort().AllocatorFree(allocator, name));
    }
    const std::string start = where_ + ": a graph that edgeae does not run: its " + what;
    if (count != 1 || found[0] != in_quotes(wanted))
      throw BundleError(start + "s are [" + joined(found) + "], expected ['" + wanted + "']");
    OrtTypeInfo* raw = nullptr;
    check(input ? ort().SessionGetInputTypeInfo(session_.get(), 0, &raw) : ort().SessionGetOutputTypeInfo(session_.get(), 0, &raw));
    const TypeInfo info(raw);
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    check(ort().CastTypeInfoToTensorInfo(raw, &tensor));
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    std::vector<std::int64_t> shape;
    if (tensor != nullptr) {
      std::size_t rank = 0;
      check(ort().GetTensorElementType(tensor, &type));
      check(ort().GetDimensionsCount(tensor, &rank));
      shape.resize(rank);
      check(ort().GetDimensions(tensor, shape.data(), rank));
    }
    const bool fits = type == wanted_type && shape.size() == row.size() + 1 &&
                      std::equal(row.begin(), row.end(), shape.begin() + 1) && (shape[0] == -1 || shape[0] > 0);
    const std::int64_t batch = shape.empty() ? -1 : shape[0];
    if (input && fits && batch > 0) batch_ = batch;
    if (!fits || batch != batch_.value_or(-1)) {
      const std::string rest = row.empty() ? "" : ", " + joined(row);
      throw BundleError(start + " " + in_quotes(wanted) + " has the shape [" + joined(shape) + "] or type " +
                        text(static_cast<int>(type)) + ", expected " +
                        (wanted_type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 ? "uint8" : "float32") + " [batch" + rest + "]");
    }
  }

  Value tensor(void* place, std::size_t rows, const std::vector<std::int64_t>& row, bool bytes) const {
    std::int64_t shape[4] = {static_cast<std::int64_t>(rows)};
    std::copy(row.begin(), row.end(), shape + 1);
    OrtValue* value = nullptr;
    check(ort().CreateTensorWithDataAsOrtValue(
        memory_.get(), place, rows * product(row) * (bytes ? 1 : sizeof(float)), shape, row.size() + 1,
        bytes ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value));
    return Value(value);
  }

  std::string where_, device_;
  Session session_;
  MemoryInfo memory_;
  RunOptions run_options_;
  Role role_ = Role::scorer;
  Signature signature_;
  std::optional<std::int64_t> batch_;
  std::vector<std::int64_t> source_shape_, target_shape_;
};

}  // namespace edgeae::detail

// What a caller may set.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <functional>
#include <map>
#include <string>

namespace edgeae {

/// What to do with rows that hold NaN or infinity: throw InputError, or give them NaN as their result, which is an
/// anomaly. One row never changes another.
enum class OnInvalid { raise, flag };

/// How to load a model. Whatever is left as it is, is as in Python.
struct Options {
  /// "cpu"; "cuda" or "cuda:1", which throw DeviceError unless the device works; "auto", which takes a working CUDA
  /// device, else the CPU (`Autoencoder::device_reason` says why); or another execution provider that the ONNX Runtime
  /// library has: "xnnpack", "coreml", "qnn", "openvino", "webgpu".
  std::string device = "auto";

  /// Of the graphs in a bundle's directory: "fp32", or "fp16" or "int8" where the bundle has them.
  std::string precision = "fp32";

  OnInvalid on_invalid = OnInvalid::raise;

  /// Threads that share a large input; 1 keeps every call in the calling thread. Ignored on a GPU.
  std::size_t workers = 1;

  /// Rows per call of ONNX Runtime; 0: chosen from the size of a row, so that a chunk stays in the cache.
  std::size_t chunk = 0;

  /// Options of the execution provider, such as {"gpu_mem_limit", "2147483648"}; unknown ones are refused.
  std::map<std::string, std::string> provider;

  /// Let the CPU run the nodes that the device does not take. Off: such a model is refused with DeviceError.
  bool cpu_fallback = false;

  /// Called with ONNX Runtime's session options before each session is made, after edgeae has set its own (one thread,
  /// no spinning): for whatever else ONNX Runtime offers, such as custom operators.
  std::function<void(OrtSessionOptions*)> configure;
};

}  // namespace edgeae

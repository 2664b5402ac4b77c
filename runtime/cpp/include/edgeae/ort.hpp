// ONNX Runtime's C API with owners and errors. The C API rather than the C++ one, whose headers call a null pointer
// before main() when the library is older than they are.
#pragma once

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "denormals.hpp"
#include "errors.hpp"
#include "options.hpp"

namespace edgeae::detail {

constexpr unsigned kApiVersion = 19;  // of ONNX Runtime 1.19; the first that edgeae is made for

// Thrown where ONNX Runtime reports an error; callers turn it into one of edgeae's that names the file or the device.
struct OrtProblem : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string ort_version() { return OrtGetApiBase()->GetVersionString(); }

inline const OrtApi& ort() {
  static const OrtApi* const api = OrtGetApiBase()->GetApi(kApiVersion);
  if (api == nullptr)
    throw Error("ONNX Runtime " + ort_version() + " is too old; link one from 1." + std::to_string(kApiVersion));
  return *api;
}

inline void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = first_line(ort().GetErrorMessage(status));
  ort().ReleaseStatus(status);
  throw OrtProblem(message);
}

// Owners of ONNX Runtime's types.
#define EDGEAE_OWNED(NAME)                                                      \
  struct NAME##Releaser {                                                       \
    void operator()(Ort##NAME* value) const { ort().Release##NAME(value); }     \
  };                                                                            \
  using NAME = std::unique_ptr<Ort##NAME, NAME##Releaser>
EDGEAE_OWNED(IoBinding);
EDGEAE_OWNED(MemoryInfo);
EDGEAE_OWNED(ModelMetadata);
EDGEAE_OWNED(RunOptions);
EDGEAE_OWNED(Session);
EDGEAE_OWNED(SessionOptions);
EDGEAE_OWNED(TypeInfo);
EDGEAE_OWNED(Value);
#undef EDGEAE_OWNED

struct CudaOptionsReleaser {
  void operator()(OrtCUDAProviderOptionsV2* value) const { ort().ReleaseCUDAProviderOptions(value); }
};

// One environment per process, made at first use and never released: ONNX Runtime's own globals may be gone by the
// time that ours would be.
inline const OrtEnv* environment() {
  static const OrtEnv* const made = [] {
#ifdef _WIN32
    char* found = nullptr;
    std::size_t size = 0;
    _dupenv_s(&found, &size, "ORT_DISABLE_TELEMETRY");
    const bool wanted = found != nullptr && std::string(found) == "0";
    std::free(found);
    if (!wanted) _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // whoever wants telemetry sets the variable to 0
    const bool wanted = std::string(std::getenv("ORT_DISABLE_TELEMETRY")) == "0";
#endif
    OrtEnv* env = nullptr;
    check(ort().CreateEnv(ORT_LOGGING_LEVEL_FATAL, "edgeae", &env));
    if (!wanted) check(ort().DisableTelemetryEvents(env));
    return env;
  }();
  return made;
}

struct Device {
  std::string name = "cpu";    // "cpu", "cuda:0", "xnnpack", ...
  std::string provider;        // as ONNX Runtime's function wants it; empty for the CPU
  std::string full_provider;   // as ONNX Runtime lists it
  std::string reason;          // why `auto` chose it
};

inline bool available(const std::string& full_provider) {
  char** names = nullptr;
  int count = 0;
  check(ort().GetAvailableProviders(&names, &count));
  const bool found = std::any_of(names, names + count, [&](const char* name) { return name == full_provider; });
  check(ort().ReleaseAvailableProviders(names, count));
  return found;
}

inline void append_provider(OrtSessionOptions* made, const Device& device, const Options& options) {
  std::map<std::string, std::string> settings = options.provider;
  std::vector<const char*> keys, values;
  const auto list = [&] {
    for (const auto& [key, value] : settings) {
      keys.push_back(key.c_str());
      values.push_back(value.c_str());
    }
  };
  if (device.provider != "CUDA") {
    list();
    return check(ort().SessionOptionsAppendExecutionProvider(made, device.provider.c_str(), keys.data(),
                                                             values.data(), keys.size()));
  }
  settings.emplace("device_id", device.name.substr(device.name.find(':') + 1));
  settings.emplace("use_tf32", "0");  // TF32 rounds to a 10-bit mantissa: scores would differ from the CPU's
  settings.emplace("cudnn_conv_algo_search", "HEURISTIC");  // EXHAUSTIVE takes seconds for every new batch size
  list();
  OrtCUDAProviderOptionsV2* raw = nullptr;
  check(ort().CreateCUDAProviderOptions(&raw));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, CudaOptionsReleaser> cuda(raw);
  check(ort().UpdateCUDAProviderOptions(raw, keys.data(), values.data(), keys.size()));
  check(ort().SessionOptionsAppendExecutionProvider_CUDA_V2(made, raw));
}

// A session that runs wholly on `device`. Throws OrtProblem if ONNX Runtime refuses the graph, DeviceError if the
// device does not work or does not take all of it.
inline Session make_session(const void* data, std::size_t size, const Device& device, const Options& options) {
  const OrtEnv* env = environment();  // before any provider, which logs
  OrtSessionOptions* raw_options = nullptr;
  check(ort().CreateSessionOptions(&raw_options));
  const SessionOptions made(raw_options);
  check(ort().SetIntraOpNumThreads(raw_options, 1));
  check(ort().SetInterOpNumThreads(raw_options, 1));
  check(ort().SetSessionLogSeverityLevel(raw_options, ORT_LOGGING_LEVEL_FATAL));
  std::map<std::string, std::string> config = {
      {"session.intra_op.allow_spinning", "0"},
      {"session.inter_op.allow_spinning", "0"},
      {"session.set_denormal_as_zero", "1"},  // in threads that `configure` may ask for; for the caller's see denormals.hpp
      // A 150-byte graph can otherwise fold a constant of gigabytes while it is loaded.
      {"optimization.constant_folding_max_output_size_in_bytes", std::to_string(1 << 26)},
  };
  const bool on_cpu = device.provider.empty();
  if (!on_cpu && !options.cpu_fallback) config["session.disable_cpu_ep_fallback"] = "1";
  for (const auto& [key, value] : config) check(ort().AddSessionConfigEntry(raw_options, key.c_str(), value.c_str()));
  OrtSession* session = nullptr;
  try {
    if (!on_cpu) append_provider(raw_options, device, options);
    if (options.configure) options.configure(raw_options);
    const DenormalsAsZero denormals;  // also puts back what the entry above does to the thread of the first session
    check(ort().CreateSessionFromArray(env, data, size, raw_options, &session));
  } catch (const OrtProblem& problem) {
    if (on_cpu) throw;
    throw DeviceError(device.name + ": ONNX Runtime " + ort_version() + " cannot use it: " + problem.what() +
                      "; check the device and its libraries, or use device='cpu'" +
                      (device.provider == "CUDA" ? "" : ", or set cpu_fallback to let the CPU run part of the model"));
  }
  return Session(session);
}

// The smallest model there is, y = Relu(x) for one float: loading it shows whether a provider works.
inline void probe(const Device& device) {
  static const char model[] =
      "\x08\x08:3\n\x0c\n\x01x\x12\x01y\"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
      "b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
      "B\x04\n\x00\x10\r";
  make_session(model, sizeof(model) - 1, device, Options{});
}

// The device called "auto", "cpu", "cuda", "cuda:1" or "xnnpack", after it has loaded a tiny model.
inline Device choose_device(const std::string& name) {
  static const std::map<std::string, std::pair<const char*, const char*>> providers = {
      {"xnnpack", {"XNNPACK", "XnnpackExecutionProvider"}},  {"coreml", {"CoreML", "CoreMLExecutionProvider"}},
      {"qnn", {"QNN", "QNNExecutionProvider"}},              {"openvino", {"OpenVINO", "OpenVINOExecutionProvider"}},
      {"webgpu", {"WebGPU", "WebGpuExecutionProvider"}},
  };
  Device device;
  if (name == "cpu") return device;
  if (name == "auto") {
    if (!available("CUDAExecutionProvider")) {
      device.reason = "device auto: cpu, because ONNX Runtime " + ort_version() + " has no CUDA provider";
      return device;
    }
    try {
      Device cuda = choose_device("cuda");
      cuda.reason =
          "device auto: " + cuda.name + ", because the CUDA provider of ONNX Runtime " + ort_version() + " works";
      return cuda;
    } catch (const DeviceError& problem) {
      device.reason = std::string("device auto: cpu, because ") + problem.what();
      return device;
    }
  }
  const std::string digits = name.rfind("cuda:", 0) == 0 ? name.substr(5) : name == "cuda" ? "0" : "";
  if (!digits.empty() && digits.size() < 4 && digits.find_first_not_of("0123456789") == std::string::npos) {
    device = {"cuda:" + digits, "CUDA", "CUDAExecutionProvider", ""};
  } else if (const auto found = providers.find(name); found != providers.end()) {
    device = {name, found->second.first, found->second.second, ""};
  } else {
    throw InputError("device: " + in_quotes(name) +
                     " is not one of auto, cpu, cuda, cuda:0, cuda:1, ..., xnnpack, coreml, qnn, openvino, webgpu");
  }
  if (!available(device.full_provider))
    throw DeviceError(device.name + ": ONNX Runtime " + ort_version() + " has no " + device.provider +
                      " provider; link a build that has it, or use device='cpu'");
  if (device.provider == "CUDA") probe(device);
  return device;
}

}  // namespace edgeae::detail

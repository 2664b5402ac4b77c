// The C interface: each function is the C++ one with its exceptions turned into a status and a text.
#include <edgeae/edgeae.h>

#include <algorithm>
#include <cstring>
#include <edgeae/edgeae.hpp>
#include <exception>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

struct edgeae_model {
  edgeae::Autoencoder model;
};

struct edgeae_scorer {
  edgeae::Scorer scorer;
  std::size_t row_values;
};

namespace {

edgeae_status report(edgeae_status status, const char* message, char* error, size_t error_size) noexcept {
  if (error != nullptr && error_size > 0) {
    const size_t length = std::min(std::strlen(message), error_size - 1);
    std::memcpy(error, message, length);
    error[length] = '\0';
  }
  return status;
}

template <class Function>
edgeae_status guarded(char* error, size_t error_size, const Function& function) noexcept {
  try {
    function();
    return EDGEAE_OK;
  } catch (const edgeae::InputError& problem) {
    return report(EDGEAE_INPUT_ERROR, problem.what(), error, error_size);
  } catch (const edgeae::IntegrityError& problem) {
    return report(EDGEAE_INTEGRITY_ERROR, problem.what(), error, error_size);
  } catch (const edgeae::BundleError& problem) {
    return report(EDGEAE_BUNDLE_ERROR, problem.what(), error, error_size);
  } catch (const edgeae::DeviceError& problem) {
    return report(EDGEAE_DEVICE_ERROR, problem.what(), error, error_size);
  } catch (const std::bad_alloc&) {
    return report(EDGEAE_ERROR, "out of memory; pass fewer rows at once", error, error_size);
  } catch (const std::exception& problem) {
    return report(EDGEAE_ERROR, problem.what(), error, error_size);
  } catch (...) {
    return report(EDGEAE_ERROR, "an unknown C++ exception", error, error_size);
  }
}

void require(const void* argument, const char* name) {
  if (argument == nullptr) throw edgeae::InputError(std::string(name) + ": must not be NULL");
}

// A member that lies beyond the size that the caller was compiled with has its default.
edgeae::Options read(const edgeae_options* given) {
  edgeae_options all = EDGEAE_OPTIONS;
  if (given != nullptr) {
    if (given->struct_size < sizeof(size_t) || given->struct_size > 4096)
      throw edgeae::InputError("options: struct_size is not set; start from EDGEAE_OPTIONS");
    if (given->struct_size > sizeof all) {
      const auto* bytes = reinterpret_cast<const unsigned char*>(given);
      if (std::any_of(bytes + sizeof all, bytes + given->struct_size, [](unsigned char byte) { return byte != 0; }))
        throw edgeae::InputError("options: set a member that this library does not know; install a newer edgeae");
    }
    std::memcpy(&all, given, std::min(given->struct_size, sizeof all));
  }
  edgeae::Options options;
  if (all.device != nullptr) options.device = all.device;
  if (all.precision != nullptr) options.precision = all.precision;
  if (all.on_invalid != EDGEAE_RAISE && all.on_invalid != EDGEAE_FLAG)
    throw edgeae::InputError("on_invalid: " + std::to_string(all.on_invalid) + " is not one of raise, flag");
  options.on_invalid = all.on_invalid == EDGEAE_FLAG ? edgeae::OnInvalid::flag : edgeae::OnInvalid::raise;
  options.cpu_fallback = all.cpu_fallback != 0;
  options.workers = all.workers == 0 ? 1 : all.workers;
  options.chunk = all.chunk;
  return options;
}

template <class Load>
edgeae_status load(edgeae_model** model, char* error, size_t error_size, const Load& make) noexcept {
  return guarded(error, error_size, [&] {
    require(model, "model");
    *model = nullptr;
    *model = new edgeae_model{make()};
  });
}

// Call a method that takes rows of `from` values and gives rows of `to` values.
template <class T, class Method>
edgeae_status run(const edgeae_model* model, const T* rows, size_t count, float* out, char* error, size_t error_size,
                  size_t (*from)(const edgeae::Autoencoder&), size_t (*to)(const edgeae::Autoencoder&),
                  const Method& method) noexcept {
  return guarded(error, error_size, [&] {
    require(model, "model");
    if (count > 0) {
      require(rows, "the input");
      require(out, "the result");
    }
    const size_t widest = std::max(from(model->model), to(model->model));
    if (count > SIZE_MAX / sizeof(float) / widest) throw edgeae::InputError("rows: more than memory can hold");
    method(model->model, edgeae::Span<const T>(rows, count * from(model->model)),
           edgeae::Span<float>(out, count * to(model->model)));
  });
}

size_t row(const edgeae::Autoencoder& model) { return model.row_values(); }
size_t latent(const edgeae::Autoencoder& model) { return model.latent_dim(); }
size_t one(const edgeae::Autoencoder&) { return 1; }

constexpr auto kEncode = [](const auto& model, auto x, auto out) { model.encode(x, out); };
constexpr auto kDecode = [](const auto& model, auto z, auto out) { model.decode(z, out); };
constexpr auto kReconstruct = [](const auto& model, auto x, auto out) { model.reconstruct(x, out); };
constexpr auto kExplain = [](const auto& model, auto x, auto out) {
  const std::vector<float> values = model.explain(x).values;
  std::copy(values.begin(), values.end(), out.data());
};
constexpr auto kCalibrate = [](const auto& model, auto scores, auto out) {
  const std::vector<float> values = model.calibrate(scores);
  std::copy(values.begin(), values.end(), out.data());
};
constexpr auto kScore = [](const auto& model, auto x, auto out) { model.score(x, out); };

template <class T>
edgeae_status score_one(edgeae_scorer* scorer, const T* row, float* score, char* error, size_t error_size) noexcept {
  return guarded(error, error_size, [&] {
    require(scorer, "scorer");
    require(row, "the input");
    require(score, "the result");
    *score = scorer->scorer.score(edgeae::Span<const T>(row, scorer->row_values));
  });
}

}  // namespace

extern "C" {

const char* edgeae_version(void) { return EDGEAE_VERSION; }

edgeae_status edgeae_load(const char* path, const edgeae_options* options, edgeae_model** model, char* error,
                          size_t error_size) {
  return load(model, error, error_size, [&] {
    require(path, "path");
    return edgeae::load(path, read(options));
  });
}

edgeae_status edgeae_load_bytes(const void* data, size_t size, const edgeae_options* options, edgeae_model** model,
                                char* error, size_t error_size) {
  return load(model, error, error_size, [&] {
    require(data, "data");
    return edgeae::load_bytes(data, size, read(options));
  });
}

void edgeae_free(edgeae_model* model) { delete model; }

edgeae_status edgeae_get_info(const edgeae_model* model, edgeae_info* info, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    require(model, "model");
    require(info, "info");
    if (info->struct_size < sizeof(size_t)) throw edgeae::InputError("info: struct_size is not set");
    const edgeae::Autoencoder& found = model->model;
    const edgeae::Signature& signature = found.signature();
    edgeae_info all = {};
    all.struct_size = info->struct_size;
    all.row_values = found.row_values();
    all.latent_dim = found.latent_dim();
    all.rank = signature.input_shape.size();
    std::copy(signature.input_shape.begin(), signature.input_shape.end(), all.input_shape);
    all.threshold = found.threshold();
    all.uint8_input = signature.input_dtype == "uint8";
    all.variant = signature.variant.c_str();
    all.precision = signature.precision.c_str();
    all.layout = signature.layout.c_str();
    all.score = signature.score.c_str();
    all.device = found.device().c_str();
    all.device_reason = found.device_reason().c_str();
    std::memcpy(info, &all, std::min(info->struct_size, sizeof all));
  });
}

const char* edgeae_feature_name(const edgeae_model* model, size_t index) {
  if (model == nullptr) return nullptr;
  const auto& names = model->model.signature().feature_names;
  return names && index < names->size() ? (*names)[index].c_str() : nullptr;
}

edgeae_status edgeae_prepare(const edgeae_model* model, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    require(model, "model");
    model->model.prepare();
  });
}

edgeae_status edgeae_encode(const edgeae_model* model, const float* x, size_t rows, float* z, char* error,
                            size_t error_size) {
  return run(model, x, rows, z, error, error_size, row, latent, kEncode);
}

edgeae_status edgeae_encode_u8(const edgeae_model* model, const uint8_t* x, size_t rows, float* z, char* error,
                               size_t error_size) {
  return run(model, x, rows, z, error, error_size, row, latent, kEncode);
}

edgeae_status edgeae_decode(const edgeae_model* model, const float* z, size_t rows, float* x_hat, char* error,
                            size_t error_size) {
  return run(model, z, rows, x_hat, error, error_size, latent, row, kDecode);
}

edgeae_status edgeae_reconstruct(const edgeae_model* model, const float* x, size_t rows, float* x_hat, char* error,
                                 size_t error_size) {
  return run(model, x, rows, x_hat, error, error_size, row, row, kReconstruct);
}

edgeae_status edgeae_reconstruct_u8(const edgeae_model* model, const uint8_t* x, size_t rows, float* x_hat,
                                    char* error, size_t error_size) {
  return run(model, x, rows, x_hat, error, error_size, row, row, kReconstruct);
}

edgeae_status edgeae_score(const edgeae_model* model, const float* x, size_t rows, float* scores, char* error,
                           size_t error_size) {
  return run(model, x, rows, scores, error, error_size, row, one, kScore);
}

edgeae_status edgeae_score_u8(const edgeae_model* model, const uint8_t* x, size_t rows, float* scores, char* error,
                              size_t error_size) {
  return run(model, x, rows, scores, error, error_size, row, one, kScore);
}

edgeae_status edgeae_calibrate(const edgeae_model* model, const float* scores, size_t rows, float* calibrated,
                               char* error, size_t error_size) {
  return run(model, scores, rows, calibrated, error, error_size, one, one, kCalibrate);
}

edgeae_status edgeae_explain(const edgeae_model* model, const float* x, size_t rows, float* contributions, char* error,
                             size_t error_size) {
  return run(model, x, rows, contributions, error, error_size, row, row, kExplain);
}

edgeae_status edgeae_explain_u8(const edgeae_model* model, const uint8_t* x, size_t rows, float* contributions,
                                char* error, size_t error_size) {
  return run(model, x, rows, contributions, error, error_size, row, row, kExplain);
}

edgeae_status edgeae_value_name(const edgeae_model* model, size_t index, char* name, size_t name_size, char* error,
                                size_t error_size) {
  return guarded(error, error_size, [&] {
    require(model, "model");
    require(name, "name");
    const size_t values = model->model.row_values();
    if (index >= values)
      throw edgeae::InputError("index: expected one below " + std::to_string(values) + ", got " + std::to_string(index));
    report(EDGEAE_OK, model->model.signature().value_name(index).c_str(), name, name_size);
  });
}

int32_t edgeae_is_anomaly(const edgeae_model* model, float score) {
  return model == nullptr || model->model.is_anomaly(score) ? 1 : 0;
}

edgeae_status edgeae_bind(const edgeae_model* model, edgeae_scorer** scorer, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    require(model, "model");
    require(scorer, "scorer");
    *scorer = nullptr;
    *scorer = new edgeae_scorer{model->model.bind(), model->model.row_values()};
  });
}

edgeae_status edgeae_scorer_score(edgeae_scorer* scorer, const float* row, float* score, char* error,
                                  size_t error_size) {
  return score_one(scorer, row, score, error, error_size);
}

edgeae_status edgeae_scorer_score_u8(edgeae_scorer* scorer, const uint8_t* row, float* score, char* error,
                                     size_t error_size) {
  return score_one(scorer, row, score, error, error_size);
}

void edgeae_scorer_free(edgeae_scorer* scorer) { delete scorer; }

}  // extern "C"

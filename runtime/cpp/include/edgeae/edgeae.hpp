// edgeae: autoencoders from bundles, on ONNX Runtime. Header-only C++17; needs nothing but ONNX Runtime.
//
//     edgeae::Autoencoder model = edgeae::load("bundle");        // or one graph: edgeae::load("scorer.onnx")
//     std::vector<float> scores = model.score(rows);             // rows: [n, *input_shape], one after the other
//     if (model.is_anomaly(scores[0])) ...                       // higher is more anomalous; NaN is an anomaly
//     edgeae::Scorer one = model.bind();                         // pre-allocated: one.score(row)
//
// Whatever goes wrong is thrown as a child of edgeae::Error. There is no check here that a graph is harmless: verify
// bundles from strangers with `edgeae verify` before.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "bundle.hpp"
#include "calibrated.hpp"
#include "errors.hpp"
#include "explain.hpp"
#include "graph.hpp"
#include "latents/digest.hpp"
#include "options.hpp"
#include "ort.hpp"
#include "rows.hpp"

#define EDGEAE_VERSION "0.1.0"

namespace edgeae {
namespace detail {

// How often this process has been forked since the first model was loaded; ONNX Runtime need not survive a fork.
inline std::atomic<unsigned> forks{0};

inline unsigned count_forks() {
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });
  static_cast<void>(registered);
#endif
  return forks.load();
}

/// What an Autoencoder and its Scorers share. Graphs are loaded and tested when first needed.
class Model {
 public:
  Model(const std::filesystem::path& path, const Options& options)
      : Model(path.string(), options, Checked{}) {
    std::error_code ignored;
    if (std::filesystem::is_regular_file(path, ignored)) {
      if (path.extension() == ".zip")
        throw BundleError(where_ + ": a zipped bundle; unzip it, and load the directory");
      adopt(read_bytes(path, kMaxFileBytes));
      return;
    }
    bundle_.emplace(path);
    const std::string precision = options.precision == "auto" ? "fp32" : options.precision;
    signature_ = bundle_->manifest().signature;
    signature_.precision = precision;
    signature_.threshold = bundle_->precision(precision).threshold;
  }

  Model(const std::string& bytes, const Options& options) : Model("the model in memory", options, Checked{}) {
    adopt(bytes);
  }

  const std::string& where() const { return where_; }
  const Signature& signature() const { return signature_; }
  const Device& device() const { return device_; }

  // Of the bundle, where there is a whole one.
  const Manifest* manifest() const { return bundle_ ? &bundle_->manifest() : nullptr; }

  // What latent files of this model hold; nothing where the decoder is missing or no ONNX file.
  std::optional<std::string> decoder_digest() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (bundle_ && !decoder_digest_)
      decoder_digest_ = codec::decoder_digest(bundle_->file(bundle_->precision(signature_.precision).files.at("decoder")));
    return decoder_digest_;
  }

  // What explanations and calibrated scores need of normal rows. They throw InputError where there is only a graph.
  std::shared_ptr<const Statistics> statistics() const {
    const Bundle& bundle = whole("explain");
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!statistics_) statistics_ = std::make_shared<const Statistics>(read_statistics(bundle));
    return statistics_;
  }

  std::shared_ptr<const Calibration> calibration() const {
    const Bundle& bundle = whole("calibrate");
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!calibration_) calibration_ = std::make_shared<const Calibration>(read_calibration(bundle, signature_.precision));
    return calibration_;
  }

  bool flag() const { return options_.on_invalid == OnInvalid::flag; }

  bool holds(Role role) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return bundle_.has_value() || graphs_.count(role) > 0;
  }

  void refuse_fork() const {
    if (forks.load(std::memory_order_relaxed) != forks_)
      throw Error("this model was loaded before the process forked, and its sessions belong to the parent; call "
                  "edgeae::load in the child");
  }

  std::shared_ptr<const Graph> graph(Role role) const {
    refuse_fork();
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = graphs_.find(role);
    if (found != graphs_.end()) return found->second;
    if (!bundle_)
      throw InputError(where_ + ": is only the " + name_of(graphs_.begin()->first) + " of a bundle; load " +
                       name_of(role) + ".onnx, or the bundle's directory, for this");
    const File& file = bundle_->precision(signature_.precision).files.at(name_of(role));
    const std::string where = (bundle_->path() / file.path).string();
    auto graph = make(bundle_->file(file), where);
    graph->require(role, signature_, bundle_->manifest().batch);
    self_test(graph);
    return graphs_[role] = graph;
  }

  // Run rows through the graphs of `roles`.
  template <class T>
  void run(const std::vector<Role>& roles, Span<const T> rows, Span<float> out) const {
    Path path;
    for (const Role role : roles) path.push_back(graph(role));
    const std::size_t wanted = count(*path.front(), rows.size(), std::is_same_v<T, float>) * path.back()->target_values();
    if (out.size() != wanted)
      throw InputError(text("out: expected ", wanted, " values for ", path.back()->target(), ", got ", out.size()));
    run(path, rows, out.data(), options_.chunk ? options_.chunk : chunk_, flag());
  }

  // How many results `values` values give.
  std::size_t result_values(const std::vector<Role>& roles, std::size_t values, bool floats) const {
    return count(*graph(roles.front()), values, floats) * graph(roles.back())->target_values();
  }

 private:
  struct Checked {};

  const Bundle& whole(const char* purpose) const {
    if (!bundle_)
      throw InputError(where_ + ": is only one graph of a bundle; load the bundle's directory to " + purpose + " with it");
    return *bundle_;
  }

  Model(std::string where, const Options& options, Checked)
      : where_(std::move(where)), options_(options), forks_(count_forks()) {
    if (options_.workers < 1) throw InputError("options: workers must be a whole number from 1, got 0");
    device_ = choose_device(options_.device);
    if (device_.provider.empty() && !options_.provider.empty())
      throw InputError("options: provider: " + options_.provider.begin()->first +
                       ": the CPU has none; use device='cuda'");
  }

  std::shared_ptr<const Graph> make(const std::string& bytes, const std::string& where) const {
    try {
      auto graph = std::make_shared<const Graph>(bytes, where, device_, options_);
      if (chunk_ == 0)
        chunk_ = chunk_rows(graph->signature().input_shape, graph->signature().row_values(), on_gpu());
      return graph;
    } catch (const OrtProblem& problem) {
      throw BundleError(where + ": ONNX Runtime " + ort_version() + " cannot use it: " + problem.what());
    }
  }

  void adopt(const std::string& bytes) {
    auto graph = make(bytes, where_);
    signature_ = graph->signature();
    graphs_[graph->role()] = graph;
    if (graph->role() == Role::decoder) decoder_digest_ = codec::decoder_digest(bytes);
  }

  bool on_gpu() const { return device_.provider == "CUDA"; }

  std::size_t count(const Graph& graph, std::size_t values, bool floats) const {
    if (values % graph.source_values() != 0)
      throw InputError(text(graph.source(), ": expected ", graph.byte_input() ? "uint8" : "float32", " [n, ",
                            joined(graph.source_shape()), "], got ", floats ? "float32" : "uint8", " [", values, "]"));
    return values / graph.source_values();
  }

  template <class T>
  void run(const Path& path, Span<const T> rows, float* out, std::size_t chunk, bool flag) const {
    try {
      Job<T>(path, rows, out, chunk, on_gpu() ? 1 : options_.workers, flag).run();
    } catch (const OrtProblem& problem) {
      throw DeviceError(path.back()->where() + ": failed on " + device_.name + ": " + problem.what());
    }
  }

  // A graph that computes something else than its golden results must not answer.
  void self_test(const std::shared_ptr<const Graph>& graph) const {
    if (!golden_) golden_ = read_golden(*bundle_, signature_.precision);
    const std::string target = graph->target();
    const std::vector<float>& wanted =
        target == "z" ? golden_->z : target == "x_hat" ? golden_->x_hat : golden_->score;
    std::vector<float> found(wanted.size());
    if (graph->role() == Role::decoder) {
      run<float>({graph}, golden_->z, found.data(), golden_->rows, true);
    } else if (graph->byte_input()) {
      const auto* bytes = reinterpret_cast<const std::uint8_t*>(golden_->x.bytes.data());
      run<std::uint8_t>({graph}, {bytes, golden_->x.bytes.size()}, found.data(), golden_->rows, true);
    } else {
      run<float>({graph}, golden_->x.floats(), found.data(), golden_->rows, true);
    }
    const Tolerance& tolerance = bundle_->precision(signature_.precision).tolerances.at(target);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const double expected = wanted[i], allowed = tolerance.atol + tolerance.rtol * std::fabs(expected);
      if (is_finite(found[i]) && std::fabs(found[i] - expected) <= allowed) continue;
      throw BundleError(text(graph->where(), ": self-test failed on ", device_.name, ": golden row ",
                             i / graph->target_values(), " must give ", target, " ", shown(wanted[i]), ", gives ",
                             shown(found[i]), "; check the bundle with: edgeae verify ", where_));
    }
  }

  std::string where_;
  Options options_;
  Device device_;
  Signature signature_;
  std::optional<Bundle> bundle_;
  unsigned forks_;
  mutable std::mutex mutex_;
  mutable std::map<Role, std::shared_ptr<const Graph>> graphs_;
  mutable std::optional<Golden> golden_;
  mutable std::shared_ptr<const Statistics> statistics_;
  mutable std::shared_ptr<const Calibration> calibration_;
  mutable std::optional<std::string> decoder_digest_;
  mutable std::size_t chunk_ = 0;
};

inline bool exceeds(float score, float threshold) { return is_nan(score) || score > threshold; }

}  // namespace detail

/// Scores one row at a time at the lowest latency: everything is allocated and bound beforehand, and a call allocates
/// nothing outside ONNX Runtime. Made by Autoencoder::bind. One thread at a time; make one for each thread.
class Scorer {
 public:
  Scorer(Scorer&&) = default;
  Scorer& operator=(Scorer&&) = default;

  /// The anomaly score of a row [*input_shape] in the units of the training data; higher is more anomalous.
  ///
  /// Throws InputError if the row has another number of values, or, unless the model was loaded with OnInvalid::flag,
  /// one that is not finite; Error if another thread is in a call, or in a forked child.
  float score(Span<const float> row) { return run(row); }
  float score(Span<const std::uint8_t> row) { return run(row); }

  /// Whether a row is an anomaly: not (score <= threshold), so that NaN is one. Throws as `score` does.
  bool predict(Span<const float> row) { return detail::exceeds(run(row), threshold_); }
  bool predict(Span<const std::uint8_t> row) { return detail::exceeds(run(row), threshold_); }

 private:
  friend class Autoencoder;

  struct State {
    std::atomic_flag busy = ATOMIC_FLAG_INIT;
    std::vector<float> floats, results;
    std::vector<std::uint8_t> bytes;
    detail::Value input, output;
    detail::IoBinding binding;
  };

  // Others get an error instead of wrong numbers.
  class Turn {
   public:
    explicit Turn(std::atomic_flag& busy) : busy_(busy) {
      if (busy_.test_and_set(std::memory_order_acquire))
        throw Error("a bound model was called while another thread is in a call; make one per thread");
    }
    ~Turn() { busy_.clear(std::memory_order_release); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    std::atomic_flag& busy_;
  };

  explicit Scorer(std::shared_ptr<const detail::Model> model)
      : model_(std::move(model)),
        graph_(model_->graph(detail::Role::scorer)),
        state_(std::make_unique<State>()),
        threshold_(static_cast<float>(model_->signature().threshold)) {
    const std::size_t rows = static_cast<std::size_t>(graph_->batch().value_or(1));
    const std::size_t values = rows * graph_->source_values();
    void* source = nullptr;
    if (graph_->byte_input()) {
      state_->bytes.resize(values);
      source = state_->bytes.data();
    } else {
      state_->floats.resize(values);
      source = state_->floats.data();
    }
    state_->results.resize(rows);
    try {
      state_->input = graph_->source_value(source, rows);
      state_->output = graph_->target_value(state_->results.data(), rows);
      state_->binding = graph_->bind(state_->input, state_->output);
    } catch (const detail::OrtProblem& problem) {
      throw DeviceError(graph_->where() + ": failed on " + model_->device().name + ": " + problem.what());
    }
  }

  template <class T>
  float run(Span<const T> row) {
    model_->refuse_fork();
    const Turn turn(state_->busy);
    const std::size_t values = graph_->source_values();
    if (row.size() != values)
      throw InputError(detail::text(graph_->source(), ": expected ", graph_->byte_input() ? "uint8" : "float32", " [",
                                    detail::joined(graph_->source_shape()), "], got ", row.size(), " values"));
    // Before the run: not every graph shows in its score that a value was not finite (max(NaN, 0) may be 0).
    if (find_invalid(row)) return detail::not_a_number();
    if (graph_->byte_input())
      detail::convert(*graph_, row.data(), values, 0, state_->bytes.data());
    else
      detail::convert(*graph_, row.data(), values, 0, state_->floats.data());
    graph_->run(state_->binding);
    return state_->results[0];
  }

  template <class T>
  bool find_invalid(Span<const T> row) const {
    if constexpr (std::is_same_v<T, float>) {
      if (detail::all_finite(row.data(), row.size())) return false;
      if (model_->flag()) return true;
      detail::find_invalid(*graph_, row.data(), 1, 0, nullptr);
    }
    return false;
  }

  std::shared_ptr<const detail::Model> model_;
  std::shared_ptr<const detail::Graph> graph_;
  std::unique_ptr<State> state_;
  float threshold_;
};

/// A bundle ready to run; made by `load`. Any number of threads may call one model; copies share it.
///
/// Rows lie one after the other, [n, *input_shape], as float or, for images, bytes, in the units of the training data;
/// results are float. With `out`, results are written there, and it must have their size exactly.
///
/// Every method throws InputError for input of another size and, unless loaded with OnInvalid::flag, for values that are
/// not finite, and where only one graph of the bundle was loaded, for what needs another; BundleError at first use if a
/// graph is not what the manifest promises or does not give the golden results; DeviceError if ONNX Runtime fails; Error
/// in a forked child.
class Autoencoder {
 public:
  /// Use `load`.
  explicit Autoencoder(std::shared_ptr<const detail::Model> model) : model_(std::move(model)) {}

  /// What the model is: variant, shapes, threshold, feature names.
  const Signature& signature() const { return model_->signature(); }

  /// Scores above it are anomalies.
  float threshold() const { return static_cast<float>(signature().threshold); }

  /// Where the model runs: "cpu", "cuda:0", ...
  const std::string& device() const { return model_->device().name; }

  /// Why `auto` chose that device; empty if it was not asked to choose.
  const std::string& device_reason() const { return model_->device().reason; }

  /// The shape of one row, and how many values that is.
  const std::vector<std::int64_t>& input_shape() const { return signature().input_shape; }
  std::size_t row_values() const { return signature().row_values(); }

  std::size_t latent_dim() const { return static_cast<std::size_t>(signature().latent_dim); }

  /// The latents [n, latent_dim] of rows.
  std::vector<float> encode(Span<const float> x) const { return run({Role::encoder}, x); }
  std::vector<float> encode(Span<const std::uint8_t> x) const { return run({Role::encoder}, x); }
  void encode(Span<const float> x, Span<float> out) const { model_->run({Role::encoder}, x, out); }
  void encode(Span<const std::uint8_t> x, Span<float> out) const { model_->run({Role::encoder}, x, out); }

  /// The rows [n, *input_shape], in the units of the training data, of latents [n, latent_dim].
  std::vector<float> decode(Span<const float> z) const { return run({Role::decoder}, z); }
  void decode(Span<const float> z, Span<float> out) const { model_->run({Role::decoder}, z, out); }

  /// decode(encode(x)).
  std::vector<float> reconstruct(Span<const float> x) const { return run(kBoth, x); }
  std::vector<float> reconstruct(Span<const std::uint8_t> x) const { return run(kBoth, x); }
  void reconstruct(Span<const float> x, Span<float> out) const { model_->run(kBoth, x, out); }
  void reconstruct(Span<const std::uint8_t> x, Span<float> out) const { model_->run(kBoth, x, out); }

  /// The anomaly scores [n] of rows; higher is more anomalous.
  std::vector<float> score(Span<const float> x) const { return run({Role::scorer}, x); }
  std::vector<float> score(Span<const std::uint8_t> x) const { return run({Role::scorer}, x); }
  void score(Span<const float> x, Span<float> out) const { model_->run({Role::scorer}, x, out); }
  void score(Span<const std::uint8_t> x, Span<float> out) const { model_->run({Role::scorer}, x, out); }

  /// Whether a score is an anomaly's: not (score <= threshold), so that NaN is one.
  bool is_anomaly(float score) const { return detail::exceeds(score, threshold()); }

  /// Which rows are anomalies.
  std::vector<bool> predict(Span<const float> x) const { return judge(score(x)); }
  std::vector<bool> predict(Span<const std::uint8_t> x) const { return judge(score(x)); }

  /// Scores [n] as 1 - conformal p-values: about the share of normal rows that score lower, from 0 to 1; NaN stays NaN.
  /// Needs the whole bundle, with the scores of normal rows in it (InputError).
  std::vector<float> calibrate(Span<const float> scores) const {
    const auto calibration = model_->calibration();
    std::vector<float> result;
    for (std::size_t i = 0; i < scores.size(); ++i) result.push_back(calibration->of(scores.data()[i]));
    return result;
  }

  /// What each value of each row contributes to the row's score; `.top(row, 3)` names the largest ones. Needs the whole
  /// bundle.
  Explanation explain(Span<const float> x) const { return explained(x); }
  Explanation explain(Span<const std::uint8_t> x) const { return explained(x); }

  /// An object that scores one row at the lowest latency. It keeps what it needs of the model alive.
  Scorer bind() const { return Scorer(model_); }

  /// Load and test all graphs now rather than at their first use.
  void prepare() const {
    for (const Role role : {Role::encoder, Role::decoder, Role::scorer})
      if (model_->holds(role)) model_->graph(role);
  }

 private:
  friend class LatentReader;
  friend class LatentWriter;

  using Role = detail::Role;
  inline static const std::vector<Role> kBoth = {Role::encoder, Role::decoder};

  template <class T>
  std::vector<float> run(const std::vector<Role>& roles, Span<const T> x) const {
    std::vector<float> result(model_->result_values(roles, x.size(), std::is_same_v<T, float>));
    model_->run(roles, x, Span<float>(result));
    return result;
  }

  template <class T>
  Explanation explained(Span<const T> x) const {
    const auto statistics = model_->statistics();
    std::vector<float> expected = run(kBoth, x), values(expected.size()), row(row_values());
    const detail::Explainer explainer(*model_->manifest(), *statistics);
    for (std::size_t at = 0; at < values.size(); at += row.size()) {
      std::copy_n(x.data() + at, row.size(), row.data());
      if (detail::all_finite(row.data(), row.size()))
        explainer.explain(row.data(), expected.data() + at, values.data() + at);
      else
        std::fill_n(values.data() + at, row.size(), detail::not_a_number());  // a row that OnInvalid::flag lets pass
    }
    return Explanation(signature(), std::move(values), std::move(expected));
  }

  std::vector<bool> judge(const std::vector<float>& scores) const {
    std::vector<bool> anomalies;
    for (const float score : scores) anomalies.push_back(is_anomaly(score));
    return anomalies;
  }

  std::shared_ptr<const detail::Model> model_;
};

/// Load a bundle's directory, or one of its graphs (encoder.onnx, decoder.onnx or scorer.onnx, also in ORT format),
/// which knows all it needs from its metadata.
///
/// A directory's files are compared with the manifest, and its graphs tested on the golden rows, when first used.
///
/// Throws BundleError if there is none or it is not as export/FORMAT.md has it; DeviceError if a device was asked for
/// and does not work; InputError for an impossible option.
inline Autoencoder load(const std::filesystem::path& path, const Options& options = {}) {
  return Autoencoder(std::make_shared<const detail::Model>(path, options));
}

/// Load one graph that is in memory already, for instance compiled into the program or an Android asset.
inline Autoencoder load_bytes(const void* data, std::size_t size, const Options& options = {}) {
  return Autoencoder(
      std::make_shared<const detail::Model>(std::string(static_cast<const char*>(data), size), options));
}

}  // namespace edgeae

// What a caller can do right and wrong with a model.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <locale>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/wait.h>
#include <unistd.h>
#define EDGEAE_HAS_FORK
#endif

namespace {

using namespace edgeae;
namespace fs = std::filesystem;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

fs::path golden;   // where the golden bundles are
fs::path scratch;  // emptied before and after

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream all;
  all << file.rdbuf();
  return all.str();
}

void write(const fs::path& path, const std::string& data) { std::ofstream(path, std::ios::binary) << data; }

Options cpu(OnInvalid on_invalid = OnInvalid::raise) {
  Options options;
  options.device = "cpu";
  options.on_invalid = on_invalid;
  return options;
}

// A copy of a bundle in which `from` stands as `to` in the manifest, once or, with `every`, wherever it stands.
fs::path changed(const std::string& name, const std::string& from, const std::string& to, bool every = false) {
  const fs::path copy = scratch / "changed";
  fs::remove_all(copy);
  fs::copy(golden / name, copy, fs::copy_options::recursive);
  std::string manifest = read(copy / "manifest.json");
  std::size_t at = manifest.find(from);
  CHECK(at != std::string::npos);
  for (; at != std::string::npos; at = every ? manifest.find(from, at + to.size()) : std::string::npos)
    manifest.replace(at, from.size(), to);
  write(copy / "manifest.json", manifest);
  return copy;
}

bool same(float a, float b) { return detail::bits_of(a) == detail::bits_of(b); }

// What stands in table's manifest behind the first `key`, up to the end of the value.
std::string after(const std::string& key) {
  const std::string manifest = read(golden / "table" / "manifest.json");
  const std::size_t start = manifest.find(key) + key.size();
  return manifest.substr(start, manifest.find_first_of(",}\"\n", start) - start);
}

// Rows like the golden ones, n of them.
std::vector<float> rows_of(const std::string& name, std::size_t n) {
  const detail::Golden found = detail::read_golden(detail::Bundle(golden / name), "fp32");
  const std::vector<float> few = found.x.floats();
  std::vector<float> many;
  const std::size_t width = few.size() / found.rows;
  for (std::size_t i = 0; i < n * width; ++i)
    many.push_back(few[i % few.size()] * (1 + 0.001f * static_cast<float>(i / few.size())));
  return many;
}

void test_signature() {
  const Autoencoder whole = load(golden / "table", cpu()), alone = load(golden / "table" / "scorer.onnx", cpu());
  for (const Autoencoder& model : {whole, alone}) {
    CHECK(model.signature().variant == "dense" && model.signature().precision == "fp32");
    CHECK(model.row_values() == 10 && model.latent_dim() == 3 && model.input_shape().size() == 1);
    CHECK(model.signature().score == "zscore" && model.signature().layout == "vector");
    CHECK(model.signature().feature_names->at(4) == "sensor_4");
    CHECK(same(model.threshold(), static_cast<float>(std::stod(after("\"value\": ")))));
    CHECK(model.device() == "cpu" && model.device_reason().empty());
  }
  Options half = cpu();
  half.precision = "fp16";
  CHECK(!same(load(golden / "table", half).threshold(), whole.threshold()));
  CHECK(!load(golden / "table").device_reason().empty());  // auto says why
}

void test_errors_of_loading() {
  CHECK_THROWS(BundleError, "no such bundle; make one with: edgeae export RUN -o ", load("nowhere", cpu()));
  CHECK_THROWS(BundleError, "not a bundle, it has no manifest.json", load(scratch, cpu()));
  write(scratch / "model.json", "{}");
  CHECK_THROWS(BundleError, "it is a run directory: export it first", load(scratch, cpu()));
  write(scratch / "bundle.zip", "PK");
  CHECK_THROWS(BundleError, "unzip it", load(scratch / "bundle.zip", cpu()));
  write(scratch / "noise.onnx", "noise");
  CHECK_THROWS(BundleError, "cannot load it", load(scratch / "noise.onnx", cpu()));
  CHECK_THROWS(BundleError, "the model in memory: ONNX Runtime", load_bytes("noise", 5, cpu()));
  const std::string relu(
      "\x08\x08:3\n\x0c\n\x01x\x12\x01y\"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
      "b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
      "B\x04\n\x00\x10\r",
      61);
  CHECK_THROWS(BundleError, "its metadata has no edgeae.format_version", load_bytes(relu.data(), relu.size(), cpu()));

  const auto with = [](const std::function<void(Options&)>& change) {
    Options options = cpu();
    change(options);
    return load(golden / "table", options);
  };
  CHECK_THROWS(InputError, "holds no graphs at precision 'int4' (known precisions: fp32, fp16, int8); choose fp32, fp16",
               with([](Options& options) { options.precision = "int4"; }));
  CHECK_THROWS(InputError, "device: 'tpu' is not one of auto, cpu", with([](Options& options) { options.device = "tpu"; }));
  CHECK_THROWS(InputError, "is not one of auto, cpu", with([](Options& options) { options.device = "cuda:x"; }));
  CHECK_THROWS(InputError, "the CPU has none", with([](Options& options) { options.provider["gpu_mem_limit"] = "1"; }));
  CHECK_THROWS(InputError, "workers", with([](Options& options) { options.workers = 0; }));
  // Never silently on the CPU: what this library has not, it does not replace.
  if (!detail::available("CUDAExecutionProvider"))
    CHECK_THROWS(DeviceError, "has no CUDA provider", with([](Options& options) { options.device = "cuda:1"; }));
  if (!detail::available("CoreMLExecutionProvider"))
    CHECK_THROWS(DeviceError, "has no CoreML provider", with([](Options& options) { options.device = "coreml"; }));
}

void test_spoilt_bundles() {
  const auto use = [](const fs::path& path) { load(path, cpu()).prepare(); };
  use(changed("table", "golden table", "a table"));
  CHECK_THROWS(BundleError, "unknown key 'extra'; known keys are shape",
               use(changed("table", "\"layout\"", "\"extra\": 1, \"layout\"")));
  CHECK_THROWS(BundleError, "the key 'layout' is missing", use(changed("table", "\"layout\": \"vector\",", "")));
  CHECK_THROWS(BundleError, "the key 'opset' stands there twice",
               use(changed("table", "\"opset\":", "\"opset\": 18, \"opset\":")));
  CHECK_THROWS(BundleError, "format version 2 is newer than this edgeae reads (1)",
               use(changed("table", "\"format_version\": 1", "\"format_version\": 2")));
  CHECK_THROWS(BundleError, "latent_dim: expected a whole number, got 'three'",
               use(changed("table", "\"latent_dim\": 3", "\"latent_dim\": \"three\"")));
  CHECK_THROWS(BundleError, "does not fit the layout HW", use(changed("table", "\"vector\"", "\"HW\"")));
  CHECK_THROWS(BundleError, "is not a plain relative path", use(changed("table", "\"encoder.onnx", "\"../encoder.onnx")));
  const std::string threshold = "\"value\": " + after("\"value\": "), size = "\"size\": " + after("\"size\": ");
  const std::string digest = after("\"sha256\": \"");
  CHECK_THROWS(BundleError, "is not a float32 value", use(changed("table", threshold, "\"value\": 2.51629972457")));
  CHECK_THROWS(BundleError, "its metadata says edgeae.threshold", use(changed("table", threshold, "\"value\": 1.5")));
  CHECK_THROWS(BundleError, "its metadata says edgeae.score = 'zscore', the manifest says 'mse'",
               use(changed("table", "\"kind\": \"zscore\"", "\"kind\": \"mse\"")));
  CHECK_THROWS(BundleError, "its metadata says edgeae.feature_names", use(changed("table", "sensor_9", "sensor_X")));
  CHECK_THROWS(BundleError, "its batch is symbolic, the manifest says 4",
               use(changed("table", "\"batch\": null", "\"batch\": 4")));
  CHECK_THROWS(IntegrityError, "the manifest says 7; copy or export", use(changed("table", size, "\"size\": 7")));
  CHECK_THROWS(IntegrityError, "its SHA-256 is " + digest.substr(0, 12) + "..., the manifest says abcdabcdabcd...",
               use(changed("table", digest.substr(0, 12), "abcdabcdabcd")));
  // The numbers of another precision with no tolerance at all.
  const fs::path more = changed("table", "golden table", "a table");
  write(more / ".DS_Store", "");
  use(more);
  write(more / "fp16" / "notes.txt", "");
  CHECK_THROWS(BundleError, "the manifest does not list fp16/notes.txt; a bundle holds nothing else: remove", use(more));
  fs::path other = changed("table", "\"rtol\": 0.001", "\"rtol\": 0.0", true);
  std::string manifest = read(other / "manifest.json");
  const std::string key = "\"atol\": ";
  for (std::size_t at = manifest.find(key); at != std::string::npos; at = manifest.find(key, at + 1))
    manifest.replace(at + key.size(), manifest.find('\n', at) - at - key.size(), "0.0");
  std::string entry = manifest.substr(manifest.find("\"path\": \"fp16/golden.npz\""));
  entry = entry.substr(0, entry.find('}')).replace(9, 5, "");
  const std::size_t to = manifest.find("\"path\": \"golden.npz\"");
  manifest.replace(to, manifest.find('}', to) - to, entry);
  write(other / "manifest.json", manifest);
  write(other / "golden.npz", read(other / "fp16" / "golden.npz"));
  CHECK_THROWS(BundleError, "self-test failed on cpu: golden row 0 must give z", use(other));

  other = changed("table", "golden table", "a table");
  fs::remove(other / "encoder.onnx");
  CHECK_THROWS(BundleError, "encoder.onnx: the file is missing", use(other));
  CHECK(load(other, cpu()).score(rows_of("table", 2)).size() == 2);  // which this does not need
  fs::create_directory(other / "encoder.onnx");
  CHECK_THROWS(BundleError, "is not a regular file", use(other));
#ifdef EDGEAE_HAS_FORK
  fs::remove(other / "encoder.onnx");
  fs::create_symlink(golden / "table" / "encoder.onnx", other / "encoder.onnx");
  CHECK_THROWS(BundleError, "is a link", use(other));
#endif
}

void test_single_graphs() {
  const std::vector<float> x = rows_of("table", 2);
  const Autoencoder scorer = load(golden / "table" / "scorer.onnx", cpu());
  CHECK(scorer.score(x) == load(golden / "table", cpu()).score(x));
  CHECK_THROWS(InputError, "is only the scorer of a bundle; load encoder.onnx", scorer.encode(x));
  CHECK_THROWS(InputError, "is only the encoder of a bundle", load(golden / "table" / "encoder.onnx", cpu()).bind());
  const std::string bytes = read(golden / "table" / "scorer.onnx");
  CHECK(load_bytes(bytes.data(), bytes.size(), cpu()).score(x) == scorer.score(x));

  // ONNX Runtime's own file format, which mobile builds read, keeps the metadata.
  const fs::path file = scratch / "scorer.ort";
  Options options = cpu();
  int calls = 0;
  options.configure = [&](OrtSessionOptions* made) {
    ++calls;
    detail::check(detail::ort().AddSessionConfigEntry(made, "session.save_model_format", "ORT"));
    detail::check(detail::ort().SetOptimizedModelFilePath(made, file.c_str()));
  };
  load(golden / "table" / "scorer.onnx", options);
  CHECK(calls == 1);
  CHECK(load(file, cpu()).score(x) == scorer.score(x));
}

void test_shapes() {
  const Autoencoder model = load(golden / "table", cpu());
  const std::vector<float> x = rows_of("table", 3);
  CHECK_THROWS(InputError, "x: expected float32 [n, 10], got float32 [7]", model.score(Span<const float>(x.data(), 7)));
  CHECK_THROWS(InputError, "z: expected float32 [n, 3], got float32 [10]", model.decode(Span<const float>(x.data(), 10)));
  std::vector<float> out(2);
  CHECK_THROWS(InputError, "out: expected 3 values for score, got 2", model.score(x, out));
  CHECK_THROWS(InputError, "x: expected float32 [10], got 30 values", model.bind().score(x));
  CHECK(model.encode(x).size() == 9 && model.reconstruct(x).size() == 30);
  const std::vector<float> none;
  CHECK(model.score(none).empty() && model.encode(none).empty() && model.reconstruct(none).empty());
  const float array[10] = {};
  CHECK(model.score(array).size() == 1);
}

void test_invalid_values() {
  for (const float bad : {kNan, kInfinity, -kInfinity}) {
    const std::string name = std::isnan(bad) ? "nan" : bad > 0 ? "inf" : "-inf";
    const std::string message = "x: row 130, feature 'sensor_4' is " + name +
                                "; remove or impute such values, or load the bundle with on_invalid='flag'";
    std::vector<float> x = rows_of("table", 200);
    const Autoencoder strict = load(golden / "table", cpu()), lenient = load(golden / "table", cpu(OnInvalid::flag));
    const std::vector<float> scores = strict.score(x), latents = strict.encode(x), all = strict.reconstruct(x);
    x[1304] = bad;
    CHECK_THROWS(InputError, message, strict.score(x));
    CHECK_THROWS(InputError, message, strict.encode(x));
    CHECK_THROWS(InputError, message, strict.reconstruct(x));
    CHECK_THROWS(InputError, "z: row 0, value 1 is " + name, strict.decode(std::vector<float>{0, bad, 0}));

    const std::vector<float> flagged = lenient.score(x), z = lenient.encode(x), x_hat = lenient.reconstruct(x);
    for (std::size_t row = 0; row < 200; ++row) {
      CHECK(row == 130 ? std::isnan(flagged[row]) : same(flagged[row], scores[row]));
      for (std::size_t i = 0; i < 3; ++i) CHECK(row == 130 ? std::isnan(z[3 * row + i]) : same(z[3 * row + i], latents[3 * row + i]));
      for (std::size_t i = 0; i < 10; ++i) CHECK(row == 130 ? std::isnan(x_hat[10 * row + i]) : same(x_hat[10 * row + i], all[10 * row + i]));
    }
    CHECK(lenient.predict(x)[130]);

    const Span<const float> row(x.data() + 1300, 10);
    Scorer one = strict.bind();
    CHECK_THROWS(InputError, "x: row 0, feature 'sensor_4' is " + name, one.score(row));
    CHECK(same(one.score(Span<const float>(x.data(), 10)), scores[0]));  // and it goes on
    Scorer flagging = lenient.bind();
    CHECK(std::isnan(flagging.score(row)) && flagging.predict(row));
  }
  const Autoencoder model = load(golden / "table", cpu());
  CHECK(model.is_anomaly(kNan) && model.is_anomaly(kInfinity) && !model.is_anomaly(-kInfinity));
  CHECK(!model.is_anomaly(model.threshold()) && model.is_anomaly(std::nextafter(model.threshold(), kInfinity)));
  // Finite, but the score overflows: no error, and an anomaly.
  const std::vector<float> far(10, 3e38f);
  CHECK(model.predict(far)[0] && model.bind().predict(far));
  std::vector<float> image(static_cast<std::size_t>(64), 0.0f);
  image[8 * 2 + 5] = kNan;
  CHECK_THROWS(InputError, "x: row 0, value [2, 5] is nan", load(golden / "dense", cpu()).score(image));
}

void test_bytes() {
  // A model of bytes with a fixed batch of one.
  const Autoencoder model = load(golden / "dense-uint8-batch1", cpu());
  CHECK(model.signature().input_dtype == "uint8");
  std::vector<std::uint8_t> bytes(5 * model.row_values());
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 7 % 16);
  std::vector<float> floats(bytes.begin(), bytes.end());
  const std::vector<float> scores = model.score(bytes);
  CHECK(scores.size() == 5 && model.score(floats) == scores);
  CHECK(model.encode(bytes) == model.encode(floats) && model.reconstruct(bytes) == model.reconstruct(floats));
  Scorer one = model.bind();
  CHECK(same(one.score(Span<const std::uint8_t>(bytes.data(), model.row_values())), scores[0]));
  CHECK(same(one.score(Span<const float>(floats.data(), model.row_values())), scores[0]));
  for (const float bad : {0.5f, 300.0f, -1.0f}) {
    floats[model.row_values() + 3] = bad;
    CHECK_THROWS(InputError, "; this bundle takes uint8 images, whole numbers from 0 to 255; do not rescale them",
                 model.score(floats));
  }
  CHECK_THROWS(InputError, "x: row 1, value [0, 3] is -1.0;", model.score(floats));
  floats[model.row_values() + 3] = kNan;
  CHECK_THROWS(InputError, "x: row 1, value [0, 3] is nan; remove or impute", model.score(floats));
  const Autoencoder lenient = load(golden / "dense-uint8-batch1", cpu(OnInvalid::flag));
  const std::vector<float> flagged = lenient.score(floats);
  CHECK(std::isnan(flagged[1]) && same(flagged[0], scores[0]) && same(flagged[2], scores[2]));
  Scorer flagging = lenient.bind();
  CHECK(std::isnan(flagging.score(Span<const float>(floats.data() + model.row_values(), model.row_values()))));

  // Bytes for a model of floats.
  const Autoencoder dense = load(golden / "dense", cpu());
  CHECK(dense.score(Span<const std::uint8_t>(bytes.data(), 64)) ==
        dense.score(std::vector<float>(bytes.begin(), bytes.begin() + 64)));
}

void test_chunks_and_threads() {
  const std::vector<float> x = rows_of("table", 1000);
  Options options = cpu();
  const Autoencoder plain = load(golden / "table", options);
  options.workers = 3;
  options.chunk = 7;
  const Autoencoder busy = load(golden / "table", options);
  const std::vector<float> scores = plain.score(x), found = busy.score(x);
  for (std::size_t i = 0; i < 1000; ++i) CHECK(std::fabs(scores[i] - found[i]) <= 1e-5f * std::fabs(scores[i]));
  std::vector<float> two_bad = x;
  two_bad[3000] = two_bad[9000] = kNan;
  CHECK_THROWS(InputError, "x: row 300,", busy.score(two_bad));  // the first one, whichever worker met it

  // First use and later ones from many threads.
  const Autoencoder fresh = load(golden / "table", cpu());
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      Scorer one = fresh.bind();
      for (int repeat = 0; repeat < 20; ++repeat) {
        if (fresh.score(x) != scores) ++wrong;
        for (std::size_t row = 0; row < 50; ++row)
          if (std::fabs(one.score(Span<const float>(x.data() + 10 * row, 10)) - scores[row]) > 1e-5f * scores[row]) ++wrong;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);

  // A scorer shared by mistake gives the right number or an error.
  Scorer shared = fresh.bind();
  const float wanted[2] = {fresh.bind().score(Span<const float>(x.data(), 10)),
                           fresh.bind().score(Span<const float>(x.data() + 10, 10))};
  threads.clear();
  for (std::size_t i = 0; i < 2; ++i)
    threads.emplace_back([&, i] {
      for (int repeat = 0; repeat < 5000; ++repeat) {
        try {
          if (!same(shared.score(Span<const float>(x.data() + 10 * i, 10)), wanted[i])) ++wrong;
        } catch (const Error& problem) {
          if (std::string(problem.what()).find("one per thread") == std::string::npos) ++wrong;
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

void test_lifetimes() {
  const std::vector<float> x = rows_of("table", 1);
  auto scorer = [] { return load(golden / "table", cpu()).bind(); }();
  const float score = scorer.score(x);
  Scorer moved = std::move(scorer);
  CHECK(same(moved.score(x), score));
  const Autoencoder copy = [] { return load(golden / "table", cpu()); }();
  CHECK(same(copy.score(x)[0], score));
#ifdef EDGEAE_HAS_FORK
  std::cout.flush();
  const pid_t child = fork();
  if (child == 0) {
    int caught = 0;
    try {
      copy.score(x);
    } catch (const Error& problem) {
      caught += std::string(problem.what()).find("before the process forked") != std::string::npos;
    }
    try {
      moved.score(x);
    } catch (const Error&) {
      ++caught;
    }
    _exit(caught == 2 ? 42 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
  CHECK(same(moved.score(x), score));  // the parent goes on
#endif
}

// Where numbers are written 1.234,5.
struct German : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

// A scorer of rows of one value: score = x + x, with what edgeae wants of it in its metadata.
std::string doubling_scorer() {
  const auto number = [](int field, int value) { return std::string{static_cast<char>(field << 3), static_cast<char>(value)}; };
  const auto part = [](int field, const std::string& content) {
    std::string size;
    for (std::size_t left = content.size(); left > 0 || size.empty(); left >>= 7)
      size += static_cast<char>((left & 127) | (left > 127 ? 128 : 0));
    return static_cast<char>(field << 3 | 2) + size + content;
  };
  const auto value = [&](const char* name, const std::string& dims) {
    return part(1, name) + part(2, part(1, number(1, 1) + part(2, dims)));
  };
  const std::string batch = part(1, part(2, "batch")), one = part(1, number(1, 1));
  const std::string axes = part(5, part(1, "axes") + number(8, 1) + "\xA0\x01\x07");
  const std::string keep = part(5, part(1, "keepdims") + number(3, 0) + "\xA0\x01\x02");
  const std::string graph = part(1, part(1, "x") + part(1, "x") + part(2, "y") + part(4, "Add")) +
                            part(1, part(1, "y") + part(2, "score") + part(4, "ReduceSum") + axes + keep) + part(2, "g") +
                            part(11, value("x", batch + one)) + part(12, value("score", batch));
  std::string model = number(1, 8) + part(8, part(1, "") + number(2, 11)) + part(7, graph);
  for (const auto& [key, word] : std::map<std::string, std::string>{
           {"format_version", "1"}, {"role", "scorer"}, {"variant", "dense"}, {"precision", "fp32"}, {"input_shape", "1"},
           {"input_dtype", "float32"}, {"layout", "vector"}, {"latent_dim", "1"}, {"score", "mse"}, {"threshold", "1"}})
    model += part(14, part(1, "edgeae." + key) + part(2, word));
  return model;
}

// Denormal numbers count as zero inside, and the caller's floating-point environment is what it was.
void test_denormals() {
  using detail::DenormalsAsZero;
  if (!DenormalsAsZero::available) return;
  const std::uint64_t usual = DenormalsAsZero::control() & ~DenormalsAsZero::flags;
  const std::string graph = doubling_scorer();
  for (const std::uint64_t callers : {usual, usual | DenormalsAsZero::flags}) {
    DenormalsAsZero::set_control(callers);
    const Autoencoder model = load_bytes(graph.data(), graph.size(), [] {
      Options options = cpu();
      options.workers = 3;
      options.chunk = 1;
      return options;
    }());
    Scorer scorer = model.bind();
    CHECK(DenormalsAsZero::control() == callers);
    volatile float tiny = 1e-30f;
    DenormalsAsZero::set_control(usual);
    tiny = tiny * 1e-10f;  // the compiler's own 1e-40 may be a zero
    const std::vector<float> rows(7, static_cast<float>(tiny));
    CHECK(detail::bits_of(rows[0]) != 0);
    DenormalsAsZero::set_control(callers);
    for (const float score : model.score(rows)) CHECK(detail::bits_of(score) == 0);
    CHECK(DenormalsAsZero::control() == callers);
    CHECK(detail::bits_of(scorer.score({rows.data(), 1})) == 0);
    CHECK(DenormalsAsZero::control() == callers);
    CHECK_THROWS(InputError, "x: row 0, value 0 is nan", scorer.score(std::vector<float>{kNan}));
    CHECK_THROWS(BundleError, "cannot load it", load_bytes(graph.data(), 40, cpu()));
    CHECK(DenormalsAsZero::control() == callers);
    CHECK(!(scorer.score(std::vector<float>{1.5f}) < 3) && !(scorer.score(std::vector<float>{1.5f}) > 3));
  }
  DenormalsAsZero::set_control(usual);
}

void test_explanations() {
  const Autoencoder model = load(golden / "table", cpu(OnInvalid::flag));
  std::vector<float> x = rows_of("table", 3);
  const std::vector<float> score = model.score(x);
  x[10 + 4] = kNan;
  const Explanation found = model.explain(x);
  CHECK(found.values.size() == 30 && found.expected.size() == 30);
  for (const std::size_t row : {0, 2}) {
    double sum = 0;
    for (std::size_t i = 0; i < 10; ++i) {
      sum += static_cast<double>(found.values[10 * row + i]);
      CHECK(same(found.expected[10 * row + i], model.reconstruct(x)[10 * row + i]));
    }
    CHECK(std::fabs(sum / 10 - static_cast<double>(score[row])) <= 1e-4 * static_cast<double>(score[row]));
    const auto top = found.top(row, 99);
    CHECK(top.size() == 10 && found.top(row).size() == 5 && found.top(row, 1)[0].place == top[0].place);
    for (std::size_t i = 0; i < 10; ++i) {
      CHECK(top[i].name == "sensor_" + std::to_string(top[i].place) && same(top[i].value, found.values[10 * row + top[i].place]));
      CHECK(i == 0 || top[i - 1].value >= top[i].value);
    }
  }
  CHECK(detail::is_nan(found.values[10]) && detail::is_nan(found.values[19]) && found.top(1, 1)[0].place == 0);
  CHECK_THROWS(InputError, "explain: expected a whole number of contributions from 1, got 0", found.top(0, 0));
  CHECK_THROWS(InputError, "explain: there is no row 3, but 3 of them", found.top(3));
  CHECK(model.explain(std::vector<float>{}).values.empty());
  CHECK_THROWS(InputError, "x: expected float32 [n, 10]", model.explain(std::vector<float>(11)));
  CHECK_THROWS(InputError, "is only one graph of a bundle; load the bundle's directory to explain with it",
               load(golden / "table" / "scorer.onnx", cpu()).explain(x));
  CHECK(load(golden / "windows", cpu()).signature().value_name(7 * 2 + 1) == "flow @ 7");
  CHECK(load(golden / "dense", cpu()).signature().value_name(8 + 3) == "1, 3");
  CHECK_THROWS(InputError, "has no scores of normal rows to calibrate by; make them with: edgeae threshold ", model.calibrate(score));
  CHECK_THROWS(InputError, "is only one graph of a bundle; load the bundle's directory to calibrate with it",
               load(golden / "table" / "scorer.onnx", cpu()).calibrate(score));
  // Statistics of another score, or none.
  const auto explain = [&x](const fs::path& path) { load(path, cpu(OnInvalid::flag)).explain(x); };
  const std::string missing = "statistics: the score is zscore, but no 'spread' that fits the rows' shape is there";
  const std::string manifest = read(golden / "table" / "manifest.json");
  const std::size_t at = manifest.find("\"statistics\": {"), end = manifest.find('}', at) + 1;
  const fs::path without = changed("table", manifest.substr(at, end - at), "\"statistics\": null");
  fs::remove(without / "statistics.npz");
  CHECK_THROWS(BundleError, missing, explain(without));
}

void test_locale_and_environment() {
  const float threshold = load(golden / "table" / "scorer.onnx", cpu()).threshold();
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new German));
  const Autoencoder model = load(golden / "table", cpu());
  CHECK(same(model.threshold(), threshold) && model.score(rows_of("table", 2)).size() == 2);
  std::vector<float> x = rows_of("table", 1300);
  x[12345] = kNan;
  CHECK_THROWS(InputError, "x: row 1234, feature", model.score(x));
  std::locale::global(before);
  CHECK(std::string(std::getenv("ORT_DISABLE_TELEMETRY")) == "1");
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) return 2;
  golden = fs::absolute(argv[1]);
  scratch = fs::temp_directory_path() / ("edgeae-test-" + std::to_string(std::chrono::steady_clock::now().time_since_epoch().count()));
  fs::create_directories(scratch);
  test_signature();
  test_errors_of_loading();
  test_spoilt_bundles();
  test_single_graphs();
  test_shapes();
  test_invalid_values();
  test_bytes();
  test_explanations();
  test_chunks_and_threads();
  test_lifetimes();
  test_locale_and_environment();
  test_denormals();
  fs::remove_all(scratch);
  return finish();
} catch (const std::exception& problem) {
  std::cout << "uncaught: " << problem.what() << '\n';
  return 1;
}

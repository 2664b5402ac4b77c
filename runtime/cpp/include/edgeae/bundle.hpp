// A bundle on disk: its manifest, strictly checked, and its files, read once and compared with their digests.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "json.hpp"
#include "npz.hpp"
#include "sha256.hpp"

namespace edgeae {

/// What a model is, from a bundle's manifest or from a graph's metadata.
struct Signature {
  std::string variant;                                    ///< dense, sparse, variational, ...
  std::string precision;                                  ///< fp32, fp16 or int8
  std::vector<std::int64_t> input_shape;                  ///< of one row, without the batch
  std::string input_dtype;                                ///< float32 or uint8
  std::string layout;                                     ///< vector, HW, CHW, HWC or TC
  std::int64_t latent_dim = 0;                            ///< values in a latent
  std::string score;                                      ///< mse, mae, bce, zscore, mahalanobis, prototype or elbo
  double threshold = 0;                                   ///< a float32 value; scores not below or at it are anomalies
  std::optional<std::vector<std::string>> feature_names;  ///< one per value of a vector, where there are names

  std::size_t row_values() const {
    std::size_t count = 1;
    for (const std::int64_t side : input_shape) count *= static_cast<std::size_t>(side);
    return count;
  }
};

namespace detail {

constexpr std::int64_t kFormatVersion = 1;

struct File {
  std::string path;
  std::uint64_t size = 0;
  std::string sha256;
};

struct Tolerance {
  double rtol = 0, atol = 0;
};

struct Precision {
  std::map<std::string, File> files;            // encoder, decoder, scorer, golden
  std::map<std::string, Tolerance> tolerances;  // z, x_hat, score
  double threshold = 0;
};

struct Manifest {
  Signature signature;  // its precision and threshold are those of no precision yet
  std::optional<std::int64_t> batch;
  std::vector<std::pair<std::string, Precision>> precisions;  // in the manifest's order
  std::set<std::string> files;                                // all there may be
};

// Reading values of a JSON document; messages name the path to the offending one.
class Field {
 public:
  Field(const Json& value, std::string where) : value_(value), where_(std::move(where)) {}

  // All keys of an object must be among `required` and `optional`, and all required ones there.
  const Field& object(std::initializer_list<const char*> required,
                      std::initializer_list<const char*> optional = {}) const {
    expect(Json::Kind::object, "an object");
    std::vector<std::string> known(required.begin(), required.end());
    known.insert(known.end(), optional.begin(), optional.end());
    for (const std::string& key : value_.keys) {
      bool found = false;
      for (const std::string& name : known) found = found || name == key;
      if (!found) throw BundleError(where_ + ": unknown key " + in_quotes(key) + "; known keys are " + joined(known));
    }
    for (const char* key : required)
      if (value_.find(key) == nullptr) throw BundleError(where_ + ": the key '" + key + "' is missing");
    return *this;
  }

  std::vector<std::pair<std::string, Field>> members() const {
    expect(Json::Kind::object, "an object");
    std::vector<std::pair<std::string, Field>> all;
    for (std::size_t i = 0; i < value_.keys.size(); ++i)
      all.emplace_back(value_.keys[i], Field(value_.items[i], where_ + "." + value_.keys[i]));
    return all;
  }

  std::vector<Field> list() const {
    expect(Json::Kind::list, "a list");
    std::vector<Field> all;
    for (std::size_t i = 0; i < value_.items.size(); ++i) all.emplace_back(value_.items[i], text(where_, "[", i, "]"));
    return all;
  }

  // A member that `object` has found; a missing optional one is null.
  Field at(const std::string& key) const {
    static const Json null;
    const Json* found = value_.find(key);
    return {found == nullptr ? null : *found, where_ + "." + key};
  }

  bool is_null() const { return value_.kind == Json::Kind::null; }

  const std::string& string() const {
    expect(Json::Kind::string, "str");
    return value_.string;
  }

  const std::string& one_of(std::initializer_list<const char*> choices) const {
    for (const char* choice : choices)
      if (value_.kind == Json::Kind::string && value_.string == choice) return value_.string;
    throw BundleError(where_ + ": " + shown() + " is not one of " + joined(choices));
  }

  std::int64_t integer() const {
    if (!value_.integer) fail("a whole number");
    return *value_.integer;
  }

  double number() const {
    expect(Json::Kind::number, "a number");
    return value_.number;
  }

  const std::string& where() const { return where_; }

 private:
  void expect(Json::Kind kind, const char* what) const {
    if (value_.kind != kind) fail(what);
  }

  [[noreturn]] void fail(const char* what) const {
    throw BundleError(where_ + ": expected " + what + ", got " + shown());
  }

  std::string shown() const {
    switch (value_.kind) {
      case Json::Kind::null: return "None";
      case Json::Kind::boolean: return value_.boolean ? "True" : "False";
      case Json::Kind::number: return text(value_.number);
      case Json::Kind::string: return in_quotes(value_.string);
      case Json::Kind::list: return "a list";
      default: return "an object";
    }
  }

  const Json& value_;
  std::string where_;
};

// A name that means the same on every system; see export/FORMAT.md.
inline bool is_plain_name(const std::string& name) {
  constexpr const char* first = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
  if (name.empty() || name.size() > 255 || name.back() == '/') return false;
  int parts = 0;
  std::istringstream in(name);
  for (std::string part; std::getline(in, part, '/');) {
    const bool plain = !part.empty() && std::string(first).find(part[0]) != std::string::npos && part.back() != '.' &&
                       part.find_first_not_of(std::string(first) + ".+-") == std::string::npos;
    if (!plain || ++parts > 3) return false;
  }
  return true;
}

// What desktops and network file systems leave in folders: neither read nor refused.
inline bool is_litter(const std::string& part) {
  for (const char* name : {".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX"})
    if (part == name) return true;
  return part.rfind("._", 0) == 0 || part.rfind(".nfs", 0) == 0;
}

inline File read_file_entry(const Field& field, const std::string& where) {
  field.object({"path", "size", "sha256"});
  const File file{field.at("path").string(), static_cast<std::uint64_t>(field.at("size").integer()),
                  field.at("sha256").string()};
  if (!is_plain_name(file.path))
    throw BundleError(where + ": the file name " + in_quotes(file.path) + " is not a plain relative path");
  if (file.size > std::uint64_t{1} << 31)
    throw BundleError(text(where, ": the size ", field.at("size").integer(), " of ", file.path,
                           " is out of bounds; export the bundle again"));
  if (file.sha256.size() != 64 || file.sha256.find_first_not_of("0123456789abcdef") != std::string::npos)
    throw BundleError(where + ": the sha256 of " + file.path + " is not one; export the bundle again");
  return file;
}

inline Precision read_precision(const Field& field, const std::string& manifest_path) {
  field.object({"encoder", "decoder", "scorer", "golden", "threshold", "tolerance", "quality"});
  Precision precision;
  for (const char* role : {"encoder", "decoder", "scorer", "golden"})
    precision.files[role] = read_file_entry(field.at(role), manifest_path);
  const Field threshold = field.at("threshold").object({"value", "method"}, {"fpr", "rows", "interval", "recall"});
  threshold.at("method").one_of({"quantile", "conformal", "evt", "sigma", "best-f1", "recall", "fixed"});
  precision.threshold = threshold.at("value").number();
  if (static_cast<double>(static_cast<float>(precision.threshold)) != precision.threshold)
    throw BundleError(field.where() + ".threshold.value is not a float32 value; export the bundle again");
  for (const auto& [name, each] : field.at("tolerance").object({"z", "x_hat", "score"}).members()) {
    each.object({"rtol", "atol"});
    const Tolerance found{each.at("rtol").number(), each.at("atol").number()};
    if (found.rtol < 0 || found.atol < 0)
      throw BundleError(field.where() + ".tolerance must not be below 0; export the bundle again");
    precision.tolerances[name] = found;
  }
  field.at("quality").object({"parity", "parity_rows"}, {"near_ties", "reconstruction_mse", "mean_mse", "auroc",
                                                         "rank_correlation", "label_flips"});
  return precision;
}

// The names of an optional list; absent and null are alike.
inline std::optional<std::vector<std::string>> read_names(const Field& field) {
  if (field.is_null()) return std::nullopt;
  std::vector<std::string> names;
  for (const Field& name : field.list()) names.push_back(name.string());
  return names;
}

// What manifest and metadata promise alike.
inline void check_signature(const Signature& signature, const std::string& where) {
  const auto require = [&](bool condition, const std::string& message) {
    if (!condition) throw BundleError(where + ": " + message + "; export the bundle again");
  };
  const std::string shape = "[" + joined(signature.input_shape) + "]";
  const std::size_t rank = signature.input_shape.size();
  require(rank >= 1 && rank <= 3, text("input.shape has ", rank, " axes, expected 1 to 3"));
  double values = 1;
  for (const std::int64_t side : signature.input_shape) {
    require(side > 0 && side <= 1 << 24, "input.shape " + shape + " is out of bounds");
    values *= static_cast<double>(side);
  }
  const std::map<std::string, std::size_t> ranks = {{"vector", 1}, {"HW", 2}, {"TC", 2}, {"CHW", 3}, {"HWC", 3}};
  const auto found = ranks.find(signature.layout);
  require(found != ranks.end(), in_quotes(signature.layout) + " is not one of vector, HW, CHW, HWC, TC");
  require(found->second == rank, "input.shape " + shape + " does not fit the layout " + signature.layout);
  require(values <= 1 << 24, "input.shape " + shape + ": more than 16,777,216 values");
  require(signature.input_dtype == "float32" || signature.input_dtype == "uint8",
          in_quotes(signature.input_dtype) + " is not one of float32, uint8");
  if (const auto& names = signature.feature_names)
    require(signature.layout == "vector" && names->size() == static_cast<std::size_t>(signature.input_shape[0]),
            text("input.feature_names: ", names->size(), " names for rows of shape ", shape));
  require(signature.latent_dim > 0 && signature.latent_dim <= 1 << 24, text("latent_dim ", signature.latent_dim, " is out of bounds"));
}

inline Manifest parse_manifest(const std::string& data, const std::string& where) {
  const Json json = parse_json(data, where);
  const Json* format = json.find("format");
  if (json.kind != Json::Kind::object || format == nullptr || format->string != "edgeae-bundle")
    throw BundleError(where + ": not an edgeae manifest (its 'format' is not 'edgeae-bundle')");
  const Field root(json, where);
  const std::int64_t version = root.at("format_version").integer();
  if (version < 1) throw BundleError(text(where, ": format_version must be a whole number from 1, got ", version));
  if (version > kFormatVersion)
    throw BundleError(text(where, ": format version ", version, " is newer than this edgeae reads (", kFormatVersion,
                           "); upgrade edgeae"));
  root.object({"format", "format_version", "name", "created", "producer", "variant", "description", "parameters",
               "latent_dim", "input", "normalisation", "score", "batch", "opset", "ir_version", "precisions"},
              {"generative", "statistics", "training"});
  const Field input = root.at("input").object({"shape", "dtype", "layout"}, {"feature_names", "minimum", "maximum"});
  const Field score = root.at("score").object({"kind"}, {"decoder_variance"});
  root.at("normalisation").object({"kind", "shift", "scale"});

  Manifest manifest;
  Signature& signature = manifest.signature;
  signature.variant = root.at("variant").string();
  for (const Field& side : input.at("shape").list()) signature.input_shape.push_back(side.integer());
  signature.input_dtype = input.at("dtype").one_of({"float32", "uint8"});
  signature.layout = input.at("layout").one_of({"vector", "HW", "CHW", "HWC", "TC"});
  signature.feature_names = read_names(input.at("feature_names"));
  signature.latent_dim = root.at("latent_dim").integer();
  signature.score = score.at("kind").one_of({"mse", "mae", "bce", "zscore", "mahalanobis", "prototype", "elbo"});
  check_signature(signature, where);
  if (const Field batch = root.at("batch"); !batch.is_null()) {
    manifest.batch = batch.integer();
    if (*manifest.batch < 1 || *manifest.batch > 1 << 20)
      throw BundleError(text(where, ": batch ", *manifest.batch, " is out of bounds; export the bundle again"));
  }
  bool has_fp32 = false;
  for (const auto& [name, field] : root.at("precisions").members()) {
    if (name != "fp32" && name != "fp16" && name != "int8")
      throw BundleError(where + ": precisions: unknown precision " + in_quotes(name) + "; known are fp32, fp16, int8");
    manifest.precisions.emplace_back(name, read_precision(field, where));
    has_fp32 = has_fp32 || name == "fp32";
  }
  if (!has_fp32) throw BundleError(where + ": precisions: fp32 is missing; export the bundle again");
  std::vector<std::string> listed = {"manifest.json"};
  for (const auto& [name, precision] : manifest.precisions)
    for (const auto& [role, file] : precision.files) listed.push_back(file.path);
  if (const Field statistics = root.at("statistics"); !statistics.is_null())
    listed.push_back(read_file_entry(statistics, where).path);
  for (const std::string& name : listed)
    if (!manifest.files.insert(name).second)
      throw BundleError(where + ": lists " + in_quotes(name) + " twice; export the bundle again");
  return manifest;
}

// The bytes of a regular file no larger than `limit`.
inline std::string read_bytes(const std::filesystem::path& path, std::uintmax_t limit) {
  std::error_code problem;
  const std::string where = path.string();
  const auto status = std::filesystem::status(path, problem);
  if (status.type() == std::filesystem::file_type::not_found)
    throw BundleError(where + ": the file is missing; copy or export the bundle again");
  if (problem) throw BundleError(where + ": cannot be read: " + problem.message());
  if (!std::filesystem::is_regular_file(status)) throw BundleError(where + ": is not a regular file");
  const std::uintmax_t size = std::filesystem::file_size(path, problem);
  if (problem) throw BundleError(where + ": cannot be read: " + problem.message());
  if (size > limit) throw BundleError(text(where, ": ", size, " bytes, more than the limit of ", limit, "; it is no file of a bundle"));
  std::ifstream file(path, std::ios::binary);
  std::string data(static_cast<std::size_t>(size), '\0');
  file.read(data.data(), static_cast<std::streamsize>(size));
  if (!file) throw BundleError(where + ": cannot be read");
  return data;
}

constexpr std::uintmax_t kMaxManifestBytes = 8u << 20, kMaxFileBytes = 1u << 31;

/// A bundle's directory whose manifest has been read and checked.
class Bundle {
 public:
  explicit Bundle(std::filesystem::path path) : path_(std::move(path)) {
    const std::string where = path_.string();
    std::error_code ignored;
    if (!std::filesystem::exists(path_, ignored))
      throw BundleError(where + ": no such bundle; make one with: edgeae export RUN -o " + where);
    if (!std::filesystem::exists(path_ / "manifest.json", ignored)) {
      std::string hint;
      if (std::filesystem::exists(path_ / "model.json", ignored))
        hint = "; it is a run directory: export it first with: edgeae export " + where + " -o BUNDLE";
      throw BundleError(where + ": not a bundle, it has no manifest.json" + hint);
    }
    manifest_ = parse_manifest(read("manifest.json", kMaxManifestBytes), (path_ / "manifest.json").string());
    refuse_others();
  }

  const std::filesystem::path& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }

  const Precision& precision(const std::string& name) const {
    std::vector<std::string> held;
    for (const auto& [each, entry] : manifest_.precisions) {
      if (each == name) return entry;
      held.push_back(each);
    }
    const bool known = name == "fp32" || name == "fp16" || name == "int8";
    throw InputError(path_.string() + ": holds no graphs at precision " + in_quotes(name) +
                     (known ? "" : " (known precisions: fp32, fp16, int8)") + "; choose " + joined(held) +
                     ", or export it again with another --precision");
  }

  // Read one file, once, and return exactly the bytes that were checked.
  std::string file(const File& file) const {
    std::string data = read(file.path, kMaxFileBytes);
    const std::string where = (path_ / file.path).string();
    if (data.size() != file.size)
      throw IntegrityError(text(where, ": ", data.size(), " bytes, the manifest says ", file.size,
                                "; copy or export the bundle again"));
    const std::string digest = sha256(data);
    if (digest != file.sha256)
      throw IntegrityError(where + ": its SHA-256 is " + digest.substr(0, 12) + "..., the manifest says " +
                           file.sha256.substr(0, 12) +
                           "...; the file was changed after export: copy or export the bundle again");
    return data;
  }

 private:
  // There must be no file that the manifest does not list, and no link or device.
  void refuse_others() const {
    std::set<std::string> unknown;
    std::error_code problem;
    std::filesystem::recursive_directory_iterator at(path_, problem), end;
    for (int seen = 0; !problem && at != end && seen < 1024; at.increment(problem), ++seen) {
      std::error_code ignored;
      const std::string part = at->path().filename().string();
      const bool folder = at->is_directory(ignored) && !at->is_symlink(ignored);
      if (is_litter(part)) {
        if (folder) at.disable_recursion_pending();
      } else if (!folder) {
        const std::string name = at->path().lexically_relative(path_).generic_string();
        if (const bool link = at->is_symlink(ignored); link || !at->is_regular_file(ignored))
          throw BundleError(at->path().string() + (link ? ": is a link" : ": is not a regular file") +
                            "; a bundle's files must be regular files inside it");
        if (manifest_.files.count(name) == 0) unknown.insert(name);
      }
    }
    if (problem) throw BundleError(path_.string() + ": cannot be read: " + problem.message());
    if (unknown.empty()) return;
    const std::size_t shown = std::min<std::size_t>(unknown.size(), 5);
    std::vector<std::string> some;
    for (const std::string& name : unknown)
      if (some.size() < shown) some.push_back(is_plain_name(name) ? name : in_quotes(name));
    throw BundleError(path_.string() + ": the manifest does not list " + joined(some) +
                      (unknown.size() > shown ? text(" and ", unknown.size() - shown, " more") : "") +
                      "; a bundle holds nothing else: remove what is not its own, or export it again");
  }

  std::string read(const std::string& name, std::uintmax_t limit) const {
    std::filesystem::path place = path_;
    for (const auto& part : std::filesystem::path(name)) {
      place /= part;
      std::error_code ignored;
      if (std::filesystem::is_symlink(place, ignored))
        throw BundleError((path_ / name).string() +
                          ": is a link; a bundle's files must be regular files inside it");
    }
    return read_bytes(place, limit);
  }

  std::filesystem::path path_;
  Manifest manifest_;
};

/// Golden rows: a few inputs and what they must give.
struct Golden {
  std::size_t rows = 0;
  Array x;  // the bundle's input dtype
  std::vector<float> z, x_hat, score;
};

inline Golden read_golden(const Bundle& bundle, const std::string& precision) {
  const File& file = bundle.precision(precision).files.at("golden");
  const std::string where = (bundle.path() / file.path).string();
  auto arrays = parse_npz(bundle.file(file), where);
  std::vector<std::string> held;
  for (const auto& entry : arrays) held.push_back(entry.first);
  const Signature& signature = bundle.manifest().signature;
  Golden golden;
  golden.x = arrays["x"];
  golden.rows = golden.x.shape.empty() ? 0 : golden.x.shape[0];
  if (held != std::vector<std::string>{"score", "x", "x_hat", "z"} || golden.rows < 1 || golden.rows > 256)
    throw BundleError(text(where, ": holds ", joined(held), " of ", golden.rows,
                           " rows, expected x, z, x_hat, score of 1 to 256 rows; export the bundle again"));
  const std::vector<std::size_t> row(signature.input_shape.begin(), signature.input_shape.end());
  const auto check = [&](const char* name, const std::string& dtype, const std::vector<std::size_t>& rest) {
    std::vector<std::size_t> shape = {golden.rows};
    shape.insert(shape.end(), rest.begin(), rest.end());
    if (arrays[name].dtype != dtype || arrays[name].shape != shape)
      throw BundleError(where + ": " + name + " is " + arrays[name].dtype + " (" + joined(arrays[name].shape) +
                        "), expected " + dtype + " (" + joined(shape) + ")");
  };
  check("x", signature.input_dtype, row);
  check("z", "float32", {static_cast<std::size_t>(signature.latent_dim)});
  check("x_hat", "float32", row);
  check("score", "float32", {});
  golden.z = arrays["z"].floats();
  golden.x_hat = arrays["x_hat"].floats();
  golden.score = arrays["score"].floats();
  return golden;
}

}  // namespace detail
}  // namespace edgeae

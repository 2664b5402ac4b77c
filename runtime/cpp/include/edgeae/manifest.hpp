// The manifest: what a bundle promises, checked as strictly and in the same order as in Python (edgeae.bundle.manifest).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "json.hpp"
#include "names.hpp"

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
  std::optional<std::vector<std::string>> channel_names;  ///< one per channel of a window, where a bundle has names

  std::size_t row_values() const {
    std::size_t count = 1;
    for (const std::int64_t side : input_shape) count *= static_cast<std::size_t>(side);
    return count;
  }

  /// What a value of a row is called: by its feature; in a window by channel and step, "pressure @ 12"; without names by
  /// its place: "3", or "7, 12" in an image.
  std::string value_name(std::size_t place) const {
    if (feature_names) return feature_names->at(place);
    if (channel_names) {
      const std::string& channel = channel_names->at(place % channel_names->size());
      return channel_names->size() == row_values() ? channel : channel + " @ " + std::to_string(place / channel_names->size());
    }
    std::string name;
    for (std::size_t axis = input_shape.size(); axis-- > 0;) {
      const auto side = static_cast<std::size_t>(input_shape[axis]);
      name = std::to_string(place % side) + (name.empty() ? "" : ", ") + name;
      place /= side;
    }
    return name;
  }
};

namespace detail {

constexpr std::int64_t kFormatVersion = 1;
constexpr std::int64_t kMaxRow = 1 << 24;  // values in one row, and in a latent
constexpr std::int64_t kMaxFile = std::int64_t{1} << 31;

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
  std::optional<double> minimum, maximum;  // among the training rows
  std::vector<float> shift, scale;         // of the normalisation: one value, or one per feature or channel
  std::optional<double> decoder_variance;  // for the score elbo with a Gaussian decoder
  std::optional<File> statistics;          // what the score took from normal rows
  std::vector<std::pair<std::string, Precision>> precisions;  // in the manifest's order
  std::set<std::string> files;                                // all there may be
};

// --- types: what a value must be, whatever it means ----------------------------------------------------------------

using Check = std::function<void(const Json&, const std::string& where)>;

[[noreturn]] inline void refuse(const std::string& where, const std::string& expected, const Json& value) {
  throw BundleError(where + ": expected " + expected + ", got " + value.shown());
}

// No control characters but tab, line feed and carriage return, which can rewrite what stands on a terminal.
inline void check_text(const Json& value, const std::string& where) {
  if (value.kind != Json::Kind::string) refuse(where, "str", value);
  for (std::size_t at = 0; at < value.word.size();) {
    const auto [code, size] = code_point(value.word, at, true);
    const bool control = code < 0x20 ? code != 9 && code != 10 && code != 13 : code >= 0x7F && code <= 0x9F;
    if (control || (code >= 0xD800 && code <= 0xDFFF))
      throw BundleError(where + ": " + value.shown() + " holds control characters or half characters");
    at += size;
  }
}

inline void check_whole(const Json& value, const std::string& where) {
  if (value.kind != Json::Kind::whole) refuse(where, "a whole number", value);
  if (!value.integer()) refuse(where, "a whole number of 64 bits", value);
}

inline void check_number(const Json& value, const std::string& where) {
  if (value.kind != Json::Kind::whole && value.kind != Json::Kind::real) refuse(where, "a number", value);
  if (std::abs(value.number()) > std::numeric_limits<double>::max()) refuse(where, "a finite number", value);
}

inline void check_boolean(const Json& value, const std::string& where) {
  if (value.kind != Json::Kind::boolean) refuse(where, "bool", value);
}

inline Check one_of(std::vector<std::string> choices) {
  return [choices](const Json& value, const std::string& where) {
    const bool known = std::find(choices.begin(), choices.end(), value.word) != choices.end();
    if (value.kind != Json::Kind::string || !known)
      throw BundleError(where + ": " + value.shown() + " is not one of " + joined(choices));
  };
}

inline Check or_null(Check check) {
  return [check](const Json& value, const std::string& where) {
    if (!value.is_null()) check(value, where);
  };
}

inline Check list_of(Check check) {
  return [check](const Json& value, const std::string& where) {
    if (value.kind != Json::Kind::list) refuse(where, "a list", value);
    for (std::size_t i = 0; i < value.size(); ++i) check(value.value(i), text(where, "[", i, "]"));
  };
}

inline Check map_of(Check check) {
  return [check](const Json& value, const std::string& where) {
    if (value.kind != Json::Kind::object) refuse(where, "an object", value);
    for (std::size_t i = 0; i < value.size(); ++i) {
      check_text(value.items[2 * i], where + ": a key");
      check(value.value(i), where + "." + start_of(value.key(i), 60));
    }
  };
}

struct Key {
  const char* name;
  Check check;
  bool optional = false;
};

// An object with these keys and no others; `name` is what Python calls it.
inline Check record(const char* name, const std::vector<Key>& keys) {
  return [name, keys](const Json& value, const std::string& where) {
    if (value.kind != Json::Kind::object) refuse(where, text("an object with the keys of ", name), value);
    const auto find = [&](const std::string& word) {
      return std::find_if(keys.begin(), keys.end(), [&](const Key& key) { return word == key.name; });
    };
    const std::string* unknown = nullptr;
    for (std::size_t i = 0; i < value.size(); ++i)
      if (find(value.key(i)) == keys.end() && (unknown == nullptr || value.key(i) < *unknown)) unknown = &value.key(i);
    if (unknown != nullptr) {
      std::vector<std::string> known;
      for (const Key& key : keys) known.emplace_back(key.name);
      throw BundleError(where + ": unknown key " + in_quotes(*unknown) + "; known keys are " + joined(known));
    }
    for (const Key& key : keys)
      if (!key.optional && value.find(key.name) == nullptr)
        throw BundleError(where + ": the key '" + key.name + "' is missing");
    for (std::size_t i = 0; i < value.size(); ++i) find(value.key(i))->check(value.value(i), where + "." + value.key(i));
  };
}

inline const Check& check_names() {
  static const Check check = or_null(list_of(check_text));
  return check;
}

inline const Check& manifest_type() {
  static const Check made = [] {
    const Check string = check_text, whole = check_whole, number = check_number, maybe = or_null(check_number);
    const Check file = record("File", {{"path", string}, {"size", whole}, {"sha256", string}});
    const Check threshold = record(
        "Threshold",
        {{"value", number},
         {"method", one_of({"quantile", "conformal", "evt", "sigma", "best-f1", "recall", "fixed"})},
         {"fpr", maybe, true}, {"rows", whole, true}, {"interval", or_null(list_of(number)), true}, {"recall", maybe, true}});
    const Check quality = record(
        "Quality", {{"parity", map_of(number)}, {"parity_rows", whole}, {"near_ties", whole, true},
                    {"reconstruction_mse", maybe, true}, {"mean_mse", maybe, true}, {"auroc", maybe, true},
                    {"rank_correlation", maybe, true}, {"label_flips", maybe, true}});
    const Check precision = record(
        "PrecisionEntry", {{"encoder", file}, {"decoder", file}, {"scorer", file}, {"golden", file}, {"threshold", threshold},
                           {"tolerance", map_of(record("Tolerance", {{"rtol", number}, {"atol", number}}))},
                           {"quality", quality}});
    const Check series = record("Series", {{"stride", whole, true}, {"channel_names", check_names(), true},
                                           {"period", maybe, true}, {"resampled", check_boolean, true},
                                           {"label", one_of({"any", "last"}), true}});
    const Check input = record("Input", {{"shape", list_of(whole)}, {"dtype", one_of({"float32", "uint8"})},
                                         {"layout", one_of({"vector", "HW", "CHW", "HWC", "TC"})},
                                         {"feature_names", check_names(), true}, {"minimum", maybe, true},
                                         {"maximum", maybe, true}, {"series", or_null(series), true}});
    const Check normalisation =
        record("Normalisation", {{"kind", one_of({"none", "minmax", "standard", "robust"})}, {"shift", list_of(number)},
                                 {"scale", list_of(number)}});
    const Check score =
        record("Score", {{"kind", one_of({"mse", "mae", "bce", "zscore", "mahalanobis", "prototype", "elbo"})},
                         {"decoder_variance", maybe, true}});
    const Check training =
        record("Provenance", {{"data", string}, {"data_digest", or_null(string), true}, {"rows", whole, true},
                              {"epochs", whole, true}, {"loss", string, true}, {"seed", whole, true}});
    return record(
        "Manifest",
        {{"format", one_of({"edgeae-bundle"})}, {"format_version", whole}, {"name", string}, {"created", string},
         {"producer", map_of(string)}, {"variant", string}, {"description", string}, {"parameters", whole},
         {"latent_dim", whole}, {"input", input}, {"normalisation", normalisation}, {"score", score},
         {"batch", or_null(whole)}, {"opset", whole}, {"ir_version", whole}, {"precisions", map_of(precision)},
         {"generative", check_boolean, true}, {"statistics", or_null(file), true}, {"training", or_null(training), true}});
  }();
  return made;
}

// --- meaning: what values of the right types must be to one another -------------------------------------------------

inline bool fits_float32(double value) {
  return std::abs(value) <= static_cast<double>(std::numeric_limits<float>::max());
}

inline void require(bool condition, const std::string& where, const std::string& message) {
  if (!condition) throw BundleError(where + ": " + message + "; export the bundle again");
}

inline std::string sides_of(const Signature& signature) { return shortened("[" + joined(signature.input_shape) + "]"); }

// What manifest and metadata promise alike.
inline void check_signature(const Signature& signature, const std::string& where) {
  static const std::map<std::string, std::size_t> ranks = {{"vector", 1}, {"HW", 2}, {"TC", 2}, {"CHW", 3}, {"HWC", 3}};
  const std::vector<std::int64_t>& sides = signature.input_shape;
  const std::string shape = sides_of(signature);
  require(!sides.empty() && sides.size() <= 3, where, text("input.shape has ", sides.size(), " axes, expected 1 to 3"));
  double values = 1;
  for (const std::int64_t side : sides) {
    require(side > 0 && side <= kMaxRow, where, "input.shape " + shape + " is out of bounds");
    values *= static_cast<double>(side);
  }
  const auto found = ranks.find(signature.layout);
  if (found == ranks.end())
    throw BundleError(where + ": " + in_quotes(signature.layout) + " is not one of vector, HW, CHW, HWC, TC");
  require(found->second == sides.size(), where, "input.shape " + shape + " does not fit the layout " + signature.layout);
  require(values <= static_cast<double>(kMaxRow), where,
          "input.shape " + shape + ": more than " + grouped(static_cast<std::uintmax_t>(kMaxRow)) + " values");
  if (signature.input_dtype != "float32" && signature.input_dtype != "uint8")
    throw BundleError(where + ": " + in_quotes(signature.input_dtype) + " is not one of float32, uint8");
  if (const auto& names = signature.feature_names)
    require(signature.layout == "vector" && names->size() == static_cast<std::size_t>(sides[0]), where,
            text("input.feature_names: ", names->size(), " names for rows of shape ", shape));
  require(signature.latent_dim > 0 && signature.latent_dim <= kMaxRow, where,
          text("latent_dim ", signature.latent_dim, " is out of bounds"));
}

inline void check_normalisation(const Json& normalisation, const Signature& signature, const std::string& where) {
  const Json &shift = normalisation.at("shift"), &scale = normalisation.at("scale");
  for (const Json* list : {&shift, &scale})
    for (const Json& value : list->items)
      require(fits_float32(value.number()), where, "normalisation.shift and .scale must be within float32");
  const std::string& layout = signature.layout;
  const std::vector<std::int64_t>& sides = signature.input_shape;
  const std::size_t wanted = layout == "HW" ? 1 : static_cast<std::size_t>(layout == "CHW" ? sides.front() : sides.back());
  if (shift.size() != scale.size() || (shift.size() != 1 && shift.size() != wanted))
    throw BundleError(where + text(": normalisation: ", shift.size(), " shifts and ", scale.size(), " scales for rows of shape ",
                                   tuple_of(sides), " (", layout, "); expected 1 or ", wanted, " of each"));
  for (const Json& value : scale.items)
    require(static_cast<float>(value.number()) > 0, where, "normalisation.scale must be positive");
}

inline void check_series(const Json& series, const Signature& signature, const std::string& where) {
  if (series.is_null()) return;
  require(signature.layout == "TC", where, "input.series: rows of the layout " + signature.layout + " are no windows");
  if (const Json* stride = series.find("stride"))
    require(*stride->integer() > 0 && *stride->integer() <= kMaxRow, where,
            "input.series.stride " + stride->shown() + " is out of bounds");
  const Json &names = series.at("channel_names"), &period = series.at("period");
  require(names.is_null() || names.size() == static_cast<std::size_t>(signature.input_shape.back()), where,
          text("input.series.channel_names: ", names.size(), " names for windows of shape ", sides_of(signature)));
  require(period.is_null() || (period.number() > 0 && fits_float32(period.number())), where,
          "input.series.period must be positive");
  require(!period.is_null() || series.at("resampled").word != "true", where, "input.series: resampled, and no period");
}

inline File read_file(const Json& json) {
  return {json.at("path").word, static_cast<std::uint64_t>(*json.at("size").integer()), json.at("sha256").word};
}

inline Precision read_precision(const std::string& name, const Json& json, const std::string& where) {
  const std::string start = "precisions." + name;
  Precision precision;
  for (const char* role : {"encoder", "decoder", "scorer", "golden"}) precision.files[role] = read_file(json.at(role));
  const Json& tolerance = json.at("tolerance");
  for (std::size_t i = 0; i < tolerance.size(); ++i)
    precision.tolerances[tolerance.key(i)] = {tolerance.value(i).at("rtol").number(), tolerance.value(i).at("atol").number()};
  bool complete = precision.tolerances.size() == 3;
  for (const char* tensor : {"z", "x_hat", "score"}) complete = complete && precision.tolerances.count(tensor) > 0;
  require(complete, where, start + ".tolerance: need z, x_hat, score");
  for (const auto& [tensor, bounds] : precision.tolerances)
    require(bounds.rtol >= 0 && bounds.atol >= 0, where, start + ".tolerance must not be below 0");
  const Json& threshold = json.at("threshold");
  precision.threshold = threshold.at("value").number();
  const bool exact = fits_float32(precision.threshold) &&
                     !(static_cast<double>(static_cast<float>(precision.threshold)) < precision.threshold) &&
                     !(static_cast<double>(static_cast<float>(precision.threshold)) > precision.threshold);
  require(exact, where, start + ".threshold.value is not a float32 value");
  if (const Json& interval = threshold.at("interval"); !interval.is_null()) {
    const double low = interval.size() == 2 ? interval.value(0).number() : -1;
    const double high = interval.size() == 2 ? interval.value(1).number() : -1;
    require(low >= 0 && low <= high && high <= 1, where,
            start + ".threshold.interval is not two ascending numbers from 0 to 1");
  }
  return precision;
}

// Take a file into the list of those that the bundle may have.
inline void list_file(std::set<std::string>& seen, const Json& file, const std::string& where) {
  const std::string &path = file.at("path").word, &digest = file.at("sha256").word;
  check_name(path, where);
  if (!seen.insert(lower(path)).second)
    throw BundleError(where + ": lists " + quoted(path) + " twice; export the bundle again");
  const std::int64_t size = *file.at("size").integer();
  require(size >= 0 && size <= kMaxFile, where, text("the size ", size, " of ", path, " is out of bounds"));
  require(digest.size() == 64 && digest.find_first_not_of("0123456789abcdef") == std::string::npos, where,
          "the sha256 of " + path + " is not one");
}

// The names of an optional list; absent and null are alike.
inline std::optional<std::vector<std::string>> read_names(const Json& list) {
  if (list.is_null()) return std::nullopt;
  std::vector<std::string> names;
  for (const Json& name : list.items) names.push_back(name.word);
  return names;
}

/// Parse and check the bytes of a manifest.json. Throws BundleError that names `where`.
inline Manifest parse_manifest(const std::string& data, const std::string& where) {
  const Json json = parse_json(data, where);
  const Json& format = json.at("format");
  if (format.kind != Json::Kind::string || format.word != "edgeae-bundle")
    throw BundleError(where + ": not an edgeae manifest (its 'format' is not 'edgeae-bundle')");
  const Json& version = json.at("format_version");
  const bool minus = version.word.rfind('-', 0) == 0 || version.word == "0";
  if (version.kind != Json::Kind::whole || minus)
    throw BundleError(where + ": format_version must be a whole number from 1, got " + version.shown());
  if (version.integer().value_or(kFormatVersion + 1) > kFormatVersion)
    throw BundleError(text(where, ": format version ", version.shown(), " is newer than this edgeae reads (", kFormatVersion,
                           "); upgrade edgeae"));
  manifest_type()(json, where);

  Manifest manifest;
  Signature& signature = manifest.signature;
  const Json &input = json.at("input"), &batch = json.at("batch"), &precisions = json.at("precisions");
  signature.variant = json.at("variant").word;
  for (const Json& side : input.at("shape").items) signature.input_shape.push_back(*side.integer());
  signature.input_dtype = input.at("dtype").word;
  signature.layout = input.at("layout").word;
  signature.feature_names = read_names(input.at("feature_names"));
  signature.latent_dim = *json.at("latent_dim").integer();
  signature.score = json.at("score").at("kind").word;
  check_signature(signature, where);
  if (!batch.is_null()) {
    manifest.batch = batch.integer();
    require(*manifest.batch > 0 && *manifest.batch <= 1 << 20, where, text("batch ", *manifest.batch, " is out of bounds"));
  }
  for (const char* limit : {"minimum", "maximum"})
    require(input.at(limit).is_null() || fits_float32(input.at(limit).number()), where,
            "input.minimum and .maximum must be within float32");
  if (const Json& least = input.at("minimum"); !least.is_null()) manifest.minimum = least.number();
  if (const Json& most = input.at("maximum"); !most.is_null()) manifest.maximum = most.number();
  check_normalisation(json.at("normalisation"), signature, where);
  for (const Json& value : json.at("normalisation").at("shift").items) manifest.shift.push_back(static_cast<float>(value.number()));
  for (const Json& value : json.at("normalisation").at("scale").items) manifest.scale.push_back(static_cast<float>(value.number()));
  check_series(input.at("series"), signature, where);
  if (const Json& series = input.at("series"); !series.is_null()) signature.channel_names = read_names(series.at("channel_names"));
  const Json& variance = json.at("score").at("decoder_variance");
  require(variance.is_null() || variance.number() > 0, where, "score.decoder_variance must be positive");
  if (!variance.is_null()) manifest.decoder_variance = variance.number();
  require(precisions.find("fp32") != nullptr, where, "precisions: fp32 is missing");
  for (std::size_t i = 0; i < precisions.size(); ++i) {
    const std::string& name = precisions.key(i);
    require(name == "fp32" || name == "fp16" || name == "int8", where,
            "precisions: unknown precision " + in_quotes(name) + "; known are fp32, fp16, int8");
    manifest.precisions.emplace_back(name, read_precision(name, precisions.value(i), where));
  }
  std::set<std::string> seen = {"manifest.json"};
  manifest.files = {"manifest.json"};
  const auto list = [&](const Json& file) {
    list_file(seen, file, where);
    manifest.files.insert(file.at("path").word);
  };
  for (std::size_t i = 0; i < precisions.size(); ++i)
    for (const char* role : {"encoder", "decoder", "scorer", "golden"}) list(precisions.value(i).at(role));
  if (const Json& statistics = json.at("statistics"); !statistics.is_null()) {
    list(statistics);
    manifest.statistics = read_file(statistics);
  }
  return manifest;
}

}  // namespace detail
}  // namespace edgeae

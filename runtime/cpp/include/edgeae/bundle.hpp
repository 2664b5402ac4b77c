// A bundle on disk: its manifest, and its files, read once and compared with their digests.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "manifest.hpp"
#include "npz.hpp"
#include "sha256.hpp"

namespace edgeae {
namespace detail {

constexpr std::uintmax_t kMaxManifestBytes = 8u << 20, kMaxFileBytes = std::uintmax_t{1} << 31;
constexpr std::size_t kMaxFiles = 128;

// Names in messages: up to five, and how many more.
inline std::string some(const std::vector<std::string>& names) {
  std::string shown;
  for (std::size_t i = 0; i < names.size() && i < 5; ++i) {
    bool plain = true;
    for (std::size_t at = 0; plain && at < names[i].size();) {
      const auto [code, size] = code_point(names[i], at, false);
      plain = size > 0 && is_printable(code);
      at += size;
    }
    shown += (i == 0 ? "" : ", ") + (plain ? names[i] : quoted(names[i]));
  }
  return names.empty() ? "nothing" : names.size() > 5 ? text(shown, " and ", names.size() - 5, " more") : shown;
}

// The bytes of a regular file, of `size` or at most `limit` bytes.
inline std::string read_bytes(const std::filesystem::path& path, std::uintmax_t limit, std::optional<std::uint64_t> size = {}) {
  std::error_code problem;
  const std::string where = path.string();
  const auto status = std::filesystem::status(path, problem);
  if (status.type() == std::filesystem::file_type::not_found)
    throw BundleError(where + ": the file is missing; copy or export the bundle again");
  if (problem) throw BundleError(where + ": cannot be read: " + problem.message());
  if (!std::filesystem::is_regular_file(status)) throw BundleError(where + ": is not a regular file");
  const std::uintmax_t found = std::filesystem::file_size(path, problem);
  if (problem) throw BundleError(where + ": cannot be read: " + problem.message());
  if (found > limit)
    throw BundleError(where + ": " + grouped(found) + " bytes, more than the limit of " + grouped(limit) +
                      "; it is no file of a bundle");
  if (size && found != *size)
    throw IntegrityError(text(where, ": ", found, " bytes, the manifest says ", *size, "; copy or export the bundle again"));
  std::ifstream file(path, std::ios::binary);
  std::string data(static_cast<std::size_t>(found), '\0');
  file.read(data.data(), static_cast<std::streamsize>(found));
  if (!file) throw BundleError(where + ": cannot be read");
  return data;
}

/// A bundle's directory whose manifest has been read and checked.
class Bundle {
 public:
  explicit Bundle(std::filesystem::path path) : path_(std::move(path)) {
    const std::string where = path_.string();
    std::error_code problem;
    if (!std::filesystem::exists(path_, problem))
      throw BundleError(where + ": no such bundle; make one with: edgeae export RUN -o " + where);
    if (std::filesystem::symlink_status(path_ / "manifest.json", problem).type() == std::filesystem::file_type::not_found) {
      std::string hint;
      if (std::filesystem::exists(path_ / "model.json", problem))
        hint = "; it is a run directory: export it first with: edgeae export " + where + " -o BUNDLE";
      throw BundleError(where + ": not a bundle, it has no manifest.json" + hint);
    }
    const std::set<std::string> held = list_files();
    if (held.count("manifest.json") == 0)
      throw BundleError(where + ": holds no manifest.json at its top" +
                        (std::any_of(held.begin(), held.end(),
                                     [](const std::string& name) { return name.find("/manifest.json") != std::string::npos; })
                             ? "; zip what is in the folder, not the folder"
                             : "; it is no edgeae bundle"));
    manifest_ = parse_manifest(read("manifest.json", kMaxManifestBytes), (path_ / "manifest.json").string());
    std::vector<std::string> unknown;
    for (const std::string& name : held)
      if (manifest_.files.count(name) == 0) unknown.push_back(name);
    if (!unknown.empty())
      throw BundleError(where + ": the manifest does not list " + some(unknown) +
                        "; a bundle holds nothing else: remove what is not its own, or export it again");
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
    std::string data = read(file.path, kMaxFileBytes, file.size);
    const std::string digest = sha256(data);
    if (digest != file.sha256)
      throw IntegrityError((path_ / file.path).string() + ": its SHA-256 is " + digest.substr(0, 12) +
                           "..., the manifest says " + file.sha256.substr(0, 12) +
                           "...; the file was changed after export: copy or export the bundle again");
    return data;
  }

 private:
  // The names of all files, without litter; none of them a link or a device.
  std::set<std::string> list_files() const {
    std::set<std::string> names;
    std::error_code problem;
    std::filesystem::recursive_directory_iterator at(path_, problem), end;
    for (std::size_t seen = 0; !problem && at != end; at.increment(problem)) {
      if (++seen > 8 * kMaxFiles) throw BundleError(path_.string() + ": holds far too many files; it is no edgeae bundle");
      std::error_code ignored;
      const std::string part = at->path().filename().string();
      const bool link = at->is_symlink(ignored), folder = !link && at->is_directory(ignored);
      if (is_litter(part)) {
        if (folder) at.disable_recursion_pending();
        continue;
      }
      if (folder && at.depth() < 2) continue;
      if (link || !at->is_regular_file(ignored))
        throw BundleError(at->path().string() + (link ? ": is a link" : ": is not a regular file") +
                          "; a bundle's files must be regular files inside it");
      names.insert(at->path().lexically_relative(path_).generic_string());
      if (names.size() > kMaxFiles)
        throw BundleError(text(path_.string(), ": holds more than ", kMaxFiles, " files; it is no edgeae bundle"));
    }
    if (problem) throw BundleError(path_.string() + ": cannot be read: " + problem.message());
    return names;
  }

  std::string read(const std::string& name, std::uintmax_t limit, std::optional<std::uint64_t> size = {}) const {
    const std::filesystem::path whole = path_ / name;
    std::filesystem::path place = path_;
    for (const auto& part : std::filesystem::path(name)) {
      place /= part;
      std::error_code ignored;
      if (std::filesystem::is_symlink(place, ignored))
        throw BundleError(whole.string() + (place == whole ? ": is a link" : ": is behind a link") +
                          "; a bundle's files must be regular files inside it");
    }
    return read_bytes(whole, limit, size);
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
  golden.rows = arrays.count("score") > 0 ? arrays["score"].size() : 0;
  if (held != std::vector<std::string>{"score", "x", "x_hat", "z"} || golden.rows < 1 || golden.rows > 256)
    throw BundleError(text(where, ": holds ", some(held), " of ", golden.rows,
                           " rows, expected x, z, x_hat, score of 1 to 256 rows; export the bundle again"));
  const std::vector<std::size_t> row(signature.input_shape.begin(), signature.input_shape.end());
  const auto check = [&](const char* name, const std::string& dtype, const std::vector<std::size_t>& rest) {
    std::vector<std::size_t> shape = {golden.rows};
    shape.insert(shape.end(), rest.begin(), rest.end());
    if (arrays[name].dtype != dtype || arrays[name].shape != shape)
      throw BundleError(where + ": " + name + " is " + arrays[name].dtype + " " + tuple_of(arrays[name].shape) +
                        ", expected " + dtype + " " + tuple_of(shape));
  };
  check("x", signature.input_dtype, row);
  check("z", "float32", {static_cast<std::size_t>(signature.latent_dim)});
  check("x_hat", "float32", row);
  check("score", "float32", {});
  golden.x = arrays["x"];
  golden.z = arrays["z"].floats();
  golden.x_hat = arrays["x_hat"].floats();
  golden.score = arrays["score"].floats();
  return golden;
}

}  // namespace detail
}  // namespace edgeae

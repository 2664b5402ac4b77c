// What a user asks of a latent file, and what becomes of it for a model.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../edgeae.hpp"
#include "format.hpp"

namespace edgeae {

/// How to compress. At most one of max_error, target_psnr and lossless; they need the fp32 graphs.
struct LatentWriterOptions {
  std::string dtype;                  ///< of the stored latents: float32, float16, int8 (the default) or int7 to int2
  std::optional<double> max_error;    ///< no value is further than this from its original, in the units of the rows
  std::optional<double> target_psnr;  ///< no chunk has a lower peak signal-to-noise ratio, in decibels
  bool lossless = false;              ///< every value comes out as it was; for whole numbers
  bool append = false;  ///< go on with an existing file, in its own settings; a tail that a killed writer left is cut off
  bool force = false;   ///< replace an existing file, once the new one is complete
};

namespace detail::codec {

constexpr std::size_t kChunkValues = std::size_t{1} << 21, kChunkRows = 65536;  // in the chunks of a writer, about
constexpr float kWhole = 1 << 24;  // up to which float32 holds every whole number

// How many rows a writer puts into a chunk.
inline std::size_t chunk_rows(const LatentHeader& header) {
  const std::size_t widest = std::max(header.latent_dim, header.row_values());
  return std::max<std::size_t>(1, std::min({kChunkRows, most_rows(header), kChunkValues / widest}));
}

// Bits of a latent value; throws InputError for a type that there is not.
inline unsigned bits_of_dtype(const std::string& dtype) {
  if (dtype.empty()) return 8;
  for (const unsigned bits : {32u, 16u, 8u, 7u, 6u, 5u, 4u, 3u, 2u})
    if (dtype == dtype_name(bits)) return bits;
  throw InputError("dtype: " + in_quotes(dtype) + " is not one of float32, float16, int8, int7, ... int2");
}

// Options that make sense on their own.
inline LatentWriterOptions checked(LatentWriterOptions options) {
  int promises = options.lossless ? 1 : 0;
  for (const auto& [name, value] : {std::pair("max_error", options.max_error), std::pair("target_psnr", options.target_psnr)}) {
    if (value && !(is_finite(*value) && *value > 0))
      throw InputError(text(name, ": expected a positive number, got ", is_finite(*value) ? float_text(*value) : *value > 0 ? "inf" : "nan"));
    promises += value.has_value();
  }
  if (promises > 1) throw InputError("max_error, target_psnr and lossless exclude each other; give one of them");
  bits_of_dtype(options.dtype);
  return options;
}

// Refuse to go on with a file in other settings than its own.
inline void check_settings(const LatentWriterOptions& options, const LatentHeader& header, const std::string& where) {
  const auto require = [&](bool right, const char* name) {
    if (right) return;
    const bool plain = header.bound == Bound::none || header.bound == Bound::lossless;
    throw InputError(where + ": is written with dtype " + dtype_name(header.bits) + " and the bound " + name_of(header.bound) +
                     (plain ? "" : " " + brief(header.value)) + "; it is gone on with in the same way: leave out " + name);
  };
  const bool same = header.bound == Bound::max_error && options.max_error && !(*options.max_error < header.value) &&
                    !(*options.max_error > header.value);
  require(options.dtype.empty() || bits_of_dtype(options.dtype) == header.bits, "dtype");
  require(!options.max_error || same, "max_error");
  require(!options.target_psnr, "target_psnr");
  require(!options.lossless || header.bound == Bound::lossless, "lossless");
}

// Refuse a model that did not write a file.
inline void check_model(const LatentHeader& header, const Model& model, const std::string& where) {
  const Signature& signature = model.signature();
  if (header.precision != signature.precision)
    throw InputError(where + ": written at precision " + header.precision + ", the model runs at " + signature.precision +
                     "; load the bundle with precision " + header.precision);
  const std::optional<std::string> digest = model.decoder_digest();
  if (!digest)
    throw InputError(model.where() + ": rows of a latent file need the bundle, or its decoder.onnx in ONNX format; load that");
  if (header.digest != *digest)
    throw InputError(where + ": written by another model: its decoder's digest begins with " + header.digest.substr(0, 12) +
                     ", that of " + model.where() + " with " + digest->substr(0, 12) + "; use the bundle that wrote it");
  if (header.latent_dim != static_cast<std::size_t>(signature.latent_dim) || header.shape != signature.input_shape)
    throw InputError(where + ": its rows or latents have another shape than those of " + model.where());
}

// Refuse rows that a file cannot take; `first` is the number of the first one in messages.
template <class T>
void check_rows(Span<const T> rows, const LatentHeader& header, std::uint64_t first) {
  if constexpr (std::is_same_v<T, float>) {
    const auto whole = [](float value) { return is_finite(value) && !(value < std::rint(value)) && !(value > std::rint(value)); };
    const bool bytes = header.dtype == "uint8", lossless = header.bound == Bound::lossless;
    if (!bytes && !lossless && all_finite(rows.data(), rows.size())) return;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const float value = rows.data()[i];
      const bool right = bytes      ? whole(value) && value >= 0 && value <= 255
                         : lossless ? whole(value) && std::fabs(value) <= kWhole
                                    : is_finite(value);
      if (right) continue;
      const std::size_t values = header.row_values();
      std::vector<std::size_t> place;
      std::size_t rest = i % values;
      for (std::size_t axis = header.shape.size(); axis-- > 0;) {
        const auto side = static_cast<std::size_t>(header.shape[axis]);
        place.insert(place.begin(), rest % side);
        rest /= side;
      }
      const std::string why = bytes      ? "the file holds whole numbers from 0 to 255, as its first rows did"
                              : lossless ? "lossless is for whole numbers up to 2^24"
                                         : "remove or impute such values";
      throw InputError(text("x: row ", first + i / values, ", value ", place.size() == 1 ? joined(place) : "[" + joined(place) + "]",
                            " is ", shown(value), "; ", why));
    }
  }
}

}  // namespace detail::codec
}  // namespace edgeae

// Latents to bytes and back: float32, float16, or codes of 2 to 8 bits on a grid of its own for each dimension.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "../errors.hpp"
#include "../rows.hpp"
#include "coders.hpp"

namespace edgeae::detail::codec {

constexpr double kTiny = 1e-35;          // below which a step is nothing: float32 loses bits there
constexpr double kFarDeviations = 8.0;   // from the mean, beyond which a latent is stored as it is

inline float float_of(std::uint32_t bits) {
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float float_of_half(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half} >> 15 << 31, exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 31) return float_of(sign | kExponent | fraction << 13);
  if (exponent != 0) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
  if (fraction == 0) return float_of(sign);
  std::uint32_t shift = 0;  // a subnormal number, which float32 has among its normal ones
  while ((fraction << shift & 1024) == 0) ++shift;
  return float_of(sign | (113 - shift) << 23 | (fraction << shift & 1023) << 13);
}

// To the nearest, ties to even; infinity for what is too large.
inline std::uint16_t half_of(float value) {
  const std::uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
  if (magnitude > kExponent) return static_cast<std::uint16_t>(sign | 0x7E00);
  if (magnitude >= 0x47800000) return static_cast<std::uint16_t>(sign | 0x7C00);
  const bool small = magnitude < 0x38800000;  // a subnormal number
  if (magnitude < 0x33000000) return static_cast<std::uint16_t>(sign);
  const std::uint32_t exponent = magnitude >> 23, shift = small ? 126 - exponent : 13;
  const std::uint32_t whole = small ? (magnitude & 0x7FFFFF) | 0x800000 : magnitude - (112u << 23);
  const std::uint32_t rest = whole & ((1u << shift) - 1), half = 1u << (shift - 1);
  std::uint32_t rounded = whole >> shift;
  if (rest > half || (rest == half && (rounded & 1) != 0)) ++rounded;
  return static_cast<std::uint16_t>(sign | rounded);
}

/// Latents on a grid: dimension j of a row is low[j] + step[j] * (code - zero[j]), but where it is stored as it is.
struct Quantised {
  std::vector<float> low, step;      // [d]; a step of 0: all rows have the same value, and no codes are stored
  Bytes zero;                        // [d], the codes that stand for `low`
  Bytes codes;                       // [d, n]
  Positions places;                  // in [d, n], of what is stored as it is
  std::vector<std::uint32_t> values;  // bits of those

  // What these stand for, [n, d]: the same bits everywhere, computed in float64 and rounded once.
  std::vector<float> latents() const {
    const std::size_t dims = low.size(), rows = codes.size() / dims;
    std::vector<float> z(codes.size());
    for (std::size_t dim = 0; dim < dims; ++dim)
      for (std::size_t row = 0; row < rows; ++row) {
        const int code = int{codes[dim * rows + row]} - int{zero[dim]};
        z[row * dims + dim] = static_cast<float>(static_cast<double>(low[dim]) + static_cast<double>(step[dim]) * code);
      }
    for (std::size_t i = 0; i < places.size(); ++i)
      z[places[i] % rows * dims + places[i] / rows] = float_of(values[i]);
    return z;
  }
};

inline std::vector<std::uint32_t> words_of(const std::vector<float>& values) {
  std::vector<std::uint32_t> words;
  words.reserve(values.size());
  for (const float value : values) words.push_back(bits_of(value));
  return words;
}

/// The latents float32 [rows, dims] that were packed. Throws IntegrityError for bytes that no writer writes.
inline std::vector<float> unpack_latents(Cursor& cursor, std::size_t rows, std::size_t dims, unsigned bits) {
  const std::size_t count = rows * dims;
  if (bits > 8) {
    std::vector<float> z(count);
    const auto fill = [&](const auto& words, const auto& value_of) {
      for (std::size_t dim = 0; dim < dims; ++dim)
        for (std::size_t row = 0; row < rows; ++row) z[row * dims + dim] = value_of(words[dim * rows + row]);
    };
    if (bits == 32)
      fill(cursor.unpacked<std::uint32_t>("latents", count, [&](auto some) { return cursor.planes<std::uint32_t>(some); }), float_of);
    else
      fill(cursor.unpacked<std::uint16_t>("latents", count, [&](auto some) { return cursor.planes<std::uint16_t>(some); }), float_of_half);
    return z;
  }
  Quantised grid;
  for (auto* each : {&grid.low, &grid.step})
    for (const std::uint32_t word : cursor.planes<std::uint32_t>(dims)) each->push_back(float_of(word));
  grid.zero = cursor.planes<std::uint8_t>(dims);
  std::size_t active = 0;
  for (std::size_t dim = 0; dim < dims; ++dim) {
    if (!is_finite(grid.low[dim]) || !is_finite(grid.step[dim]) || grid.step[dim] < 0) throw cursor.wrong("has a grid that is none");
    active += grid.step[dim] > 0;
  }
  const std::uint8_t kind = cursor.byte();
  if (kind != kDense && kind != kSparse) throw cursor.wrong(text("has latents of kind ", int{kind}));
  Bytes stored;  // of the active dimensions
  if (kind == kDense) {
    stored = cursor.symbols(active * rows);
  } else {
    const Positions places = cursor.positions(active * rows);
    const Bytes some = cursor.symbols(places.size());
    stored.assign(active * rows, 0);
    for (std::size_t i = 0; i < places.size(); ++i) stored[places[i]] = some[i];
  }
  grid.codes.reserve(count);
  auto from = stored.begin();
  for (std::size_t dim = 0; dim < dims; ++dim) {
    const bool coded = grid.step[dim] > 0;
    for (std::size_t row = 0; row < rows; ++row) {
      const unsigned code = !coded ? grid.zero[dim] : *from++ + (kind == kSparse ? grid.zero[dim] : 0u);
      grid.codes.push_back(static_cast<std::uint8_t>(code));
    }
  }
  if (largest(grid.codes) >> bits != 0 || largest(grid.zero) >> bits != 0)
    throw cursor.wrong(text("has codes of more than ", bits, " bits"));
  grid.places = cursor.positions(count);
  grid.values = cursor.planes<std::uint32_t>(grid.places.size());
  return grid.latents();
}

/// Put latents float32 [rows, dims] on the finest grid that `bits` allow in each dimension, or as coarse as `least` [dims]
/// says, where there is any. Zero is on the grid of a dimension that has values on both sides of it. What is far from the
/// mean does not widen the grid for the others, but is stored as it is. Throws InputError for latents that are not finite.
inline Quantised quantise(const std::vector<float>& z, std::size_t dims, unsigned bits, const std::vector<float>& least) {
  if (!all_finite(z.data(), z.size()))
    throw InputError("latents: some are not finite and cannot be quantised; store them as float32");
  const std::size_t rows = z.size() / dims;
  const double levels = static_cast<double>((1u << bits) - 1);
  Quantised grid;
  grid.codes.assign(z.size(), 0);
  for (std::size_t dim = 0; dim < dims; ++dim) {
    const auto at = [&](std::size_t row) { return z[row * dims + dim]; };
    double least_value = at(0), most = at(0), sum = 0, squares = 0;
    for (std::size_t row = 0; row < rows; ++row) {
      const double value = at(row);
      least_value = std::min(least_value, value);
      most = std::max(most, value);
      sum += value;
    }
    const double mean = sum / static_cast<double>(rows);
    for (std::size_t row = 0; row < rows; ++row) squares += (at(row) - mean) * (at(row) - mean);
    const double deviation = std::sqrt(squares / static_cast<double>(rows)), reach = kFarDeviations * deviation;
    double low = std::max(least_value, mean - reach), zero = 0;
    const double high = std::min(most, mean + reach), span = high - low;
    const double wanted = least.empty() ? 0 : static_cast<double>(least[dim]);
    const bool both = low < 0 && high > 0;
    // Zero on the grid takes a level: low and high are not.
    const double step = std::max(span / (both ? levels - 1 : levels), wanted);
    const bool flat = step >= span || step < kTiny;
    const float stored = flat ? 0 : std::nextafter(static_cast<float>(step), std::numeric_limits<float>::max());
    const double exact = flat ? 1 : stored;
    if (both && !flat) zero = std::min(std::max(std::ceil(-low / exact), 0.0), levels);
    const float base = static_cast<float>(flat ? mean : both ? 0 : low);
    const float scale = static_cast<float>(1 / exact);
    // Beyond the ends of the grid, or further from the one value than what counts as nothing.
    const double spare = flat ? std::max(wanted, 2 * deviation) + kTiny : 0.51 * exact;
    const double bottom = base - zero * stored - spare, top = base + (levels - zero) * stored + spare;
    for (std::size_t row = 0; row < rows; ++row) {
      if (!flat) {
        const float code = std::nearbyint((at(row) - base) * scale + static_cast<float>(zero));
        grid.codes[dim * rows + row] = static_cast<std::uint8_t>(std::min(std::max(code, 0.0f), static_cast<float>(levels)));
      }
      if (at(row) < bottom || at(row) > top) {
        grid.places.push_back(static_cast<std::uint32_t>(dim * rows + row));
        grid.values.push_back(bits_of(at(row)));
      }
    }
    grid.low.push_back(base);
    grid.step.push_back(stored);
    grid.zero.push_back(static_cast<std::uint8_t>(zero));
    if (flat) std::fill_n(grid.codes.begin() + static_cast<std::ptrdiff_t>(dim * rows), rows, grid.zero.back());
  }
  return grid;
}

/// The bytes of latents float32 [rows, dims], and what comes out of these bytes in their place. Throws InputError for
/// latents that `bits` cannot hold.
inline std::string pack_latents(Coder& coder, std::vector<float>& z, std::size_t dims, unsigned bits, const std::vector<float>& least) {
  const std::size_t rows = z.size() / dims;
  if (bits == 32) {
    std::vector<std::uint32_t> words(z.size());
    for (std::size_t row = 0, i = 0; row < rows; ++row)
      for (std::size_t dim = 0; dim < dims; ++dim) words[dim * rows + row] = bits_of(z[i++]);
    return coder.smaller(words, [&](const auto& some) { return coder.planes(some); });
  }
  if (bits == 16) {
    std::vector<std::uint16_t> words(z.size());
    for (std::size_t row = 0, i = 0; row < rows; ++row)
      for (std::size_t dim = 0; dim < dims; ++dim, ++i) {
        const std::uint16_t half = half_of(z[i]);
        if ((half & 0x7C00) == 0x7C00) throw InputError("latents: some are beyond the range of float16; store them as float32");
        words[dim * rows + row] = half;
        z[i] = float_of_half(half);
      }
    return coder.smaller(words, [&](const auto& some) { return coder.planes(some); });
  }
  const Quantised grid = quantise(z, dims, bits, least);
  Bytes codes;
  for (std::size_t dim = 0; dim < dims; ++dim) {
    const auto from = grid.codes.begin() + static_cast<std::ptrdiff_t>(dim * rows);
    if (grid.step[dim] > 0) codes.insert(codes.end(), from, from + static_cast<std::ptrdiff_t>(rows));
  }
  Bytes shifted = codes;
  for (std::size_t dim = 0, i = 0; dim < dims; ++dim)
    for (std::size_t row = 0; row < rows && grid.step[dim] > 0; ++row, ++i)
      shifted[i] = static_cast<std::uint8_t>(shifted[i] - grid.zero[dim]);  // modulo 256
  std::string best = static_cast<char>(kDense) + coder.symbols(codes);
  const auto zeros = static_cast<std::size_t>(std::count(shifted.begin(), shifted.end(), 0));
  if (kSparseShare * (shifted.size() - zeros) <= shifted.size()) {
    const Positions places = nonzero(shifted);
    std::string sparse = static_cast<char>(kSparse) + coder.positions(places) + coder.symbols(taken(shifted, places));
    if (sparse.size() < best.size()) best = std::move(sparse);
  }
  z = grid.latents();
  return coder.planes(words_of(grid.low)) + coder.planes(words_of(grid.step)) + coder.planes(grid.zero) + best +
         coder.positions(grid.places) + coder.planes(grid.values);
}

}  // namespace edgeae::detail::codec

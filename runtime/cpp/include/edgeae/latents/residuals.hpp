// What a decoder is corrected by, so that every value is within a bound, and the same on every machine; Python's
// edgeae.codec.residuals says why, and export/FORMAT.md how.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../errors.hpp"
#include "../rows.hpp"
#include "coders.hpp"
#include "values.hpp"

namespace edgeae::detail::codec {

constexpr double kFar = 1 << 30;   // units; what is beyond is stored as it is
constexpr double kFirm = 0.25;     // units that another decoder may be off at most
constexpr std::uint8_t kByRow = 0, kByValue = 1, kDecoder = 0, kNothing = 1;

/// How rows are rounded and corrected.
struct Grid {
  double unit = 1;         // distance of two values that may come out: 1 for whole numbers, else a power of two
  std::uint32_t step = 0;  // corrections are multiples of so many units; 0 for none at all
};

// Divides by a unit; by a power of two, as usual, without a division, which changes no bit.
class Units {
 public:
  explicit Units(double unit) : unit_(unit), inverse_(1 / unit) {
    int exponent = 0;
    const double mantissa = std::frexp(unit, &exponent);
    exact_ = !(mantissa < 0.5) && !(mantissa > 0.5) && is_finite(inverse_);
  }

  double of(double value) const { return exact_ ? value * inverse_ : value / unit_; }

 private:
  double unit_, inverse_;
  bool exact_;
};

// A decoder's value in units, as whole number and fraction.
struct Scaled {
  double floor, fraction;

  Scaled(float value, const Units& units) : Scaled(is_nan(value) ? -kFar : units.of(static_cast<double>(value))) {}

  // Within what an integer holds, whose conversion is quicker than std::floor.
  explicit Scaled(double value) {
    const double scaled = std::min(std::max(value, -kFar), kFar);
    const double whole = static_cast<std::int32_t>(scaled);
    floor = whole > scaled ? whole - 1 : whole;
    fraction = scaled - floor;
  }

  double rounded() const { return floor + (fraction >= 0.5 ? 1 : 0); }

  double nearest() const {  // to even at a tie
    const bool odd = (static_cast<std::int32_t>(floor) & 1) != 0;
    return floor + (fraction > 0.5 || (odd && fraction >= 0.5) ? 1 : 0);
  }
};

// The value of a whole number of units; bytes stay in their range, to which clipping only brings closer.
template <class T>
T value_of(double whole, double unit) {
  if constexpr (std::is_same_v<T, std::uint8_t>)
    return static_cast<T>(std::min(std::max(whole * unit, 0.0), 255.0));
  const float value = static_cast<float>(whole * unit);
  return bits_of(value) == 0x80000000 ? T{0} : static_cast<T>(value);  // no negative zero
}

template <class T>
T value_of_bits(std::uint32_t bits) {
  const float value = float_of(bits);
  if constexpr (std::is_same_v<T, std::uint8_t>)
    return value > 0 && value < 256 ? static_cast<T>(value) : T{0};
  else
    return value;
}

/// The rows of a decoder's rows float32 [n, values] and the bytes that correct them. Throws IntegrityError for bytes that no
/// writer writes.
template <class T>
std::vector<T> apply_residuals(Cursor& cursor, const std::vector<float>& x_hat, std::size_t values) {
  const std::size_t count = x_hat.size(), n = count / values;
  const std::uint8_t base = cursor.byte();
  const double unit = get_double(cursor.take(8));
  const auto step = get<std::uint32_t>(cursor.take(4));
  if (base > kNothing || !is_finite(unit) || !(unit > 0) || step >> 31 != 0) throw cursor.wrong("has a grid that is none");
  std::vector<std::int32_t> corrections;
  std::uint8_t order = kByRow;
  if (step != 0) {
    order = cursor.byte();
    corrections = cursor.integers(count);
    if (order > kByValue) throw cursor.wrong(text("has corrections in order ", int{order}));
  }
  const Positions ties = cursor.positions(count);
  const Bytes up = cursor.symbols(ties.size());
  const Positions places = cursor.positions(count);
  const std::vector<std::uint32_t> stored = cursor.planes<std::uint32_t>(places.size());
  std::vector<T> rows(count);
  const Units units(unit);
  std::size_t tie = 0;
  for (std::size_t row = 0, i = 0; row < n; ++row)
    for (std::size_t value = 0; value < values; ++value, ++i) {
      const Scaled scaled(base == kDecoder ? x_hat[i] : 0, units);
      double whole = scaled.rounded();
      if (tie < ties.size() && ties[tie] == i) whole = scaled.floor + up[tie++];
      if (step != 0) whole += static_cast<double>(corrections[order == kByRow ? i : value * n + row]) * step;
      rows[i] = value_of<T>(whole, unit);
    }
  for (std::size_t i = 0; i < places.size(); ++i) rows[places[i]] = value_of_bits<T>(stored[i]);
  return rows;
}

/// Rows that are within their bound, and what made them so.
template <class T>
struct Corrected {
  Grid grid;
  std::vector<T> rows;                     // [n, values]: what every reader gets
  std::vector<std::int32_t> corrections;   // [n, values], in multiples of the grid's step
  Positions ties;                          // where the decoder was about halfway between two units
  Bytes up;                                // whether it was rounded up there
  Positions places;                        // of values stored as they are
  std::vector<std::uint32_t> stored;       // bits of those
  double squared_error = 0, largest_error = 0;
};

/// The coarsest grid whose corrections keep every value within `max_error`; of whole numbers, if rows are `whole`.
inline Grid grid_for(double max_error, bool whole) {
  constexpr double most = std::numeric_limits<std::int32_t>::max();
  if (whole) return {1, static_cast<std::uint32_t>(std::min(2 * std::floor(max_error) + 1, most))};
  const double unit = std::ldexp(1.0, static_cast<int>(std::floor(std::log2(max_error / 4))));
  return {unit, static_cast<std::uint32_t>(std::floor(2 * max_error / unit))};
}

/// For each value of a row how far another decoder may be off; `reference` [values] are magnitudes that arithmetic goes
/// through even where results are smaller.
inline std::vector<double> margins_of(const std::vector<float>& x_hat, const std::vector<double>& reference, double drift) {
  const std::size_t values = reference.size();
  std::vector<double> margins = reference;
  for (std::size_t row = 0; row < x_hat.size(); row += values)
    for (std::size_t value = 0; value < values; ++value) {
      const double magnitude = std::fabs(static_cast<double>(x_hat[row + value]));
      margins[value] = is_finite(x_hat[row + value]) ? std::max(margins[value], magnitude) : std::numeric_limits<double>::max();
    }
  for (double& margin : margins) margin *= drift;
  return margins;
}

/// Refuse a grid so fine that most values would have to be stored as they are, with InputError.
inline void check_margins(std::vector<double> margins, const Grid& grid) {
  std::sort(margins.begin(), margins.end());
  const std::size_t half = margins.size() / 2;
  const double margin = margins.size() % 2 == 1 ? margins[half] : (margins[half - 1] + margins[half]) / 2;
  if (!(margin > kFirm * grid.unit)) return;
  throw InputError("the bound is too tight for this decoder, which is good to about " + brief(margin, 2) +
                   " from machine to machine; allow an error of " + brief(32 * margin, 2) +
                   " or more, or store the rows themselves");
}

/// Round what a decoder gave, correct it, and prove that every value is within `max_error`; what corrections do not bring
/// that close, and where the grid is too fine for the margins [values], is stored as it is.
template <class T>
Corrected<T> correct(const std::vector<T>& x, const std::vector<float>& x_hat, const Grid& grid,
                     const std::vector<double>& margins, double max_error = std::numeric_limits<double>::max()) {
  Corrected<T> found;
  found.grid = grid;
  found.rows.resize(x.size());
  found.corrections.resize(x.size());
  const Units units(grid.unit);
  std::vector<double> nears;
  for (const double margin : margins) nears.push_back(units.of(margin));
  for (std::size_t i = 0, place = 0; i < x.size(); ++i, ++place) {
    if (place == margins.size()) place = 0;
    const double exact = x[i], near = nears[place];
    const Scaled scaled(x_hat[i], units);
    double whole = scaled.rounded(), wanted = 0;
    if (grid.step != 0) {
      wanted = Scaled((units.of(exact) - whole) / grid.step).nearest();
      whole += wanted * grid.step;
    }
    T value = value_of<T>(whole, grid.unit);
    double error = std::fabs(static_cast<double>(value) - exact);
    if (!(error <= max_error) || std::fabs(whole) >= kFar || near > kFirm) {
      value = x[i];
      wanted = error = 0;
      found.places.push_back(static_cast<std::uint32_t>(i));
      found.stored.push_back(bits_of(static_cast<float>(x[i])));
    } else if (std::fabs(scaled.fraction - 0.5) <= near) {
      found.ties.push_back(static_cast<std::uint32_t>(i));
      found.up.push_back(scaled.fraction >= 0.5);
    }
    found.rows[i] = value;
    found.corrections[i] = static_cast<std::int32_t>(wanted);
    found.squared_error += error * error;
    found.largest_error = std::max(found.largest_error, error);
  }
  return found;
}

/// The rows on the coarsest grid of a handful whose mean squared error is at most `max_mse`; `first` is the largest error
/// of a value to try first, for instance that of the chunk before, or 0.
template <class T>
Corrected<T> correct_within(const std::vector<T>& x, const std::vector<float>& x_hat, double max_mse,
                            const std::vector<double>& margins, bool whole, double first) {
  const double root = std::sqrt(max_mse), allowed = max_mse * static_cast<double>(x.size());
  const Grid finest = grid_for(root, whole);
  Corrected<T> found = correct(x, x_hat, {finest.unit, 0}, margins);
  if (found.squared_error <= allowed) return found;
  for (double error = first > 0 ? first : 4 * root; error > root; error /= std::exp2(0.25)) {
    const auto step = static_cast<std::uint32_t>(std::min(std::max(1.0, std::floor(2 * error / finest.unit)), 0x7FFFFFFF * 1.0));
    found = correct(x, x_hat, {finest.unit, step}, margins);
    if (found.squared_error <= allowed) return found;
  }
  return correct(x, x_hat, finest, margins, root);  // no value is further off than the root of the mean that is allowed
}

/// The bytes of all but the rows themselves; `base`: whether they were corrected from the decoder's or from zero.
template <class T>
std::string pack_residuals(Coder& coder, const Corrected<T>& corrected, std::size_t values, std::uint8_t base) {
  std::string out(1, static_cast<char>(base));
  put_double(out, corrected.grid.unit);
  put(out, corrected.grid.step);
  if (corrected.grid.step != 0) {
    const std::size_t count = corrected.corrections.size(), n = count / values;
    std::vector<std::int32_t> turned(count);
    for (std::size_t row = 0, i = 0; row < n; ++row)
      for (std::size_t value = 0; value < values; ++value) turned[value * n + row] = corrected.corrections[i++];
    const std::string by_row = coder.integers(corrected.corrections), by_value = coder.integers(turned);
    out += by_row.size() <= by_value.size() ? static_cast<char>(kByRow) + by_row : static_cast<char>(kByValue) + by_value;
  }
  return out + coder.positions(corrected.ties) + coder.symbols(corrected.up) + coder.positions(corrected.places) +
         coder.planes(corrected.stored);
}

}  // namespace edgeae::detail::codec

// Calibrated scores: which share of normal rows scores lower, from a table in the bundle; edgeae.runtime.calibrated.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "errors.hpp"
#include "npz.hpp"
#include "rows.hpp"

namespace edgeae::detail {

// Ascending scores of normal rows, and for each the number of rows above the one before it (for the first: of all rows).
struct Calibration {
  std::vector<float> steps, above;

  // 1 - the conformal p-value of a score; NaN stays NaN.
  float of(float score) const {
    if (is_nan(score)) return score;
    const auto place = static_cast<std::size_t>(std::lower_bound(steps.begin(), steps.end(), score) - steps.begin());
    const double rows = static_cast<double>(above.front());
    const double at_least = place < above.size() ? static_cast<double>(above[place]) : 0;
    return static_cast<float>((rows - at_least) / (rows + 1));
  }
};

inline Calibration read_calibration(const Bundle& bundle, const std::string& precision) {
  const std::string where = bundle.path().string(), name = "scores_" + precision;
  const auto& file = bundle.manifest().statistics;
  auto arrays = file ? parse_npz(bundle.file(*file), (bundle.path() / file->path).string()) : std::map<std::string, Array>{};
  const auto found = arrays.find(name);
  if (found == arrays.end())
    throw InputError(where + ": has no scores of normal rows to calibrate by; make them with: edgeae threshold " + where + " DATA");
  const std::vector<std::size_t>& shape = found->second.shape;
  bool right = found->second.dtype == "float32" && shape.size() == 2 && shape[0] == 2 && shape[1] >= 1 && shape[1] <= 4096;
  Calibration made;
  if (right) {
    const std::vector<float> values = found->second.floats();
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(shape[1]);
    made = {{values.begin(), middle}, {middle, values.end()}};
    right = all_finite(values.data(), values.size()) && made.above.back() >= 1;
    for (std::size_t i = 1; right && i < shape[1]; ++i)
      right = made.steps[i] > made.steps[i - 1] && made.above[i] < made.above[i - 1];
  }
  if (!right) throw BundleError(where + ": statistics: " + name + " is no table of scores; export the bundle again");
  return made;
}

}  // namespace edgeae::detail

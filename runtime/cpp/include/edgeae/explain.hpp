// Which values of a row make its score: the reconstruction error, value by value, as edgeae.runtime.explain has it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bundle.hpp"
#include "errors.hpp"
#include "manifest.hpp"
#include "npz.hpp"
#include "rows.hpp"

namespace edgeae {

/// One value of a row, and what it adds to the row's score.
struct Contribution {
  std::size_t place;  ///< of the value in the row
  std::string name;   ///< of the feature; "pressure @ 12" of a channel at a step; else "3", or "7, 12" in an image
  float value;        ///< what it adds
};

/// What each value of each row contributes to the row's score; made by Autoencoder::explain.
///
/// For "elbo" the values are nats and add up to the reconstruction term; the KL divergence belongs to no single value. For
/// all other scores the mean over a row is the row's score.
class Explanation {
 public:
  Explanation(Signature signature, std::vector<float> contributions, std::vector<float> reconstructions)
      : values(std::move(contributions)), expected(std::move(reconstructions)), signature_(std::move(signature)) {}

  std::vector<float> values;    ///< [n, *input_shape], in normalised space
  std::vector<float> expected;  ///< [n, *input_shape], in the units of the training data: what the model takes for normal

  /// The k largest contributions of one row, largest first. Throws InputError if k is 0 or there is no such row.
  std::vector<Contribution> top(std::size_t row = 0, std::size_t k = 5) const {
    const std::size_t count = signature_.row_values();
    if (k == 0) throw InputError("explain: expected a whole number of contributions from 1, got 0");
    if (row >= values.size() / count)
      throw InputError(detail::text("explain: there is no row ", row, ", but ", values.size() / count, " of them"));
    const float* found = values.data() + row * count;
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto before = [found](std::size_t one, std::size_t other) {
      const bool odd = detail::is_nan(found[one]), other_odd = detail::is_nan(found[other]);
      if (odd || other_odd) return odd == other_odd ? one < other : other_odd;
      return found[one] > found[other] || (!(found[one] < found[other]) && one < other);
    };
    k = std::min(k, count);
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k), order.end(), before);
    std::vector<Contribution> largest;
    for (std::size_t i = 0; i < k; ++i) largest.push_back({order[i], signature_.value_name(order[i]), found[order[i]]});
    return largest;
  }

 private:
  Signature signature_;
};

namespace detail {

// What a score took from normal rows; empty where it took nothing.
struct Statistics {
  std::vector<float> spread, centre, whitening, prototypes;
};

inline Statistics read_statistics(const Bundle& bundle) {
  const Manifest& manifest = bundle.manifest();
  const std::string& kind = manifest.signature.score;
  const bool whitened = kind == "mahalanobis" || kind == "prototype";
  if (!whitened && kind != "zscore") return {};
  std::map<std::string, Array> arrays;
  if (manifest.statistics)
    arrays = parse_npz(bundle.file(*manifest.statistics), (bundle.path() / manifest.statistics->path).string());
  const std::vector<std::size_t> row(manifest.signature.input_shape.begin(), manifest.signature.input_shape.end());
  const std::size_t values = manifest.signature.row_values();
  const auto take = [&](const std::string& name, const std::vector<std::size_t>& shape) {
    const auto found = arrays.find(name);
    if (found == arrays.end() || found->second.dtype != "float32" || found->second.shape != shape)
      throw BundleError("statistics: the score is " + kind + ", but no '" + name +
                        "' that fits the rows' shape is there; export the bundle again");
    return found->second.floats();
  };
  Statistics made;
  if (whitened) made.centre = take("centre", row);
  if (whitened) made.whitening = take("whitening", {values, values});
  if (kind != "mahalanobis") made.spread = take("spread", row);
  if (kind == "prototype") {
    const auto found = arrays.find("prototypes");
    const std::size_t held = found == arrays.end() || found->second.shape.empty() ? 0 : found->second.shape[0];
    made.prototypes = take("prototypes", {std::min<std::size_t>(std::max<std::size_t>(held, 1), 4096), values});
  }
  return made;
}

// The parts of one row's score, in the scorer graph's arithmetic.
class Explainer {
 public:
  Explainer(const Manifest& manifest, const Statistics& statistics)
      : manifest_(manifest),
        statistics_(statistics),
        kind_(manifest.signature.score),
        entropy_(kind_ == "bce" || (kind_ == "elbo" && !manifest.decoder_variance)),
        count_(manifest.signature.row_values()),
        inner_(manifest.signature.layout == "CHW" ? count_ / static_cast<std::size_t>(manifest.signature.input_shape[0]) : 1) {}

  // x and x_hat in the user's units; all [input_shape].
  void explain(const float* x, const float* x_hat, float* parts) const {
    for (std::size_t i = 0; i < count_; ++i) {
      if (entropy_) {
        parts[i] = cross_entropy(normalised(x[i], i), normalised(x_hat[i], i));
        continue;
      }
      const float difference = (x[i] - x_hat[i]) / scale(i);
      if (kind_ == "mae") parts[i] = std::fabs(difference);
      else if (kind_ == "zscore") parts[i] = square(difference / statistics_.spread[i]);
      else if (kind_ == "elbo") parts[i] = static_cast<float>(square(difference) / (2 * *manifest_.decoder_variance));
      else parts[i] = statistics_.whitening.empty() ? square(difference) : difference - statistics_.centre[i];
    }
    if (!statistics_.whitening.empty()) whiten(parts);
    if (!statistics_.prototypes.empty()) add_distances(x, parts);
  }

 private:
  static float square(float value) { return value * value; }

  float scale(std::size_t i) const { return manifest_.scale[i / inner_ % manifest_.scale.size()]; }

  float normalised(float value, std::size_t i) const {
    return (value - manifest_.shift[i / inner_ % manifest_.shift.size()]) / scale(i);
  }

  static float cross_entropy(float u, float v) {
    const float nearest = std::numeric_limits<float>::epsilon() / 2;  // that a float32 sigmoid comes to 0 or 1
    const float inside = std::min(1.0f, std::max(0.0f, u));
    v = std::min(1 - nearest, std::max(nearest, v));
    return -(inside * std::log(v) + (1 - inside) * std::log1p(-v)) + square(u - inside);
  }

  void whiten(float* parts) const {
    std::vector<double> whitened(count_, 0);
    for (std::size_t i = 0; i < count_; ++i)
      for (std::size_t j = 0; j < count_; ++j)
        whitened[j] += static_cast<double>(parts[i]) * static_cast<double>(statistics_.whitening[i * count_ + j]);
    for (std::size_t i = 0; i < count_; ++i) parts[i] = static_cast<float>(whitened[i] * whitened[i]);
  }

  // ((value - that of the nearest prototype) / spread)²
  void add_distances(const float* x, float* parts) const {
    std::vector<float> each(count_), nearest(count_);
    double least = std::numeric_limits<double>::max();
    for (std::size_t first = 0; first < statistics_.prototypes.size(); first += count_) {
      double total = 0;
      for (std::size_t i = 0; i < count_; ++i) {
        each[i] = square((normalised(x[i], i) - statistics_.prototypes[first + i]) / statistics_.spread[i]);
        total += static_cast<double>(each[i]);
      }
      if (total < least) {
        nearest = each;
        least = total;
      }
    }
    for (std::size_t i = 0; i < count_; ++i) parts[i] += nearest[i];
  }

  const Manifest& manifest_;
  const Statistics& statistics_;
  std::string kind_;
  bool entropy_;
  std::size_t count_, inner_;  // values of a row; those that share shift and scale, one after the other
};

}  // namespace detail
}  // namespace edgeae

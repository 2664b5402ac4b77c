// Rows and their latents to the payload of a chunk, proved by decoding what is in it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../edgeae.hpp"
#include "coders.hpp"
#include "format.hpp"
#include "residuals.hpp"
#include "settings.hpp"
#include "values.hpp"

namespace edgeae {

/// What a writer wrote, not counting what was in a file that was gone on with.
struct LatentReport {
  std::uint64_t rows = 0, raw_bytes = 0, coded_bytes = 0;
  std::uint64_t unknown_rows = 0;      ///< anomalies by the model's own threshold; with a bound
  std::uint64_t corrected_values = 0;  ///< that the decoder alone did not bring within the bound
  std::uint64_t stored_values = 0;     ///< as they are, beside the grid
  std::uint64_t ties = 0;              ///< whose rounding was stored, since another decoder could round the other way
  double mean_squared_error = 0;       ///< of what comes out; with a bound
  double largest_error = 0;
};

namespace detail::codec {

constexpr std::size_t kSampleRows = 32;
constexpr double kDrift = 1.0 / (1 << 17);  // of the largest result: five times what PyTorch differed by from ONNX Runtime
constexpr double kSmall = 0.125;            // of the scale that the last layer's output is multiplied with
constexpr double kNothingMuch = 1e-38;
constexpr std::size_t kSensitivityRows = 512;
constexpr double kWidest = 4;  // ranges; a latent that leaves its usual range by more is stored whatever it seemed to matter

struct Packed {
  std::string payload;
  std::size_t unknown = 0;
  std::uint32_t decoded_crc = 0;
};

/// One thread at a time may use a packer.
class Packer {
 public:
  // Throws InputError for just one graph of a bundle.
  explicit Packer(const Model& model) : model_(model) {
    const Manifest* manifest = model.manifest();
    if (manifest == nullptr)
      throw InputError(model.where() + ": is only one graph of a bundle; load the bundle's directory to compress with it");
    const Signature& signature = model.signature();
    std::size_t inner = 1;  // values of a row for which shift and scale are the same, one after the other
    if (signature.layout == "CHW") inner = signature.row_values() / static_cast<std::size_t>(signature.input_shape[0]);
    for (std::size_t i = 0; i < signature.row_values(); ++i) {
      const std::size_t place = i / inner % manifest->shift.size();
      reference_.push_back(std::max(std::fabs(static_cast<double>(manifest->shift[place])),
                                    std::fabs(static_cast<double>(manifest->scale[place])) * kSmall));
    }
  }

  // That of a new file whose first rows are these. Throws InputError if the options do not fit the model.
  template <class T>
  LatentHeader header(const LatentWriterOptions& options, Span<const T> rows, const std::string& dtype) const {
    const Signature& signature = model_.signature();
    LatentHeader header;
    if (options.lossless) {
      header.bound = Bound::lossless;
    } else if (options.max_error) {
      header.bound = Bound::max_error;
      header.value = *options.max_error;
    } else if (options.target_psnr) {
      header.bound = Bound::max_mse;
      header.value = std::pow(peak(rows, dtype), 2) / std::pow(10, *options.target_psnr / 10);
    }
    if (header.bound != Bound::none && signature.precision != "fp32")
      throw InputError(signature.precision +
                       " graphs compute too differently from machine to machine for a promise about rows; load the bundle "
                       "with precision fp32, or ask for no bound");
    const std::optional<std::string> digest = model_.decoder_digest();
    if (!digest) throw BundleError(model_.where() + ": the decoder is no graph that edgeae reads");
    header.file_id = random_bytes(16);
    header.digest = *digest;
    header.precision = signature.precision;
    header.latent_dim = static_cast<std::size_t>(signature.latent_dim);
    header.shape = signature.input_shape;
    header.dtype = dtype;
    header.bits = bits_of_dtype(options.dtype);
    return header;
  }

  // `rows` are looked at where the file promises something about them; the latents become those that come out.
  template <class T>
  Packed pack(const LatentHeader& header, const std::vector<T>& rows, std::vector<float>& z) {
    if (report_.rows == 0 && header.bits <= 8) measure_steps(z, header);
    const std::size_t values = header.row_values(), count = z.size() / header.latent_dim;
    Packed packed;
    packed.payload = pack_latents(coder_, z, header.latent_dim, header.bits, least_);
    if (header.bound != Bound::none) {
      Corrected<T> corrected = correct_rows(header, rows, z);
      std::string residuals = pack_residuals(coder_, corrected, values, kDecoder);
      if (corrected.grid.step != 0 && 8 * residuals.size() > rows.size()) {
        // Rows that owe nothing to the decoder are smaller where it does not know them at all.
        const std::vector<float> nothing(rows.size());
        const Corrected<T> plain = correct(rows, nothing, corrected.grid, std::vector<double>(values), largest_error(header, corrected.grid));
        std::string other = pack_residuals(coder_, plain, values, kNothing);
        if (other.size() < residuals.size()) {
          corrected = plain;
          residuals = std::move(other);
        }
      }
      packed.payload += residuals;
      packed.unknown = count_unknown(rows);
      packed.decoded_crc = crc_of(corrected.rows.data(), corrected.rows.size() * sizeof(T));
      tally(corrected, packed.unknown);
    }
    report_.rows += count;
    report_.raw_bytes += count * values * (header.dtype == "uint8" ? 1 : sizeof(float));
    return packed;
  }

  LatentReport report() const {
    LatentReport report = report_;
    if (measured_ > 0) report.mean_squared_error = squared_error_ / static_cast<double>(measured_);
    return report;
  }

 private:
  std::vector<float> decode(const std::vector<float>& z) const {
    std::vector<float> rows(z.size() / static_cast<std::size_t>(model_.signature().latent_dim) * model_.signature().row_values());
    model_.run<float>({Role::decoder}, {z.data(), z.size()}, Span<float>(rows));
    return rows;
  }

  // The range of values that a peak signal-to-noise ratio refers to.
  template <class T>
  double peak(Span<const T> rows, const std::string& dtype) const {
    if (dtype == "uint8") return 255;
    const auto &least = model_.manifest()->minimum, &most = model_.manifest()->maximum;
    if (least && most && *most > *least) return *most - *least;
    if (rows.size() == 0) return 1;
    const auto [low, high] = std::minmax_element(rows.data(), rows.data() + rows.size());
    const double range = static_cast<double>(*high) - static_cast<double>(*low);
    return range > 0 ? range : 1;
  }

  static double largest_error(const LatentHeader& header, const Grid& grid) {
    return header.bound == Bound::lossless    ? 0
           : header.bound == Bound::max_error ? header.value
                                              : grid.step * grid.unit / 2;
  }

  template <class T>
  Corrected<T> correct_rows(const LatentHeader& header, const std::vector<T>& rows, const std::vector<float>& z) {
    const std::vector<float> x_hat = decode(z);
    const bool first = !(drift_ > 0);
    if (first) drift_ = measured_drift(z);
    const std::vector<double> margins = margins_of(x_hat, reference_, drift_);
    const bool whole = header.bound == Bound::lossless || header.dtype == "uint8";
    if (header.bound == Bound::max_mse) {
      if (first) check_margins(margins, grid_for(std::sqrt(header.value), whole));
      Corrected<T> corrected = correct_within(rows, x_hat, header.value, margins, whole, first_error_);
      first_error_ = corrected.grid.step * corrected.grid.unit / 2 * std::exp2(0.25);
      return corrected;
    }
    const double error = header.bound == Bound::lossless ? 0 : header.value;
    const Grid grid = grid_for(error, whole);
    if (first) check_margins(margins, grid);
    return correct(rows, x_hat, grid, margins, error);
  }

  // How far another machine's decoder may be from this one's, relative to the largest results: eight times what another
  // batch size changes here, and at least a few units in the last place of float32.
  double measured_drift(const std::vector<float>& z) const {
    const std::size_t dims = static_cast<std::size_t>(model_.signature().latent_dim), values = reference_.size();
    const std::vector<float> sample(z.begin(), z.begin() + static_cast<std::ptrdiff_t>(std::min(z.size(), kSampleRows * dims)));
    const std::vector<float> together = decode(sample);
    std::vector<double> largest = reference_;
    for (std::size_t i = 0; i < together.size(); ++i)
      largest[i % values] = std::max(largest[i % values], std::fabs(static_cast<double>(together[i])));
    double drift = kDrift;
    for (std::size_t row = 0; row < sample.size() / dims; ++row) {
      const auto from = sample.begin() + static_cast<std::ptrdiff_t>(row * dims);
      const std::vector<float> apart = decode({from, from + static_cast<std::ptrdiff_t>(dims)});
      for (std::size_t i = 0; i < values; ++i) {
        const double difference = std::fabs(static_cast<double>(together[row * values + i]) - static_cast<double>(apart[i]));
        drift = std::max(drift, 8 * difference / std::max(largest[i], kNothingMuch));
      }
    }
    return drift;
  }

  // For each latent dimension a step that need not be finer: see Python's edgeae.codec.settings.least_steps. The decoder is
  // run with one dimension after the other at its mean: what that changes says how much a step of the dimension changes.
  void measure_steps(const std::vector<float>& z, const LatentHeader& header) {
    const std::size_t dims = header.latent_dim, rows = z.size() / dims;
    const std::size_t most = std::min<std::size_t>(16, std::max<std::size_t>(4, kSensitivityRows / dims));
    const std::size_t stride = std::max<std::size_t>(1, rows / most), taken = std::min(most, (rows + stride - 1) / stride);
    if (taken < 4 || !all_finite(z.data(), z.size())) return;
    std::vector<float> sample;
    for (std::size_t row = 0; row < taken; ++row)
      for (std::size_t dim = 0; dim < dims; ++dim) sample.push_back(z[row * stride * dims + dim]);
    const std::vector<float> plain = decode(sample);
    std::vector<double> spans, slopes, deviations;
    double squares = 0;
    for (std::size_t dim = 0; dim < dims; ++dim) {
      double sum = 0, spread = 0, changed = 0;
      float low = z[dim], high = z[dim];
      for (std::size_t row = 0; row < rows; ++row) {
        low = std::min(low, z[row * dims + dim]);
        high = std::max(high, z[row * dims + dim]);
      }
      for (std::size_t row = 0; row < taken; ++row) sum += static_cast<double>(sample[row * dims + dim]);
      const double mean = sum / static_cast<double>(taken);
      for (std::size_t row = 0; row < taken; ++row) spread += std::pow(static_cast<double>(sample[row * dims + dim]) - mean, 2);
      spread /= static_cast<double>(taken);
      if (spread > 0) {
        std::vector<float> flat = sample;
        for (std::size_t row = 0; row < taken; ++row) flat[row * dims + dim] = static_cast<float>(mean);
        const std::vector<float> other = decode(flat);
        for (std::size_t i = 0; i < other.size(); ++i) changed += std::pow(static_cast<double>(other[i]) - static_cast<double>(plain[i]), 2);
        changed /= static_cast<double>(other.size());
      }
      deviations.push_back(spread);
      spans.push_back(static_cast<double>(high) - static_cast<double>(low));
      slopes.push_back(spread > 0 ? std::sqrt(changed / spread) : 0);
      squares += std::pow(slopes.back() * spans.back() / ((1 << header.bits) - 1), 2);
    }
    if (std::none_of(deviations.begin(), deviations.end(), [](double spread) { return spread > 0; })) return;
    const double usual = std::sqrt(squares / static_cast<double>(dims));
    for (std::size_t dim = 0; dim < dims; ++dim) {
      const double widest = kWidest * spans[dim];
      const double least = slopes[dim] > 0 ? usual / slopes[dim] : deviations[dim] > 0 ? widest : 0;
      least_.push_back(static_cast<float>(std::min({least, widest, static_cast<double>(std::numeric_limits<float>::max())})));
    }
  }

  // How many rows are anomalies, as long as the scorer works.
  template <class T>
  std::size_t count_unknown(const std::vector<T>& rows) {
    if (!counts_unknown_) return 0;
    try {
      std::vector<float> scores(rows.size() / reference_.size());
      model_.run<T>({Role::scorer}, {rows.data(), rows.size()}, Span<float>(scores));
      const auto threshold = static_cast<float>(model_.signature().threshold);
      return static_cast<std::size_t>(std::count_if(scores.begin(), scores.end(), [&](float score) { return exceeds(score, threshold); }));
    } catch (const BundleError&) {
      counts_unknown_ = false;
      return 0;
    }
  }

  template <class T>
  void tally(const Corrected<T>& corrected, std::size_t unknown) {
    const auto zeros = std::count(corrected.corrections.begin(), corrected.corrections.end(), 0);
    report_.unknown_rows += unknown;
    report_.corrected_values += corrected.corrections.size() - static_cast<std::size_t>(zeros);
    report_.stored_values += corrected.places.size();
    report_.ties += corrected.ties.size();
    report_.largest_error = std::max(report_.largest_error, corrected.largest_error);
    squared_error_ += corrected.squared_error;
    measured_ += corrected.rows.size();
  }

  const Model& model_;
  Coder coder_;
  std::vector<double> reference_;  // for each value of a row the magnitudes that its decoder's arithmetic goes through
  std::vector<float> least_;
  double drift_ = 0, first_error_ = 0, squared_error_ = 0;
  std::size_t measured_ = 0;
  bool counts_unknown_ = true;
  LatentReport report_;
};

}  // namespace detail::codec
}  // namespace edgeae

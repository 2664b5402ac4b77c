// Rows in, results out: conversion, checks, chunks and workers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iterator>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "graph.hpp"

namespace edgeae {

/// A view of somebody's values, made of a std::vector, a std::array, an array, or a pointer and a count.
template <class T>
class Span {
 public:
  Span(T* data, std::size_t size) : data_(data), size_(size) {}

  template <class Container, class Found = std::remove_pointer_t<decltype(std::data(std::declval<Container&>()))>,
            class = std::enable_if_t<std::is_convertible_v<Found (*)[], T (*)[]>>>
  Span(Container&& values) : data_(std::data(values)), size_(std::size(values)) {}  // NOLINT: implicit on purpose

  T* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  T* data_;
  std::size_t size_;
};

namespace detail {

// Bits, not std::isfinite: a program compiled with -ffast-math may assume that there are no such values.
constexpr std::uint32_t kExponent = 0x7F800000;

inline std::uint32_t bits_of(float value) {
  static_assert(sizeof(float) == 4 && std::numeric_limits<float>::is_iec559, "float must be IEEE 754 binary32");
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline bool is_finite(float value) { return (bits_of(value) & kExponent) != kExponent; }
inline bool is_nan(float value) { return (bits_of(value) & 0x7FFFFFFF) > kExponent; }

inline bool all_finite(const float* values, std::size_t count) {
  std::uint32_t found = 0;
  for (std::size_t i = 0; i < count; ++i) found |= (bits_of(values[i]) & kExponent) == kExponent ? 1 : 0;
  return found == 0;
}

inline float not_a_number() {
  const std::uint32_t bits = 0x7FC00000;
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline std::string shown(float value) {
  if (is_nan(value)) return "nan";
  if (!is_finite(value)) return bits_of(value) >> 31 == 0 ? "inf" : "-inf";
  return float_text(static_cast<double>(value));
}

// "x: row 3, feature 'speed'" or "x: row 3, value [1, 2]".
inline std::string place_of(const Graph& graph, std::size_t row, std::size_t value) {
  const Signature& signature = graph.signature();
  std::string place = text(graph.source(), ": row ", row, ", ");
  if (graph.role() != Role::decoder && signature.feature_names)
    return place + "feature '" + (*signature.feature_names)[value] + "'";
  const std::vector<std::int64_t>& shape = graph.source_shape();
  if (shape.size() == 1) return place + text("value ", value);
  std::vector<std::size_t> indices;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    indices.insert(indices.begin(), value % static_cast<std::size_t>(shape[axis]));
    value /= static_cast<std::size_t>(shape[axis]);
  }
  return place + "value [" + joined(indices) + "]";
}

// Look for values that no graph may see, in `count` rows; `first` is the number of the first one in messages. Returns
// whether there were any; with `marks`, they are marked by row, without, the first one throws InputError.
inline bool find_invalid(const Graph& graph, const float* rows, std::size_t count, std::size_t first,
                         std::vector<char>* marks) {
  const std::size_t values = graph.source_values();
  if (all_finite(rows, count * values)) return false;
  for (std::size_t i = 0; i < count * values; ++i) {
    if (is_finite(rows[i])) continue;
    if (marks == nullptr)
      throw InputError(place_of(graph, first + i / values, i % values) + " is " + shown(rows[i]) +
                       "; remove or impute such values, or load the bundle with on_invalid='flag' to give these rows "
                       "the score NaN");
    (*marks)[i / values] = 1;
  }
  return true;
}

inline bool find_invalid(const Graph&, const std::uint8_t*, std::size_t, std::size_t, std::vector<char>*) {
  return false;
}

// Convert one row to what the graph reads; an invalid one, which `find_invalid` has found, becomes zeros.
inline void convert(const Graph&, const float* row, std::size_t count, std::size_t, float* to) {
  if (row != to) std::memcpy(to, row, count * sizeof(float));
}

inline void convert(const Graph&, const std::uint8_t* row, std::size_t count, std::size_t, float* to) {
  std::copy(row, row + count, to);
}

inline void convert(const Graph&, const std::uint8_t* row, std::size_t count, std::size_t, std::uint8_t* to) {
  std::memcpy(to, row, count);
}

inline void convert(const Graph& graph, const float* row, std::size_t count, std::size_t number, std::uint8_t* to) {
  for (std::size_t i = 0; i < count; ++i) {
    if (!(row[i] >= 0 && row[i] <= 255 && row[i] == std::floor(row[i])))
      throw InputError(place_of(graph, number, i) + " is " + shown(row[i]) +
                       "; this bundle takes uint8 images, whole numbers from 0 to 255; do not rescale them, the graph does");
    to[i] = static_cast<std::uint8_t>(row[i]);
  }
}

using Path = std::vector<std::shared_ptr<const Graph>>;  // each reads what the one before wrote

// All rows of one call, cut into chunks that workers take in turn.
template <class T>
class Job {
 public:
  Job(const Path& path, Span<const T> rows, float* out, std::size_t chunk, std::size_t workers, bool flag)
      : path_(path), first_(*path.front()), rows_(rows), out_(out), flag_(flag), workers_(workers) {
    const std::size_t batch = static_cast<std::size_t>(first_.batch().value_or(0));
    count_ = rows.size() / first_.source_values();
    pieces_ = (count_ + (batch ? batch : chunk) - 1) / (batch ? batch : chunk);
    // Pieces of equal size: 65 rows are 33 and 32, not 64 and 1.
    step_ = batch ? batch : pieces_ ? (count_ + pieces_ - 1) / pieces_ : 0;
    padded_ = batch != 0;
  }

  void run() {
    std::vector<std::thread> threads;
    try {
      for (std::size_t i = 1; i < std::min(workers_, pieces_); ++i) threads.emplace_back([this] { work(); });
    } catch (const std::exception&) {
      // The system gives no more threads or memory for them: those that there are do the work.
    }
    work();
    for (std::thread& thread : threads) thread.join();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  // What one worker owns.
  struct Lane {
    std::vector<float> floats, between, results;
    std::vector<std::uint8_t> bytes;
    std::vector<char> marks;
  };

  void work() {
    std::size_t start = 0;
    try {
      Lane lane;
      while ((start = take()) < count_) run_piece(lane, start, std::min(step_, count_ - start));
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      // Pieces are handed out in order and finished, so the failure with the smallest start is the first one.
      if (!failure_ || start < failed_at_) failure_ = std::current_exception(), failed_at_ = start;
      next_ = count_;
    }
  }

  std::size_t take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::size_t start = next_;
    next_ = std::min(count_, next_ + step_);
    return start;
  }

  void run_piece(Lane& lane, std::size_t start, std::size_t count) {
    const std::size_t values = path_.back()->target_values();
    float* out = out_ + start * values;
    const bool invalid = run_chunk(lane, start, count, out);
    if (!invalid) return;
    for (std::size_t row = 0; row < count; ++row)
      if (lane.marks[row]) std::fill_n(out + row * values, values, not_a_number());
  }

  // Returns whether rows were invalid; `lane.marks` says which.
  bool run_chunk(Lane& lane, std::size_t start, std::size_t count, float* out) {
    const std::size_t values = first_.source_values();
    const T* rows = rows_.data() + start * values;
    lane.marks.assign(count, 0);
    const bool invalid = find_invalid(first_, rows, count, start, flag_ ? &lane.marks : nullptr);
    const std::size_t run_rows = padded_ ? step_ : count;
    const void* source = rows;
    const bool as_is = std::is_same_v<T, std::uint8_t> == first_.byte_input();
    if (!as_is || invalid || run_rows != count)
      source = first_.byte_input() ? static_cast<const void*>(fill(lane, lane.bytes, rows, start, count, run_rows, invalid))
                                   : fill(lane, lane.floats, rows, start, count, run_rows, invalid);
    const Graph& last = *path_.back();
    float* target = out;
    if (run_rows != count) {
      lane.results.resize(run_rows * last.target_values());
      target = lane.results.data();
    }
    if (path_.size() == 1) {
      first_.run(source, run_rows, target);
    } else {
      lane.between.resize(run_rows * first_.target_values());
      first_.run(source, run_rows, lane.between.data());
      last.run(lane.between.data(), run_rows, target);
    }
    if (target != out) std::copy_n(target, count * last.target_values(), out);
    return invalid;
  }

  template <class To>
  const To* fill(Lane& lane, std::vector<To>& buffer, const T* rows, std::size_t start, std::size_t count,
                 std::size_t run_rows, bool invalid) {
    const std::size_t values = first_.source_values();
    buffer.assign(run_rows * values, To{0});
    for (std::size_t row = 0; row < count; ++row)
      if (!invalid || !lane.marks[row])
        convert(first_, rows + row * values, values, start + row, buffer.data() + row * values);
    return buffer.data();
  }

  const Path& path_;
  const Graph& first_;
  Span<const T> rows_;
  float* out_;
  bool flag_, padded_ = false;
  std::size_t workers_, count_ = 0, pieces_ = 0, step_ = 0;
  std::mutex mutex_;
  std::size_t next_ = 0, failed_at_ = 0;
  std::exception_ptr failure_;
};

// How many rows of `values` values one call of ONNX Runtime shall get: about 256 KiB, or 384 KiB of vectors, for a
// second-level cache of 2 MiB; see Python's `chunk_rows`.
inline std::size_t chunk_rows(const std::vector<std::int64_t>& shape, std::size_t values, bool on_gpu) {
  const std::size_t row_bytes = 4 * values;
  if (on_gpu) return std::max<std::size_t>(1, std::min<std::size_t>(65536, (std::size_t{1} << 26) / row_bytes));
  const double ideal = std::log2((shape.size() == 1 ? 393216.0 : 262144.0) / static_cast<double>(row_bytes));
  std::size_t rows = std::size_t{1} << static_cast<int>(std::max(0.0, std::round(ideal)));
  rows = std::min<std::size_t>(std::max<std::size_t>(rows, shape.size() == 1 ? 64 : 16), 4096);
  return std::max<std::size_t>(1, std::min(rows, (std::size_t{1} << 24) / row_bytes));
}

}  // namespace detail
}  // namespace edgeae

// Latent files (.eae): rows compressed by a model, small, seekable, on request within a bound, and whole or known not to be.
// The same files as Python's edgeae.codec; export/FORMAT.md specifies them. Needs libzstd (the CMake target
// edgeae::latents), which no other header of edgeae's does.
//
//     edgeae::LatentWriter writer("rows.eae", model, options);      // options.max_error = 0.5; ...
//     writer.write(rows);                                           // as often as there are rows; then
//     writer.close();
//
//     edgeae::LatentReader reader("rows.eae", model);
//     std::vector<float> some = reader.read(100, 200);              // any rows, without reading the others
//     std::vector<float> latents = edgeae::LatentReader("rows.eae").latents();     // latents need no model
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "edgeae.hpp"
#include "latents/ahead.hpp"
#include "latents/files.hpp"
#include "latents/format.hpp"
#include "latents/packer.hpp"
#include "latents/residuals.hpp"
#include "latents/settings.hpp"
#include "latents/values.hpp"

namespace edgeae {

struct LatentReaderOptions {
  bool recover = false;      ///< take the chunks from the start as long as they are whole, whatever comes after them
  bool allow_drift = false;  ///< give rows that this machine decodes differently, and count their chunks in `drifted`
};

/// Rows and latents out of a file, by number. One thread at a time may use a reader.
///
/// Rows need the model that wrote the file, or decoder.onnx of it; latents need none. Rows of a file that promises something
/// are compared with a checksum: a decoder that gives others than the writer's throws instead of being silently wrong.
///
/// Throws InputError if there is no such file, it is no latent file or another model wrote it, and for rows that are not
/// there; IntegrityError if the file is damaged or cut short, or this machine decodes it differently.
class LatentReader {
 public:
  static constexpr std::uint64_t kAll = std::numeric_limits<std::uint64_t>::max();

  /// Which rows a chunk holds.
  struct Chunk {
    std::uint64_t first = 0, rows = 0;
    std::uint64_t unknown = 0;  ///< how many of them are anomalies to the model, as far as the writer counted
  };

  explicit LatentReader(const std::filesystem::path& path, const LatentReaderOptions& options = {})
      : LatentReader(detail::codec::Source(path), nullptr, options) {}

  LatentReader(const std::filesystem::path& path, const Autoencoder& model, const LatentReaderOptions& options = {})
      : LatentReader(detail::codec::Source(path), model.model_, options) {}

  /// Read a file that is in memory.
  static LatentReader of_bytes(std::string bytes, const LatentReaderOptions& options = {}) {
    return {detail::codec::Source(std::move(bytes), kMemory), nullptr, options};
  }
  static LatentReader of_bytes(std::string bytes, const Autoencoder& model, const LatentReaderOptions& options = {}) {
    return {detail::codec::Source(std::move(bytes), kMemory), model.model_, options};
  }

  const LatentHeader& header() const { return file_.header(); }
  std::uint64_t rows() const { return file_.prefix().rows; }

  /// Whether rows come out as bytes: where the file promises something about such.
  bool has_bytes() const { return header().bound != Bound::none && header().dtype == "uint8"; }

  /// With `recover`, what was lost, in words; nothing if nothing was.
  const std::optional<std::string>& lost() const { return file_.lost(); }

  /// With `allow_drift`, how many chunks came out differently than where they were written.
  std::size_t drifted() const { return drifted_; }

  /// To read a long file a chunk at a time: read(chunk.first, chunk.first + chunk.rows).
  std::size_t chunks() const { return file_.chunks(); }
  Chunk chunk(std::size_t number) {
    if (number >= chunks()) throw InputError(detail::text(file_.where(), ": chunk ", number, " of ", chunks(), "; there is no such chunk"));
    const detail::codec::ChunkHead head = file_.head(number);
    return {head.first, head.rows, head.unknown};
  }

  /// The latents [n, latent_dim] from row `start` to before `stop`.
  std::vector<float> latents(std::uint64_t start = 0, std::uint64_t stop = kAll) {
    std::vector<float> all;
    all.reserve(count(start, stop) * header().latent_dim);
    each(start, stop, [&](Part& part) {
      const auto z = part.z.begin();
      const auto dims = static_cast<std::ptrdiff_t>(header().latent_dim);
      all.insert(all.end(), z + static_cast<std::ptrdiff_t>(part.from) * dims, z + static_cast<std::ptrdiff_t>(part.to) * dims);
    });
    return all;
  }

  /// The rows [n, *shape] from `start` to before `stop`, as float, or as std::uint8_t where the file has bytes; `out` must
  /// have their size.
  template <class T = float>
  std::vector<T> read(std::uint64_t start = 0, std::uint64_t stop = kAll) {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, std::uint8_t>, "rows are float or std::uint8_t");
    std::vector<T> rows(count(start, stop) * header().row_values());
    fill<T>(start, stop, rows);
    return rows;
  }

  void read(std::uint64_t start, std::uint64_t stop, Span<float> out) { fill(start, stop, out); }
  void read(std::uint64_t start, std::uint64_t stop, Span<std::uint8_t> out) { fill(start, stop, out); }

 private:
  static constexpr const char* kMemory = "the latent file in memory";

  // A chunk that is unpacked, and which of its rows are wanted.
  struct Part {
    detail::codec::ChunkHead head;
    std::vector<float> z;
    detail::codec::Cursor cursor;
    std::size_t from = 0, to = 0;
  };

  LatentReader(detail::codec::Source source, std::shared_ptr<const detail::Model> model, const LatentReaderOptions& options)
      : file_(std::move(source), options.recover), model_(std::move(model)), allow_drift_(options.allow_drift) {
    if (model_) detail::codec::check_model(header(), *model_, file_.where());
  }

  std::size_t count(std::uint64_t start, std::uint64_t& stop) const {
    if (stop == kAll) stop = rows();
    if (start > stop || stop > rows())
      throw InputError(detail::text(file_.where(), ": rows ", start, ":", stop, " of ", rows(), "; there are no such rows"));
    return static_cast<std::size_t>(stop - start);
  }

  // Visit the parts of all chunks with rows from `start` to before `stop`; one is unpacked while the one before is visited.
  template <class Visit>
  void each(std::uint64_t start, std::uint64_t stop, const Visit& visit) {
    count(start, stop);
    if (start == stop) return;
    const std::size_t last = file_.chunk_of(stop - 1);
    detail::codec::Ahead<Part> next;
    for (std::size_t number = file_.chunk_of(start); number <= last; ++number) {
      Part part = next.waits() ? next.take() : unpack(number, start, stop);
      if (number < last) next.start(file_.size_of(number + 1), [this, number, start, stop] { return unpack(number + 1, start, stop); });
      visit(part);
    }
  }

  Part unpack(std::size_t number, std::uint64_t start, std::uint64_t stop) {
    const detail::codec::ChunkHead head = file_.head(number);
    Part part{head, {}, {file_.payload(head), detail::text(file_.where(), ": chunk ", head.number)}};
    part.z = detail::codec::unpack_latents(part.cursor, head.rows, header().latent_dim, header().bits);
    if (header().bound == Bound::none) part.cursor.end();
    part.from = static_cast<std::size_t>(std::max(start, head.first) - head.first);
    part.to = static_cast<std::size_t>(std::min<std::uint64_t>(stop, head.first + head.rows) - head.first);
    return part;
  }

  // All rows of a chunk, which must be those that the writer had.
  template <class T>
  std::vector<T> corrected(Part& part) {
    const std::size_t values = header().row_values();
    std::vector<float> x_hat(part.head.rows * values);
    model_->run<float>({detail::Role::decoder}, {part.z.data(), part.z.size()}, Span<float>(x_hat));
    std::vector<T> rows = detail::codec::apply_residuals<T>(part.cursor, x_hat, values);
    part.cursor.end();
    if (detail::codec::crc_of(rows.data(), rows.size() * sizeof(T)) == part.head.decoded_crc) return rows;
    ++drifted_;
    if (allow_drift_) return rows;
    throw IntegrityError(detail::text(file_.where(), ": rows ", part.head.first, " to ", part.head.first + part.head.rows - 1,
                                      " come out differently on ", model_->device().name,
                                      " than where they were written, and may be beyond their bound; decompress on another "
                                      "device, or take them as they are (drift='warn')"));
  }

  template <class T>
  void fill(std::uint64_t start, std::uint64_t stop, Span<T> out) {
    const std::size_t values = header().row_values(), dims = header().latent_dim, wanted = count(start, stop) * values;
    if (!model_) throw InputError(file_.where() + ": rows need the model that wrote them; latents do not");
    if (std::is_same_v<T, std::uint8_t> && !has_bytes())
      throw InputError(file_.where() + ": its rows come out as float32, not uint8; read them as float");
    if (out.size() != wanted) throw InputError(detail::text("out: expected ", wanted, " values, got ", out.size()));
    T* to = out.data();
    const auto copy = [&](const Part& part, const auto& rows) {
      to = std::copy(rows.data() + part.from * values, rows.data() + part.to * values, to);
    };
    each(start, stop, [&](Part& part) {
      if (has_bytes()) {
        copy(part, corrected<std::uint8_t>(part));
      } else if (header().bound != Bound::none) {
        copy(part, corrected<float>(part));
      } else if constexpr (std::is_same_v<T, float>) {
        const std::size_t rows = part.to - part.from;
        model_->run<float>({detail::Role::decoder}, {part.z.data() + part.from * dims, rows * dims}, {to, rows * values});
        to += rows * values;
      }
    });
  }

  detail::codec::ChunkReader file_;
  std::shared_ptr<const detail::Model> model_;
  bool allow_drift_;
  std::size_t drifted_ = 0;
};

/// Compresses rows into a file, chunk by chunk, in memory that does not grow with their number. One thread at a time may use
/// a writer, which codes in a thread of its own beside the model.
///
/// A new file is written in place: whoever kills the writer loses the rows since the last full chunk, and goes on with
/// `append`. The destructor closes the file, but cannot say when that fails: call close(). An exception on its way ends
/// the file properly too, with the rows before; only one that would have replaced another (`force`) goes.
///
/// Throws InputError if the file cannot be written or the options fit neither model nor file; IntegrityError if the header
/// of a file that is gone on with is damaged.
class LatentWriter {
 public:
  /// `model` must be a whole bundle, not just one of its graphs.
  LatentWriter(const std::filesystem::path& path, const Autoencoder& model, LatentWriterOptions options = {})
      : model_(model.model_),
        options_(detail::codec::checked(std::move(options))),
        packer_(*model_),
        file_(path, options_.append, options_.force) {
    if (!file_.header()) return;
    detail::codec::check_settings(options_, *file_.header(), file_.where());
    detail::codec::check_model(*file_.header(), *model_, file_.where());
    before_ = file_.size();
  }

  LatentWriter(const LatentWriter&) = delete;
  LatentWriter& operator=(const LatentWriter&) = delete;

  ~LatentWriter() {
    if (closed_) return;
    try {
      if (file_.replaces() && std::uncaught_exceptions() > exceptions_)
        abandon();
      else
        close();
    } catch (...) {
      // The file has no end; a reader will say so.
    }
  }

  /// Compress rows [n, *input_shape]; bounds refer to them as they come, as float, or as bytes where the first ones are.
  /// Throws InputError for rows that cannot be taken (none of them is then): of another shape, not finite, or such that a
  /// promise cannot be kept.
  void write(Span<const float> rows) { take(rows); }
  void write(Span<const std::uint8_t> rows) { take(rows); }

  /// Make a chunk of the rows that are waiting for more, and have everything on the disk.
  void flush() {
    guarded([&] {
      refuse_closed();
      submit_all();
      job_.finish();
      file_.sync();
    });
  }

  /// Write what is waiting and the end of the file.
  void close() {
    if (closed_) return;
    guarded([&] {
      if (!file_.header()) file_.begin(packer_.header(options_, Span<const float>(nullptr, 0), model_->signature().input_dtype));
      submit_all();
      job_.finish();
      file_.close();
    });
    closed_ = true;
  }

  /// What the file is; nothing before the first rows of a new one.
  const std::optional<LatentHeader>& header() const { return file_.header(); }

  /// Rows given to `write` so far.
  std::uint64_t rows() const { return rows_; }

  /// What was written, complete after `close`.
  LatentReport report() {
    guarded([&] { job_.finish(); });
    LatentReport report = packer_.report();
    report.coded_bytes = file_.size() - before_;
    return report;
  }

 private:
  template <class T>
  void take(Span<const T> given) {
    refuse_closed();
    model_->result_values({detail::Role::encoder}, given.size(), std::is_same_v<T, float>);  // throws for another shape
    if (given.size() == 0) return;
    guarded([&] {
      if (!file_.header()) file_.begin(packer_.header(options_, given, std::is_same_v<T, float> ? "float32" : "uint8"));
    });
    const LatentHeader& header = *file_.header();
    const std::size_t full = detail::codec::chunk_rows(header);
    if (header.bound != Bound::none) {
      detail::codec::check_rows(given, header, rows_);
      hold(given, full * header.row_values());
      return;
    }
    // Only their latents wait for a full chunk.
    const std::vector<float> z = encode(given, header);
    rows_ += given.size() / header.row_values();
    for (std::size_t at = 0; at < z.size();) {
      const std::size_t count = std::min(z.size() - at, full * header.latent_dim - z_.size());
      z_.insert(z_.end(), z.begin() + static_cast<std::ptrdiff_t>(at), z.begin() + static_cast<std::ptrdiff_t>(at + count));
      at += count;
      if (z_.size() == full * header.latent_dim) guarded([&] { submit_all(); });
    }
  }

  // Rows of a file without a promise, for which encoding looks for what is not finite.
  template <class T>
  std::vector<float> encode(Span<const T> given, const LatentHeader& header) const {
    if (model_->flag() || header.dtype == "uint8") detail::codec::check_rows(given, header, rows_);
    std::vector<float> z(model_->result_values({detail::Role::encoder}, given.size(), std::is_same_v<T, float>));
    try {
      model_->run<T>({detail::Role::encoder}, given, Span<float>(z));
    } catch (const InputError&) {
      detail::codec::check_rows(given, header, rows_);
      throw;
    }
    return z;
  }

  // Rows that wait for a full chunk of so many values.
  template <class T>
  void hold(Span<const T> given, std::size_t full) {
    const LatentHeader& header = *file_.header();
    for (std::size_t at = 0; at < given.size();) {
      const std::size_t held = floats_.size() + bytes_.size(), count = std::min(given.size() - at, full - held);
      const T* from = given.data() + at;
      if (header.dtype == "uint8")
        std::transform(from, from + count, std::back_inserter(bytes_), [](T value) { return static_cast<std::uint8_t>(value); });
      else
        floats_.insert(floats_.end(), from, from + count);
      at += count;
      rows_ += count / header.row_values();
      if (held + count == full) guarded([&] { submit_all(); });
    }
  }

  void submit_all() {
    if (!bytes_.empty())
      submit(bytes_, coded_bytes_);
    else if (!floats_.empty() || !z_.empty())
      submit(floats_, coded_floats_);
  }

  // Encode a chunk, where that was not done, while the one before is coded, and have it coded.
  template <class T>
  void submit(std::vector<T>& rows, std::vector<T>& coded) {
    if (!rows.empty()) {
      z_.resize(model_->result_values({detail::Role::encoder}, rows.size(), std::is_same_v<T, float>));
      model_->run<T>({detail::Role::encoder}, {rows.data(), rows.size()}, Span<float>(z_));
    }
    job_.finish();
    coded_z_.swap(z_);
    coded.swap(rows);
    z_.clear();
    rows.clear();
    job_.start(coded.size() + coded_z_.size(), [this, &coded] {
      const detail::codec::Packed packed = packer_.pack(*file_.header(), coded, coded_z_);
      file_.write(packed.payload, coded_z_.size() / file_.header()->latent_dim, packed.unknown, packed.decoded_crc);
      return true;
    });
    job_.settle();
  }

  void refuse_closed() const {
    if (closed_) throw InputError(file_.where() + ": this writer was closed");
  }

  // A file that something went wrong with is left as it is, without an end.
  template <class Work>
  void guarded(const Work& work) {
    try {
      work();
    } catch (...) {
      abandon();
      throw;
    }
  }

  void abandon() {
    closed_ = true;
    job_.forget();
    file_.abandon();
  }

  std::shared_ptr<const detail::Model> model_;
  LatentWriterOptions options_;
  detail::codec::Packer packer_;
  detail::codec::ChunkWriter file_;
  // What waits for a full chunk and what is being coded: latents, or rows of the one kind or the other where the file
  // promises something about them.
  std::vector<float> floats_, coded_floats_, z_, coded_z_;
  std::vector<std::uint8_t> bytes_, coded_bytes_;
  std::uint64_t rows_ = 0, before_ = 0;
  bool closed_ = false;
  int exceptions_ = std::uncaught_exceptions();
  detail::codec::Ahead<bool> job_;    // uses all of the above
};

}  // namespace edgeae

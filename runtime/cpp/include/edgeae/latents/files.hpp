// Chunks out of a latent file and into one. Nothing here knows what is in their payloads.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <string>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/file.h>
#include <unistd.h>
#endif

#include "../errors.hpp"
#include "format.hpp"

namespace edgeae::detail::codec {

/// The bytes of a file, or such as are in memory.
class Source {
 public:
  // Throws InputError if there is no such file, or it is none that has places.
  explicit Source(const std::filesystem::path& path) : where_(path.string()) {
    std::error_code problem;
    const auto status = std::filesystem::status(path, problem);
    if (!problem && !std::filesystem::is_regular_file(status))
      throw InputError(where_ + (std::filesystem::exists(status) ? ": cannot be read: it is no regular file; save it as one"
                                                                 : ": cannot be read: No such file or directory"));
    errno = 0;
    file_.open(path, std::ios::binary | std::ios::ate);
    if (!file_) throw InputError(where_ + ": cannot be read: " + std::strerror(errno));
    size_ = static_cast<std::uint64_t>(file_.tellg());
  }

  Source(std::string bytes, std::string where) : where_(std::move(where)), bytes_(std::move(bytes)), size_(bytes_.size()) {}

  const std::string& where() const { return where_; }
  std::uint64_t size() const { return size_; }

  // So many bytes from an offset on, or fewer at the end.
  std::string read(std::uint64_t offset, std::uint64_t size) {
    offset = std::min(offset, size_);
    const auto count = static_cast<std::size_t>(std::min(size, size_ - offset));
    if (!file_.is_open()) return bytes_.substr(static_cast<std::size_t>(offset), count);
    std::string data(count, '\0');
    file_.clear();
    file_.seekg(static_cast<std::streamoff>(offset));
    file_.read(data.data(), static_cast<std::streamsize>(count));
    data.resize(static_cast<std::size_t>(file_.gcount()));
    return data;
  }

 private:
  std::string where_, bytes_;
  std::ifstream file_;
  std::uint64_t size_ = 0;
};

inline std::string read_payload(Source& source, const ChunkHead& head, std::uint64_t offset) {
  std::string payload = source.read(offset + kChunkBytes, head.size);
  if (payload.size() != head.size || crc_of(payload) != head.payload_crc)
    throw IntegrityError(text(source.where(), ": chunk ", head.number, " (rows ", head.first, " to ",
                              head.first + head.rows - 1,
                              ") is damaged or cut short; read what is before it with recover (--recover)"));
  return payload;
}

/// The index of a file. Throws IntegrityError if it or the end are not whole, or not those of this file.
inline Prefix find_end(Source& source, const LatentHeader& header) {
  const std::uint64_t size = source.size();
  End end;
  if (!End::unpack(source.read(std::max<std::uint64_t>(kHeaderBytes, size - std::min<std::uint64_t>(size, kEndBytes)), kEndBytes),
                   header.file_id, end))
    throw IntegrityError(source.where() +
                         ": its end is missing or damaged: it was cut short, or is being written; read what is whole "
                         "with recover (--recover), or go on writing it with append (--append)");
  const auto require = [&](bool right) {
    if (!right) throw IntegrityError(source.where() + ": its index is damaged; read the rows with recover (--recover)");
  };
  require(end.index_offset >= kHeaderBytes && end.index_offset <= size &&
          size - end.index_offset == end.index_size() + kEndBytes);
  const std::string index = source.read(end.index_offset, end.index_size());
  require(index.size() == end.index_size() && crc_of(index, crc_of(header.file_id)) == end.index_crc &&
          index.compare(0, 4, kIndexTag) == 0 && get<std::uint32_t>(index.data() + 4) == end.chunks);
  require(end.rows <= std::uint64_t{end.chunks} * most_rows(header));
  Prefix prefix;
  prefix.offsets.reserve(end.chunks);
  prefix.firsts.reserve(end.chunks);
  std::uint64_t least = kHeaderBytes;
  for (std::size_t i = 0; i < end.chunks; ++i) {
    const char* entry = index.data() + kIndexHeadBytes + kEntryBytes * i;
    const auto offset = get<std::uint64_t>(entry), first = get<std::uint64_t>(entry + 8);
    require(i == 0 ? offset == least && first == 0
                   : offset >= least && offset <= end.index_offset && first > prefix.firsts.back());
    prefix.offsets.push_back(offset);
    prefix.firsts.push_back(first);
    least = offset + kChunkBytes;
  }
  require(end.chunks == 0 ? end.index_offset == least && end.rows == 0
                          : end.index_offset >= least && end.rows > prefix.firsts.back());
  prefix.end = end.index_offset;
  prefix.rows = end.rows;
  return prefix;
}

/// The chunks from the start that are whole, and in `lost` what was lost behind them, if anything, in words.
inline Prefix whole_prefix(Source& source, const LatentHeader& header, std::optional<std::string>& lost) {
  const std::uint64_t size = source.size();
  const std::string& where = source.where();
  End end;
  const bool has_end = End::unpack(
      source.read(std::max<std::uint64_t>(kHeaderBytes, size - std::min<std::uint64_t>(size, kEndBytes)), kEndBytes), header.file_id, end);
  Prefix prefix;
  bool damaged = false;
  for (;;) {
    const std::string data = source.read(prefix.end, kChunkBytes);
    if (data.empty() || data.compare(0, 4, kIndexTag) == 0) break;
    try {
      const ChunkHead head = ChunkHead::unpack(data, header, prefix.offsets.size(), prefix.rows, where);
      if (head.size > size - prefix.end - kChunkBytes) throw IntegrityError(text(where, ": chunk ", head.number, " is cut short"));
      read_payload(source, head, prefix.end);
      prefix.add(head);
    } catch (const IntegrityError&) {
      damaged = true;
      break;
    }
  }
  const std::uint64_t rest = size - prefix.end;
  const std::string tail = prefix.tail(header.file_id);
  lost.reset();
  if (rest == tail.size() && source.read(prefix.end, rest) == tail) return prefix;
  if (has_end && end.rows > prefix.rows)
    lost = text("rows ", prefix.rows, " to ", end.rows - 1, " (", rest, " bytes)");
  else if (damaged)
    lost = text("all from row ", prefix.rows, " (", rest, " bytes)");
  else
    lost = text("its end (", rest, " bytes), and no whole chunk of rows");
  return prefix;
}

/// The header, the index, and the chunks by number.
class ChunkReader {
 public:
  ChunkReader(Source source, bool recover) : source_(std::move(source)) {
    header_ = unpack_header(source_.read(0, kHeaderBytes), where());
    prefix_ = recover ? whole_prefix(source_, header_, lost_) : find_end(source_, header_);
  }

  const std::string& where() const { return source_.where(); }
  const LatentHeader& header() const { return header_; }
  const Prefix& prefix() const { return prefix_; }
  const std::optional<std::string>& lost() const { return lost_; }
  std::size_t chunks() const { return prefix_.offsets.size(); }

  // The number of the first row of a chunk; that of the one behind the last: how many rows there are.
  std::uint64_t first_of(std::size_t number) const { return number < chunks() ? prefix_.firsts[number] : prefix_.rows; }

  // Which chunk holds a row.
  std::size_t chunk_of(std::uint64_t row) const {
    const auto next = std::upper_bound(prefix_.firsts.begin(), prefix_.firsts.end(), row);
    return static_cast<std::size_t>(next - prefix_.firsts.begin()) - 1;
  }

  // Where a chunk ends.
  std::uint64_t end_of(std::size_t number) const { return number + 1 < chunks() ? prefix_.offsets[number + 1] : prefix_.end; }

  // How many bytes it has.
  std::size_t size_of(std::size_t number) const { return static_cast<std::size_t>(end_of(number) - prefix_.offsets[number]); }

  ChunkHead head(std::size_t number) {
    const std::uint64_t offset = prefix_.offsets[number], end = end_of(number);
    const std::uint64_t first = first_of(number);
    const ChunkHead head = ChunkHead::unpack(source_.read(offset, kChunkBytes), header_, number, first, where());
    if (offset + kChunkBytes + head.size != end || head.rows != first_of(number + 1) - first)
      throw IntegrityError(text(where(), ": chunk ", number, " (from row ", first, ") is not as the index has it"));
    return head;
  }

  std::string payload(const ChunkHead& head) { return read_payload(source_, head, prefix_.offsets[head.number]); }

 private:
  Source source_;
  LatentHeader header_;
  Prefix prefix_;
  std::optional<std::string> lost_;
};

inline std::string random_bytes(std::size_t count) {
  std::random_device random;
  std::string bytes;
  while (bytes.size() < count) bytes += static_cast<char>(static_cast<unsigned char>(random() & 255));
  return bytes;
}

/// Writes a latent file chunk by chunk: a new one in place, so that a kill loses the chunk in flight at most, or behind the
/// last whole chunk of an old one. Only one that replaces another appears when it is complete.
class ChunkWriter {
 public:
  // Throws InputError if it cannot be written, is no latent file, or is being written by another; IntegrityError if it is
  // to be gone on with, and its header is damaged.
  ChunkWriter(std::filesystem::path path, bool append, bool force) : path_(std::move(path)), place_(path_) {
    std::error_code ignored;
    const bool there = std::filesystem::exists(path_, ignored);
    if (there && append) {
      open("r+b");
      go_on();
      return;
    }
    if (there && !force)
      throw InputError(where() + ": the output file exists already; use --force (force=True) to replace it, or another name");
    if (there && !std::filesystem::is_regular_file(path_, ignored))
      throw InputError(where() + ": exists and is not a regular file; choose another name");
    if (there) {
      path_ = place_ = std::filesystem::canonical(path_);  // a link stays a link
      place_.replace_filename("." + path_.filename().string() + "." + to_hex(random_bytes(4)) + ".tmp");
    } else if (const auto folder = std::filesystem::absolute(path_).parent_path(); !std::filesystem::is_directory(folder, ignored)) {
      throw InputError(where() + ": the folder " + folder.string() + " does not exist; create it first (mkdir -p " +
                       folder.string() + ")");
    }
    open("w+bx");
  }

  ChunkWriter(const ChunkWriter&) = delete;
  ChunkWriter& operator=(const ChunkWriter&) = delete;
  ~ChunkWriter() { abandon(); }

  std::string where() const { return path_.string(); }
  const std::optional<LatentHeader>& header() const { return header_; }
  bool replaces() const { return place_ != path_; }
  std::uint64_t rows() const { return prefix_.rows; }
  std::uint64_t size() const { return header_ ? prefix_.end : 0; }  // up to the end of the last chunk

  void begin(const LatentHeader& header) {
    put_all(pack(checked(header, where())));
    header_ = header;
  }

  void write(const std::string& payload, std::size_t rows, std::size_t unknown, std::uint32_t decoded_crc) {
    if (rows < 1 || rows > most_rows(*header_) || payload.size() > payload_limit(*header_, rows))
      throw InputError(text(where(), ": ", rows, " rows in ", payload.size(), " bytes are too many for one chunk"));
    const ChunkHead head{static_cast<std::uint32_t>(prefix_.offsets.size()), prefix_.rows, static_cast<std::uint32_t>(rows),
                         static_cast<std::uint32_t>(payload.size()), static_cast<std::uint32_t>(unknown),
                         crc_of(payload), decoded_crc};
    cut();
    put_all(head.pack(header_->file_id) + payload);
    prefix_.add(head);
  }

  // Have what was written on the disk.
  void sync() {
#if defined(__unix__) || defined(__APPLE__)
    static_cast<void>(::fsync(::fileno(file_)));
#endif
  }

  // Write index and end, and close the file.
  void close() {
    if (header_) {
      cut();
      put_all(prefix_.tail(header_->file_id));
      sync();
    }
    if (std::fclose(std::exchange(file_, nullptr)) != 0) fail(errno);
    if (!replaces()) return;
    std::error_code problem;
    std::filesystem::rename(place_, path_, problem);
    if (!problem) return;
    std::filesystem::remove(place_, problem);
    fail(problem.value());
  }

  // Close the file as it is; one that would have replaced another is removed.
  void abandon() noexcept {
    if (file_ == nullptr) return;
    std::fclose(std::exchange(file_, nullptr));
    std::error_code ignored;
    if (replaces()) std::filesystem::remove(place_, ignored);
  }

 private:
  void open(const char* mode) {
    file_ = std::fopen(place_.string().c_str(), mode);
    if (file_ == nullptr) fail(errno);
    std::setvbuf(file_, nullptr, _IONBF, 0);  // a chunk is one write
#if defined(__unix__) || defined(__APPLE__)
    if (::flock(::fileno(file_), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      std::fclose(std::exchange(file_, nullptr));
      throw InputError(where() + ": another process is writing it; wait until it is done");
    }
#endif
  }

  void go_on() try {
    Source source(path_);
    if (source.size() == 0) return;  // its writer was killed before it wrote anything
    header_ = unpack_header(source.read(0, kHeaderBytes), where());
    try {
      prefix_ = find_end(source, *header_);
    } catch (const IntegrityError&) {
      std::optional<std::string> lost;
      prefix_ = whole_prefix(source, *header_, lost);
    }
    to_cut_ = true;
  } catch (...) {
    abandon();
    throw;
  }

  // Take away what is behind the last chunk of a file that is gone on with, before the next one comes.
  void cut() {
    if (!to_cut_) return;
    std::error_code problem;
    std::filesystem::resize_file(place_, prefix_.end, problem);
    if (problem) fail(problem.value());
    if (std::fseek(file_, 0, SEEK_END) != 0) fail(errno);
    to_cut_ = false;
  }

  void put_all(const std::string& data) {
    errno = 0;
    if (std::fwrite(data.data(), 1, data.size(), file_) != data.size() || std::fflush(file_) != 0) fail(errno);
  }

  [[noreturn]] void fail(int number) const {
    const bool mine = number == EACCES || number == EPERM || number == EROFS;
    const char* remedy = number == ENOSPC ? "free some space there or choose another place"
                         : mine           ? "choose a folder that you may write in"
                                          : "check the disk and the folder";
    throw InputError(where() + ": cannot be written: " + std::strerror(number) + "; " + remedy);
  }

  std::filesystem::path path_, place_;
  std::FILE* file_ = nullptr;
  std::optional<LatentHeader> header_;
  Prefix prefix_;
  bool to_cut_ = false;
};

}  // namespace edgeae::detail::codec

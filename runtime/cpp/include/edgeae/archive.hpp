// A strict reader of .zip files, for the arrays of a bundle: what two readers could understand differently is refused, and
// nothing is unpacked beyond a budget. Layout: APPNOTE.TXT, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "names.hpp"

namespace edgeae::detail {

// Decompressor for DEFLATE (RFC 1951), as strict as zlib.
class Inflate {
 public:
  explicit Inflate(const std::string& packed) : packed_(packed) {}

  // At most `most` bytes of what comes out; `complete` is false where the bytes are no such stream, or part of one.
  std::string run(std::size_t most) {
    most_ = most;
    try {
      for (bool last = false; !last;) {
        last = bits(1) == 1;
        const unsigned kind = bits(2);
        if (kind == 0) {
          stored();
        } else if (kind == 1) {
          codes(Huffman(fixed_literals(), Set::literals), Huffman(std::vector<unsigned>(32, 5), Set::distances));
        } else if (kind == 2) {
          dynamic();
        } else {
          throw Stop{};
        }
      }
      complete_ = true;
    } catch (const Stop&) {
      // The input has ended or is wrong, or there is as much output as was wanted.
    }
    return std::move(out_);
  }

  bool complete() const { return complete_; }                // whether the stream's end was there
  std::size_t unused() const { return packed_.size() - at_; }  // bytes behind it

 private:
  struct Stop {};
  enum class Set { lengths, literals, distances };

  // Canonical Huffman code: how many codes have each length, and the symbols in order of their codes.
  struct Huffman {
    std::array<unsigned, 16> count{};
    std::vector<unsigned> symbols;

    Huffman(const std::vector<unsigned>& lengths, Set set) : symbols(lengths.size()) {
      for (const unsigned length : lengths) ++count[length];
      count[0] = 0;
      int left = 1;
      unsigned longest = 0;
      for (unsigned length = 1; length < 16; ++length) {
        left = 2 * left - static_cast<int>(count[length]);
        if (left < 0) throw Stop{};
        if (count[length] != 0) longest = length;
      }
      // A code of a single symbol may be incomplete, and one of none is an error once it is used.
      if (left > 0 && longest > 0 && (set == Set::lengths || longest != 1)) throw Stop{};
      std::array<unsigned, 16> next{};
      for (std::size_t length = 1; length < 15; ++length) next[length + 1] = next[length] + count[length];
      for (unsigned symbol = 0; symbol < lengths.size(); ++symbol)
        if (lengths[symbol] != 0) symbols[next[lengths[symbol]]++] = symbol;
    }
  };

  static std::vector<unsigned> fixed_literals() {
    std::vector<unsigned> lengths(288, 8);
    for (std::size_t i = 144; i < 256; ++i) lengths[i] = 9;
    for (std::size_t i = 256; i < 280; ++i) lengths[i] = 7;
    return lengths;
  }

  unsigned bits(unsigned n) {
    while (held_ < n) {
      if (at_ >= packed_.size()) throw Stop{};
      buffer_ |= std::uint32_t{static_cast<unsigned char>(packed_[at_++])} << held_;
      held_ += 8;
    }
    const unsigned value = buffer_ & ((1u << n) - 1);
    buffer_ >>= n;
    held_ -= n;
    return value;
  }

  void put(char byte) {
    if (out_.size() >= most_) throw Stop{};
    out_ += byte;
  }

  void stored() {
    buffer_ = held_ = 0;
    const unsigned length = bits(16), check = bits(16);
    if (length != (check ^ 0xFFFFu)) throw Stop{};
    for (unsigned i = 0; i < length; ++i) {
      if (at_ >= packed_.size()) throw Stop{};
      put(packed_[at_]);
      ++at_;
    }
  }

  unsigned symbol(const Huffman& code) {
    unsigned value = 0, first = 0, index = 0;
    for (std::size_t length = 1; length < 16; ++length) {
      value |= bits(1);
      const unsigned count = code.count[length];
      if (value < first + count) return code.symbols[index + value - first];
      index += count;
      first = (first + count) << 1;
      value <<= 1;
    }
    throw Stop{};
  }

  void dynamic() {
    const unsigned literals = bits(5) + 257, distances = bits(5) + 1, used = bits(4) + 4;
    if (literals > 286 || distances > 30) throw Stop{};
    static constexpr unsigned order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    std::vector<unsigned> lengths(19, 0);
    for (unsigned i = 0; i < used; ++i) lengths[order[i]] = bits(3);
    const Huffman code(lengths, Set::lengths);
    lengths.clear();
    while (lengths.size() < literals + distances) {
      const unsigned next = symbol(code);
      unsigned value = next, times = 1;
      if (next >= 16) {
        if (next == 16 && lengths.empty()) throw Stop{};
        value = next == 16 ? lengths.back() : 0;
        times = next == 16 ? 3 + bits(2) : next == 17 ? 3 + bits(3) : 11 + bits(7);
      }
      lengths.insert(lengths.end(), times, value);
    }
    if (lengths.size() != literals + distances || lengths[256] == 0) throw Stop{};
    const auto middle = lengths.begin() + static_cast<std::ptrdiff_t>(literals);
    codes(Huffman({lengths.begin(), middle}, Set::literals), Huffman({middle, lengths.end()}, Set::distances));
  }

  void codes(const Huffman& literal, const Huffman& distance) {
    static constexpr unsigned base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                          31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static constexpr unsigned extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static constexpr unsigned far_base[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                              193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    for (;;) {
      const unsigned next = symbol(literal);
      if (next < 256) {
        put(static_cast<char>(static_cast<unsigned char>(next)));
        continue;
      }
      if (next == 256) return;
      if (next > 285) throw Stop{};
      const unsigned length = base[next - 257] + bits(extra[next - 257]);
      const unsigned far = symbol(distance);
      if (far > 29) throw Stop{};
      const std::size_t back = far_base[far] + bits(far < 4 ? 0 : far / 2 - 1);
      if (back > out_.size()) throw Stop{};
      for (unsigned i = 0; i < length; ++i) put(out_[out_.size() - back]);
    }
  }

  const std::string& packed_;
  std::size_t most_ = 0;
  std::size_t at_ = 0;
  std::uint32_t buffer_ = 0;
  unsigned held_ = 0;
  bool complete_ = false;
  std::string out_;
};

inline std::uint32_t crc32(const std::string& data) {
  std::uint32_t crc = 0xFFFFFFFF;
  for (const char byte : data) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (0xEDB88320 & (0 - (crc & 1)));
  }
  return ~crc;
}

// An archive in memory whose directory, local headers and bytes agree.
class Zip {
 public:
  struct Member {
    std::string name;  // a plain relative path
    std::size_t size, packed, start;
    unsigned method;
    std::uint32_t crc;
  };

  // Reads and checks the directory; all members together may have `budget` bytes. Throws BundleError that names `where`.
  Zip(const std::string& data, std::string where, std::uint64_t budget) : data_(data), where_(std::move(where)) {
    std::vector<Entry> entries = read_directory();
    std::stable_sort(entries.begin(), entries.end(),
                     [](const Entry& one, const Entry& other) { return one.offset < other.offset; });
    std::set<std::string> seen;
    std::uint64_t end = 0, unpacked = 0;
    for (const Entry& entry : entries) {
      Member member = check(entry);
      const std::string name = quoted(entry.name);
      if (entry.offset < end) fail(name + " shares bytes with another entry");
      end = std::uint64_t{member.start} + member.packed;
      if (end > directory_) fail(name + " reaches beyond the archive");
      const bool folder = !entry.name.empty() && entry.name.back() == '/';
      const std::string path = folder ? entry.name.substr(0, entry.name.size() - 1) : entry.name;
      if (is_litter(entry.name)) continue;
      check_name(path, where_);
      if (!seen.insert(lower(entry.name)).second)
        throw BundleError(where_ + ": holds " + name + " twice; zip the files of one bundle again");
      if (folder && entry.size != 0) fail("the folder " + name + " has content");
      if (folder) continue;
      unpacked += entry.size;
      members_.push_back(std::move(member));
    }
    if (unpacked > budget)
      throw BundleError(where_ + ": would unpack to " + grouped(unpacked) + " bytes, more than the " + grouped(budget) +
                        " that a file of its size may; it is damaged or made to fill the memory");
  }

  // In the order of their bytes.
  const std::vector<Member>& members() const { return members_; }

  // Throws BundleError if the bytes are not the ones that the directory declares.
  std::string read(const Member& member) const {
    const std::string name = quoted(member.name);
    std::string bytes = data_.substr(member.start, member.packed);
    bool complete = true;
    if (member.method == kDeflated) {
      const std::string packed = std::move(bytes);
      Inflate unpacker(packed);
      bytes = unpacker.run(member.size + 1);
      complete = unpacker.complete() && unpacker.unused() == 0;
    }
    if (!complete || bytes.size() != member.size)
      fail(text(name, " does not unpack to the ", member.size, " bytes that it declares"));
    if (crc32(bytes) != member.crc) fail(name + " has another checksum than it declares");
    return bytes;
  }

 private:
  static constexpr std::size_t kEnd = 22, kEntry = 46, kLocal = 30;  // bytes of the records
  static constexpr std::size_t kMaxEntries = 128, kMaxDirectory = 1u << 18;
  static constexpr unsigned kDeflated = 8, kEncrypted = 0x2041, kSizesFollow = 8;

  struct Entry {
    std::string raw_name, name;
    unsigned flags, method;
    std::uint32_t crc;
    std::size_t packed, size, mode, offset;
  };

  [[noreturn]] void fail(const std::string& reason) const {
    throw BundleError(where_ + ": not a readable .zip file: " + reason + "; copy it again, or zip its files again");
  }

  std::uint32_t number(std::size_t at, std::size_t size) const {
    std::uint32_t value = 0;
    while (size-- > 0) value = value << 8 | static_cast<unsigned char>(data_[at + size]);
    return value;
  }

  std::vector<Entry> read_directory() {
    const std::size_t total = data_.size();
    if (data_.compare(0, 2, "PK") != 0) fail("it does not start like one");
    if (total < kEnd || number(total - kEnd, 4) != 0x06054b50 || number(total - 2, 2) != 0)
      fail("it is cut off, or has a comment or other data behind its end");
    const std::size_t end = total - kEnd, count = number(end + 10, 2), size = number(end + 12, 4);
    directory_ = number(end + 16, 4);
    if (number(end + 4, 2) != 0 || number(end + 6, 2) != 0 || number(end + 8, 2) != count || directory_ + size != end)
      fail("its directory is not where it says (several parts, zip64, or data in front?)");
    if (count > kMaxEntries || size > kMaxDirectory)
      fail(text(count, " entries in ", size, " bytes, allowed are ", kMaxEntries, " in ", kMaxDirectory));
    std::vector<Entry> entries;
    std::size_t at = directory_;
    for (std::size_t i = 0; i < count; ++i) {
      if (end - at < kEntry) fail("its directory is cut off");
      const std::size_t name = at + kEntry, name_size = number(at + 28, 2);
      const std::size_t next = name + name_size + number(at + 30, 2) + number(at + 32, 2);
      if (number(at, 4) != 0x02014b50 || next > end || number(at + 34, 2) != 0) fail("its directory is damaged");
      const bool unix_like = number(at + 4, 2) >> 8 == 3;
      const std::string raw = data_.substr(name, name_size);
      entries.push_back({raw, readable(raw), number(at + 8, 2), number(at + 10, 2), number(at + 16, 4), number(at + 20, 4),
                         number(at + 24, 4), unix_like ? number(at + 38, 4) >> 28 : 0, number(at + 42, 4)});
      at = next;
    }
    if (at != end) fail("its directory holds more than its entries");
    return entries;
  }

  // Hold an entry against its local header.
  Member check(const Entry& entry) const {
    const std::string name = quoted(entry.name);
    const std::size_t at = entry.offset, total = data_.size();
    if (at > total || total - at < kLocal) fail(name + " reaches beyond the archive");
    const unsigned flags = number(at + 6, 2);
    const std::size_t name_size = number(at + 26, 2), start = at + kLocal + name_size + number(at + 28, 2);
    if (((entry.flags | flags) & kEncrypted) != 0) fail(name + " is encrypted");
    if (entry.method != 0 && entry.method != kDeflated) fail(name + " is packed by a method other than deflate");
    if (entry.mode != 0 && entry.mode != 4 && entry.mode != 8) fail(name + " is a link or a device, not a regular file");
    bool same = number(at, 4) == 0x04034b50 && number(at + 8, 2) == entry.method &&
                name_size == entry.raw_name.size() && data_.compare(at + kLocal, name_size, entry.raw_name) == 0;
    if ((flags & kSizesFollow) == 0) {
      const std::size_t packed = number(at + 18, 4), size = number(at + 22, 4), elsewhere = 0xFFFFFFFF;
      same = same && number(at + 14, 4) == entry.crc &&
             ((packed == entry.packed && size == entry.size) || (packed == elsewhere && size == elsewhere));
    }
    if (!same || (entry.method == 0 && entry.packed != entry.size))
      fail(name + " is another in its place than in the directory");
    return {entry.name, entry.size, entry.packed, start, entry.method, entry.crc};
  }

  // UTF-8 with whatever is not replaced.
  static std::string readable(const std::string& raw) {
    std::string name;
    for (std::size_t at = 0; at < raw.size();) {
      const std::size_t size = code_point(raw, at, false).second;
      name += size == 0 ? "\xEF\xBF\xBD" : raw.substr(at, size);
      at += size == 0 ? 1 : size;
    }
    return name;
  }

  const std::string& data_;
  std::string where_;
  std::size_t directory_ = 0;
  std::vector<Member> members_;
};

}  // namespace edgeae::detail

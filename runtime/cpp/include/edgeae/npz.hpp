// NumPy's .npz files, as far as bundles use them: .npy members of float32 or uint8, stored or deflated.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"

namespace edgeae::detail {

struct Array {
  std::string dtype;  // "float32" or "uint8"
  std::vector<std::size_t> shape;
  std::string bytes;  // C order, little-endian

  std::vector<float> floats() const {
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    return values;
  }
};

// Malformed input; what the caller turns into a BundleError that names the file.
struct Unreadable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Decompressor for DEFLATE (RFC 1951) that gives exactly `size` bytes or throws.
class Inflate {
 public:
  Inflate(const std::string& packed, std::size_t size) : packed_(packed), size_(size) {}

  std::string run() {
    for (bool last = false; !last;) {
      last = bits(1) == 1;
      const unsigned kind = bits(2);
      if (kind == 0) {
        stored();
      } else if (kind == 1) {
        codes(fixed_lengths(288), fixed_lengths(30));
      } else if (kind == 2) {
        dynamic();
      } else {
        throw Unreadable("bad block");
      }
    }
    if (out_.size() != size_) throw Unreadable("a member is shorter than it says");
    return std::move(out_);
  }

 private:
  // Canonical Huffman code: how many codes have each length, and the symbols in order of their codes.
  struct Huffman {
    std::array<unsigned, 16> count{};
    std::vector<unsigned> symbols;

    explicit Huffman(const std::vector<unsigned>& lengths) : symbols(lengths.size()) {
      for (const unsigned length : lengths) ++count[length];
      int left = 1;
      for (std::size_t length = 1; length < 16; ++length) {
        left = 2 * left - static_cast<int>(count[length]);
        if (left < 0) throw Unreadable("bad code lengths");
      }
      std::array<unsigned, 16> next{};
      for (std::size_t length = 1; length < 15; ++length) next[length + 1] = next[length] + count[length];
      for (unsigned symbol = 0; symbol < lengths.size(); ++symbol)
        if (lengths[symbol] != 0) symbols[next[lengths[symbol]]++] = symbol;
      count[0] = 0;
    }
  };

  static std::vector<unsigned> fixed_lengths(std::size_t n) {
    std::vector<unsigned> lengths(n, n == 288 ? 8 : 5);
    if (n == 288) {
      for (std::size_t i = 144; i < 256; ++i) lengths[i] = 9;
      for (std::size_t i = 256; i < 280; ++i) lengths[i] = 7;
    }
    return lengths;
  }

  unsigned bits(unsigned n) {
    while (held_ < n) {
      if (at_ >= packed_.size()) throw Unreadable("a member ends early");
      buffer_ |= std::uint32_t{static_cast<unsigned char>(packed_[at_++])} << held_;
      held_ += 8;
    }
    const unsigned value = buffer_ & ((1u << n) - 1);
    buffer_ >>= n;
    held_ -= n;
    return value;
  }

  void put(char byte) {
    if (out_.size() >= size_) throw Unreadable("a member is longer than it says");
    out_ += byte;
  }

  void stored() {
    buffer_ = held_ = 0;
    const unsigned length = bits(16), check = bits(16);
    if (length != (check ^ 0xFFFFu) || packed_.size() - at_ < length) throw Unreadable("bad stored block");
    for (unsigned i = 0; i < length; ++i) put(packed_[at_++]);
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
    throw Unreadable("bad code");
  }

  void dynamic() {
    const unsigned literals = bits(5) + 257, distances = bits(5) + 1, used = bits(4) + 4;
    static constexpr unsigned order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    std::vector<unsigned> lengths(19, 0);
    for (unsigned i = 0; i < used; ++i) lengths[order[i]] = bits(3);
    const Huffman code(lengths);
    lengths.clear();
    while (lengths.size() < literals + distances) {
      const unsigned next = symbol(code);
      unsigned value = next, times = 1;
      if (next >= 16) {
        if (next == 16 && lengths.empty()) throw Unreadable("bad code lengths");
        value = next == 16 ? lengths.back() : 0;
        times = next == 16 ? 3 + bits(2) : next == 17 ? 3 + bits(3) : 11 + bits(7);
      }
      lengths.insert(lengths.end(), times, value);
    }
    if (lengths.size() != literals + distances) throw Unreadable("bad code lengths");
    const auto middle = lengths.begin() + static_cast<std::ptrdiff_t>(literals);
    codes({lengths.begin(), middle}, {middle, lengths.end()});
  }

  void codes(const std::vector<unsigned>& literal_lengths, const std::vector<unsigned>& distance_lengths) {
    static constexpr unsigned base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                          31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static constexpr unsigned extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static constexpr unsigned far_base[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                              193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    const Huffman literal(literal_lengths), distance(distance_lengths);
    for (;;) {
      const unsigned next = symbol(literal);
      if (next < 256) {
        put(static_cast<char>(static_cast<unsigned char>(next)));
        continue;
      }
      if (next == 256) return;
      if (next > 285) throw Unreadable("bad length");
      const unsigned length = base[next - 257] + bits(extra[next - 257]);
      const unsigned far = symbol(distance);
      if (far > 29) throw Unreadable("bad distance");
      const std::size_t back = far_base[far] + bits(far < 4 ? 0 : far / 2 - 1);
      if (back > out_.size()) throw Unreadable("bad distance");
      for (unsigned i = 0; i < length; ++i) put(out_[out_.size() - back]);
    }
  }

  const std::string& packed_;
  std::size_t size_;
  std::size_t at_ = 0;
  std::uint32_t buffer_ = 0;
  unsigned held_ = 0;
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

// The members of a .zip by name, read through its central directory; no zip64, no encryption.
class Zip {
 public:
  static std::map<std::string, std::string> read(const std::string& data) {
    const Zip zip(data);
    // The directory's end is the last 22 bytes: no comment, nothing behind.
    if (data.size() < 22 || zip.number(data.size() - 22, 4) != 0x06054b50) throw Unreadable("not a .zip file");
    const std::size_t count = zip.number(data.size() - 12, 2);
    std::size_t at = zip.number(data.size() - 6, 4), total = 0;
    std::map<std::string, std::string> members;
    for (std::size_t i = 0; i < count; ++i) {
      if (zip.number(at, 4) != 0x02014b50) throw Unreadable("bad directory");
      const std::size_t method = zip.number(at + 10, 2), packed = zip.number(at + 20, 4), size = zip.number(at + 24, 4);
      const std::size_t name_size = zip.number(at + 28, 2), local = zip.number(at + 42, 4);
      const std::string name = zip.slice(at + 46, name_size);
      const std::size_t at_crc = at + 16;
      at += 46 + name_size + zip.number(at + 30, 2) + zip.number(at + 32, 2);
      if (zip.number(local, 4) != 0x04034b50) throw Unreadable("bad member");
      const std::string bytes = zip.slice(local + 30 + zip.number(local + 26, 2) + zip.number(local + 28, 2), packed);
      total += size;
      if (total > kMaxBytes) throw Unreadable("more than the limit of 160 MiB");
      if (method != 0 && method != 8) throw Unreadable("a member's compression is unknown");
      if (method == 0 && packed != size) throw Unreadable("bad member");
      const auto [member, added] = members.emplace(name, method == 0 ? bytes : Inflate(bytes, size).run());
      if (!added) throw Unreadable("a member stands there twice");
      if (crc32(member->second) != zip.number(at_crc, 4)) throw Unreadable("a member has another CRC-32");
    }
    return members;
  }

 private:
  static constexpr std::size_t kMaxBytes = std::size_t{160} << 20;

  explicit Zip(const std::string& data) : data_(data) {}

  std::string slice(std::size_t at, std::size_t size) const {
    if (at > data_.size() || data_.size() - at < size) throw Unreadable("a member ends early");
    return data_.substr(at, size);
  }

  std::size_t number(std::size_t at, std::size_t size) const {
    const std::string bytes = slice(at, size);
    std::size_t value = 0;
    while (size-- > 0) value = value << 8 | static_cast<unsigned char>(bytes[size]);
    return value;
  }

  const std::string& data_;
};

inline Array parse_npy(const std::string& bytes) {
  if (bytes.size() < 10 || bytes.compare(0, 7, std::string("\x93NUMPY\x01", 7)) != 0) throw Unreadable("not a .npy file");
  const std::size_t size = static_cast<unsigned char>(bytes[8]) | std::size_t{static_cast<unsigned char>(bytes[9])} << 8;
  if (bytes.size() < 10 + size) throw Unreadable("a .npy file ends early");
  const std::string header = bytes.substr(10, size);
  const auto after = [&](const std::string& key) {
    const auto at = header.find(key);
    if (at == std::string::npos) throw Unreadable("bad .npy header");
    return header.substr(at + key.size());
  };
  const std::string descr = after("'descr': ");
  Array array;
  array.dtype = descr.rfind("'<f4'", 0) == 0 ? "float32" : descr.rfind("'|u1'", 0) == 0 ? "uint8" : "";
  if (array.dtype.empty()) throw Unreadable("an array is neither float32 nor uint8");
  if (after("'fortran_order': ").rfind("False", 0) != 0) throw Unreadable("an array is not in C order");
  std::size_t expected = array.dtype == "uint8" ? 1 : sizeof(float);
  const std::string shape = after("'shape': (");
  for (std::size_t at = 0; at < shape.size() && shape[at] != ')';) {
    if (shape[at] < '0' || shape[at] > '9') {
      ++at;
      continue;
    }
    std::size_t side = 0;
    for (; at < shape.size() && shape[at] >= '0' && shape[at] <= '9'; ++at) {
      side = side * 10 + static_cast<std::size_t>(shape[at] - '0');
      if (side > bytes.size()) throw Unreadable("an array is larger than its file");
    }
    array.shape.push_back(side);
    expected *= side;
    if (expected > bytes.size()) throw Unreadable("an array is larger than its file");
  }
  array.bytes = bytes.substr(10 + size);
  if (array.bytes.size() != expected) throw Unreadable("an array is not as large as it says");
  return array;
}

/// The arrays of an .npz file by name. Throws BundleError that names `where`.
inline std::map<std::string, Array> parse_npz(const std::string& data, const std::string& where) {
  try {
    std::map<std::string, Array> arrays;
    for (const auto& [name, bytes] : Zip::read(data)) {
      if (name.size() > 4 && name.compare(name.size() - 4, 4, ".npy") == 0)
        arrays.emplace(name.substr(0, name.size() - 4), parse_npy(bytes));
    }
    return arrays;
  } catch (const Unreadable& problem) {
    throw BundleError(where + ": not a readable .npz file: " + problem.what());
  }
}

}  // namespace edgeae::detail

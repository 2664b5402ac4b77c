// NumPy's .npz files: plain little-endian numbers, read without trusting what a header claims.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "archive.hpp"
#include "errors.hpp"

namespace edgeae::detail {

struct Array {
  std::string dtype;  // as NumPy calls it
  std::vector<std::size_t> shape;
  std::string bytes;  // C order, little-endian

  std::size_t size() const {
    std::size_t count = 1;
    for (const std::size_t side : shape) count *= side;
    return count;
  }

  std::vector<float> floats() const {
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    return values;
  }
};

// What numpy.save writes before an array of numbers.
class NpyHeader {
 public:
  std::string kind;  // such as f4
  bool fortran = false;
  std::vector<std::uint64_t> shape;

  // Whether all of `header` is one.
  bool parse(const std::string& header) {
    header_ = &header;
    if (!take("{'descr': '") || !(take("<") || take("|"))) return false;
    kind = header.substr(at_, 2);
    at_ += 2;
    if (kind.size() != 2 || std::string("biuf").find(kind[0]) == std::string::npos ||
        std::string("1248").find(kind[1]) == std::string::npos || !take("', 'fortran_order': "))
      return false;
    fortran = take("True");
    if ((!fortran && !take("False")) || !take(", 'shape': (")) return false;
    // At most nine sides; the last of nine stands without a comma.
    for (bool more = true; more && shape.size() < 9 && digit();) {
      std::uint64_t side = 0;
      int digits = 0;
      for (; digit(); ++at_, ++digits) {
        if (digits == 10) return false;
        side = side * 10 + static_cast<std::uint64_t>(header[at_] - '0');
      }
      shape.push_back(side);
      more = shape.size() < 9 && take(",");
      if (more) take(" ");
    }
    if (!take("), }")) return false;
    while (take(" ")) {
    }
    return take("\n") && at_ == header.size();
  }

 private:
  bool take(const char* word) {
    const std::size_t size = std::char_traits<char>::length(word);
    if (header_->compare(at_, size, word) != 0) return false;
    at_ += size;
    return true;
  }

  bool digit() const { return at_ < header_->size() && (*header_)[at_] >= '0' && (*header_)[at_] <= '9'; }

  const std::string* header_ = nullptr;
  std::size_t at_ = 0;
};

// Values in the order of C from values in the order of Fortran, where the first axis runs fastest.
inline std::string row_major(const std::string& bytes, const std::vector<std::size_t>& shape, std::size_t width) {
  std::string ordered(bytes.size(), '\0');
  for (std::size_t index = 0; index < bytes.size() / width; ++index) {
    std::size_t rest = index, place = 0, stride = bytes.size() / width;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      stride /= shape[axis];
      place += rest % shape[axis] * stride;
      rest /= shape[axis];
    }
    ordered.replace(index * width, width, bytes, place * width, width);
  }
  return ordered;
}

inline Array parse_npy(const std::string& bytes, const std::string& where) {
  static const std::map<std::string, const char*> types = {
      {"b1", "bool"},  {"i1", "int8"},  {"i2", "int16"},  {"i4", "int32"},  {"i8", "int64"},   {"u1", "uint8"},
      {"u2", "uint16"}, {"u4", "uint32"}, {"u8", "uint64"}, {"f2", "float16"}, {"f4", "float32"}, {"f8", "float64"}};
  const std::string magic("\x93NUMPY\x01\x00", 8);
  const auto byte = [&](std::size_t at) { return std::size_t{static_cast<unsigned char>(bytes[at])}; };
  const std::size_t start = magic.size() + 2;
  const std::size_t end = bytes.size() < start ? 0 : start + byte(8) + 256 * byte(9);
  NpyHeader header;
  if (bytes.compare(0, magic.size(), magic) != 0 || end == 0 || end > bytes.size() ||
      !header.parse(bytes.substr(start, end - start)))
    throw BundleError(where + " is not a .npy file of plain little-endian numbers; export the bundle again");
  const auto type = types.find(header.kind);
  const std::size_t width = static_cast<std::size_t>(header.kind[1] - '0'), held = bytes.size() - end;
  const bool empty = std::find(header.shape.begin(), header.shape.end(), 0u) != header.shape.end();
  std::uint64_t count = empty ? 0 : 1;
  bool fits = type != types.end();
  for (const std::uint64_t side : header.shape) {
    fits = fits && (empty || count <= held / side);
    count *= fits ? side : 0;
  }
  if (!fits || count * width != held) throw BundleError(where + " does not hold the numbers that it declares");
  Array array{type->second, {header.shape.begin(), header.shape.end()}, bytes.substr(end)};
  if (header.fortran && array.shape.size() > 1) array.bytes = row_major(array.bytes, array.shape, width);
  return array;
}

constexpr std::uint64_t kMaxArrayBytes = std::uint64_t{160} << 20;  // of one .npz file, unpacked

/// The arrays of an .npz file by name. Throws BundleError that names `where`.
inline std::map<std::string, Array> parse_npz(const std::string& data, const std::string& where) {
  std::map<std::string, Array> arrays;
  const Zip zip(data, where, kMaxArrayBytes);
  for (const Zip::Member& member : zip.members()) {
    const std::string& name = member.name;
    if (name.size() < 4 || name.compare(name.size() - 4, 4, ".npy") != 0 || name.find('/') != std::string::npos)
      throw BundleError(where + ": holds " + quoted(name) + ", which is no array; copy or export the bundle again");
    arrays[name.substr(0, name.size() - 4)] = parse_npy(zip.read(member), where + ": " + name);
  }
  return arrays;
}

}  // namespace edgeae::detail

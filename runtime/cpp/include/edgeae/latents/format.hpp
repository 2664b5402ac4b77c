// The bytes of a latent file (.eae): header, chunk heads, index and end; export/FORMAT.md specifies them. Nothing here
// knows what is in a chunk's payload.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <locale>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "../errors.hpp"

namespace edgeae {

/// What a latent file promises of its rows.
enum class Bound : std::uint8_t { none, max_error, max_mse, lossless };

/// What a latent file is.
struct LatentHeader {
  std::string file_id;              ///< 16 random bytes
  std::string digest;               ///< SHA-256 of the decoder's graph without its metadata, in hexadecimal
  std::string precision;            ///< which of the bundle's graphs wrote it: fp32, fp16 or int8
  std::size_t latent_dim = 0;       ///< values in a latent
  std::vector<std::int64_t> shape;  ///< of one row
  std::string dtype;                ///< of the rows: float32 or uint8
  unsigned bits = 8;                ///< of a stored latent value: 32 and 16 are floats, 2 to 8 whole numbers
  Bound bound = Bound::none;
  double value = 0;  ///< of the bound: the largest error of a value, or the largest mean squared error of a chunk; else 0

  std::size_t row_values() const {
    std::size_t count = 1;
    for (const std::int64_t side : shape) count *= static_cast<std::size_t>(side);
    return count;
  }
};

namespace detail::codec {

constexpr char kMagic[] = "\x89" "EAE\r\n\x1a\n", kEndMagic[] = "\x89" "EAE.end";
constexpr char kChunkTag[] = "CHNK", kIndexTag[] = "INDX";
constexpr unsigned kVersion = 1;
constexpr std::size_t kMaxAxes = 4, kMaxValues = std::size_t{1} << 24;
constexpr std::size_t kHeaderBytes = 112, kChunkBytes = 40, kIndexHeadBytes = 8, kEntryBytes = 16, kEndBytes = 36;

inline const char* name_of(Bound bound) {
  constexpr const char* names[] = {"none", "max-error", "max-mse", "lossless"};
  return names[static_cast<std::size_t>(bound)];
}

inline std::string dtype_name(unsigned bits) {
  return bits == 32 ? "float32" : bits == 16 ? "float16" : text("int", bits);
}

// Eight bytes at a time: table k is for a byte that k others follow.
inline constexpr auto kCrcTables = [] {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (0xEDB88320 & (0 - (crc & 1)));
    tables[0][i] = crc;
  }
  for (std::size_t i = 0; i < 256; ++i)
    for (std::size_t k = 1; k < 8; ++k)
      tables[k][i] = tables[k - 1][i] >> 8 ^ tables[0][tables[k - 1][i] & 255];
  return tables;
}();

// CRC-32 of zlib and PNG, going on from that of the bytes before.
inline std::uint32_t crc_of(const void* data, std::size_t size, std::uint32_t before = 0) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  std::uint32_t crc = ~before;
  for (; size >= 8; size -= 8, bytes += 8) {
    std::uint32_t next = 0;
    for (std::size_t k = 0; k < 8; ++k) next ^= kCrcTables[7 - k][bytes[k] ^ (k < 4 ? crc >> 8 * k & 255 : 0)];
    crc = next;
  }
  for (; size > 0; --size) crc = crc >> 8 ^ kCrcTables[0][(crc ^ *bytes++) & 255];
  return ~crc;
}

inline std::uint32_t crc_of(const std::string& data, std::uint32_t before = 0) {
  return crc_of(data.data(), data.size(), before);
}

template <class T>
void put(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i)
    out += static_cast<char>(static_cast<unsigned char>(std::uint64_t{value} >> 8 * i & 255));
}

inline void put_double(std::string& out, double value) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  put(out, bits);
}

template <class T>
T get(const char* from) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    value |= std::uint64_t{static_cast<unsigned char>(from[i])} << 8 * i;
  return static_cast<T>(value);
}

inline double get_double(const char* from) {
  const auto bits = get<std::uint64_t>(from);
  double value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// As printf's %g has it.
inline std::string brief(double value, int digits = 6) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  out.precision(digits);
  out << value;
  return out.str();
}

inline bool is_finite(double value) {  // by its bits: see rows.hpp
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return (bits >> 52 & 0x7FF) != 0x7FF;
}

inline std::string to_hex(const std::string& bytes) {
  std::string hex;
  for (const char byte : bytes)
    for (const int shift : {4, 0}) hex += "0123456789abcdef"[static_cast<unsigned char>(byte) >> shift & 15];
  return hex;
}

inline std::string from_hex(const std::string& hex) {
  const auto digit = [](char c) { return static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10); };
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(digit(hex[i]) << 4 | digit(hex[i + 1]));
  return bytes;
}

/// Refuse a header that makes no sense, with InputError.
inline const LatentHeader& checked(const LatentHeader& header, const std::string& where) {
  const auto require = [&](bool right, const char* name, const std::string& value) {
    if (!right) throw InputError(where + ": " + name + " " + value + " is not what a latent file may have");
  };
  const std::string& precision = header.precision;
  require(precision == "fp32" || precision == "fp16" || precision == "int8", "precision", in_quotes(precision));
  require(header.latent_dim >= 1 && header.latent_dim <= kMaxValues, "latent_dim", text(header.latent_dim));
  bool fits = !header.shape.empty() && header.shape.size() <= kMaxAxes;
  std::size_t values = 1;  // of at most 2^24 times 2^24
  for (const std::int64_t side : header.shape) {
    fits = fits && side >= 1 && side <= static_cast<std::int64_t>(kMaxValues);
    if (fits) values *= static_cast<std::size_t>(side);
    fits = fits && values <= kMaxValues;
  }
  require(fits, "shape", tuple_of(header.shape));
  require((header.bits >= 2 && header.bits <= 8) || header.bits == 16 || header.bits == 32, "bits", text(header.bits));
  const bool has_value = header.bound == Bound::max_error || header.bound == Bound::max_mse;
  require(is_finite(header.value) && (header.value > 0) == has_value, "value", is_finite(header.value) ? float_text(header.value) : "nan");
  return header;
}

inline std::string pack(const LatentHeader& header) {
  std::string data(kMagic, 8);
  put(data, static_cast<std::uint16_t>(kVersion));
  for (const std::size_t byte : {std::size_t{header.bits}, static_cast<std::size_t>(header.bound),
                                 std::size_t{header.dtype == "uint8"}, header.shape.size()})
    put(data, static_cast<std::uint8_t>(byte));
  put(data, std::uint16_t{0});
  put(data, static_cast<std::uint32_t>(header.latent_dim));
  for (std::size_t axis = 0; axis < kMaxAxes; ++axis)
    put(data, static_cast<std::uint32_t>(axis < header.shape.size() ? header.shape[axis] : 0));
  put(data, std::uint32_t{0});
  put_double(data, header.value);
  data += header.precision + std::string(8 - header.precision.size(), '\0');
  data += header.file_id + from_hex(header.digest);
  put(data, std::uint32_t{0});
  put(data, crc_of(data));
  return data;
}

/// Read it from the first kHeaderBytes bytes of a file, or fewer where it has no more. Throws InputError if it is another
/// kind of file, IntegrityError if it is damaged.
inline LatentHeader unpack_header(const std::string& data, const std::string& where) {
  if (data.empty()) throw InputError(where + ": is empty");
  if (data.compare(0, 8, std::string(kMagic, 8), 0, std::min<std::size_t>(8, data.size())) != 0) {
    const bool mangled = data.size() >= 4 && data.compare(1, 3, "EAE") == 0;
    throw InputError(where + (mangled ? ": a latent file that was copied as text; copy it as binary" : ": no latent file (.eae)"));
  }
  if (data.size() < kHeaderBytes)
    throw IntegrityError(text(where, ": cut short after ", data.size(), " bytes, within its header; no rows are in it"));
  const char* at = data.data();
  const auto byte = [&](std::size_t offset) { return static_cast<unsigned char>(at[offset]); };
  if (get<std::uint32_t>(at + 108) != crc_of(at, 108))
    throw IntegrityError(where + ": its header is damaged; copy the file again");
  if (const auto version = get<std::uint16_t>(at + 8); version != kVersion)
    throw InputError(text(where, ": format version ", version, "; this edgeae reads ", kVersion, ": upgrade it"));
  bool known = byte(11) < 4 && byte(12) < 2 && get<std::uint16_t>(at + 14) == 0 && get<std::uint32_t>(at + 36) == 0 &&
               get<std::uint32_t>(at + 104) == 0;
  LatentHeader header;
  for (std::size_t axis = 0; axis < kMaxAxes; ++axis) {
    const auto side = get<std::uint32_t>(at + 20 + 4 * axis);
    if (axis < byte(13))
      header.shape.push_back(side);
    else
      known = known && side == 0;
  }
  if (!known) throw InputError(where + ": its header has values that this edgeae does not know; upgrade it");
  header.file_id = data.substr(56, 16);
  header.digest = to_hex(data.substr(72, 32));
  header.precision = data.substr(48, 8);
  header.precision.erase(header.precision.find_last_not_of('\0') + 1);
  header.latent_dim = get<std::uint32_t>(at + 16);
  header.dtype = byte(12) == 0 ? "float32" : "uint8";
  header.bits = byte(10);
  header.bound = static_cast<Bound>(byte(11));
  header.value = get_double(at + 40);
  return checked(header, where);
}

/// How many rows a chunk may have.
inline std::size_t most_rows(const LatentHeader& header) {
  return std::max<std::size_t>(1, kMaxValues / std::max(header.latent_dim, header.row_values()));
}

/// How many bytes the payload of so many rows may have.
inline std::uint64_t payload_limit(const LatentHeader& header, std::uint64_t rows) {
  return 4096 + 64 * std::uint64_t{header.latent_dim} +
         16 * rows * (std::uint64_t{header.latent_dim} + header.row_values());
}

/// What stands before a chunk's payload.
struct ChunkHead {
  std::uint32_t number = 0;
  std::uint64_t first = 0;
  std::uint32_t rows = 0, size = 0;
  std::uint32_t unknown = 0;  // rows that are anomalies to the model
  std::uint32_t payload_crc = 0, decoded_crc = 0;

  std::string pack(const std::string& file_id) const {
    std::string data(kChunkTag, 4);
    put(data, number);
    put(data, first);
    for (const std::uint32_t each : {rows, size, unknown, payload_crc, decoded_crc}) put(data, each);
    put(data, crc_of(data, crc_of(file_id)));
    return data;
  }

  // That of chunk `number`, with row `first` first; throws IntegrityError if it is another, or damaged.
  static ChunkHead unpack(const std::string& data, const LatentHeader& header, std::uint64_t number,
                          std::uint64_t first, const std::string& where) {
    const std::string place = text(where, ": chunk ", number, " (from row ", first, ")");
    const char* at = data.data();
    if (data.size() != kChunkBytes || data.compare(0, 4, kChunkTag) != 0 ||
        get<std::uint32_t>(at + 36) != crc_of(at, 36, crc_of(header.file_id)))
      throw IntegrityError(place + " is damaged or cut short; read what is before it with recover (--recover)");
    const auto word = [&](std::size_t offset) { return get<std::uint32_t>(at + offset); };
    const ChunkHead head{word(4), get<std::uint64_t>(at + 8), word(16), word(20), word(24), word(28), word(32)};
    if (head.number != number || head.first != first)
      throw IntegrityError(text(place, " is missing: chunk ", head.number, " (from row ", head.first, ") is in its place"));
    if (head.rows < 1 || head.rows > most_rows(header) || head.size > payload_limit(header, head.rows))
      throw IntegrityError(text(place, " has ", head.rows, " rows in ", head.size, " bytes, more than a chunk may have"));
    if (head.unknown > head.rows)
      throw IntegrityError(text(place, " has ", head.unknown, " anomalies among ", head.rows, " rows"));
    return head;
  }
};

/// The end of a file: where its index is.
struct End {
  std::uint64_t rows = 0, index_offset = 0;
  std::uint32_t chunks = 0, index_crc = 0;

  std::uint64_t index_size() const { return kIndexHeadBytes + kEntryBytes * std::uint64_t{chunks}; }

  std::string pack(const std::string& file_id) const {
    std::string data;
    put(data, rows);
    put(data, index_offset);
    put(data, chunks);
    put(data, index_crc);
    put(data, crc_of(data, crc_of(file_id)));
    return data.append(kEndMagic, 8);
  }

  // Whether these are the bytes of one.
  static bool unpack(const std::string& data, const std::string& file_id, End& end) {
    const char* at = data.data();
    if (data.size() != kEndBytes || data.compare(28, 8, kEndMagic) != 0 ||
        get<std::uint32_t>(at + 24) != crc_of(at, 24, crc_of(file_id)))
      return false;
    end = {get<std::uint64_t>(at), get<std::uint64_t>(at + 8), get<std::uint32_t>(at + 16), get<std::uint32_t>(at + 20)};
    return true;
  }
};

/// The chunks of a file as far as they are known: where each lies, and with which row it begins.
struct Prefix {
  std::vector<std::uint64_t> offsets, firsts;
  std::uint64_t end = kHeaderBytes;  // of the last one
  std::uint64_t rows = 0;

  void add(const ChunkHead& head) {
    offsets.push_back(end);
    firsts.push_back(rows);
    end += kChunkBytes + head.size;
    rows += head.rows;
  }

  // The index of these chunks, and the end of the file.
  std::string tail(const std::string& file_id) const {
    std::string data(kIndexTag, 4);
    const auto chunks = static_cast<std::uint32_t>(offsets.size());
    put(data, chunks);
    for (std::size_t i = 0; i < offsets.size(); ++i) {
      put(data, offsets[i]);
      put(data, firsts[i]);
    }
    return data + End{rows, end, chunks, crc_of(data, crc_of(file_id))}.pack(file_id);
  }
};

}  // namespace detail::codec
}  // namespace edgeae

// How numbers become few bytes: zstd over symbols of 2, 4 or 8 bits, byte planes, and positions as gaps.
#pragma once

#include <zstd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../errors.hpp"
#include "format.hpp"

namespace edgeae::detail::codec {

using Bytes = std::vector<std::uint8_t>;
using Positions = std::vector<std::uint32_t>;  // ascending

constexpr std::uint8_t kStored = 0, kZstd = 1, kDense = 0, kSparse = 1;
constexpr unsigned kWidths[] = {2, 4, 8};  // bits of a symbol
constexpr std::size_t kSparseShare = 4;    // numbers of which a larger part than one in so many is not zero are dense
constexpr std::size_t kSample = 8192;      // bytes

template <class T>
Positions nonzero(const std::vector<T>& values) {
  Positions places;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (values[i] != 0) places.push_back(static_cast<std::uint32_t>(i));
  return places;
}

template <class T>
std::vector<T> taken(const std::vector<T>& values, const Positions& places) {
  std::vector<T> some;
  some.reserve(places.size());
  for (const std::uint32_t place : places) some.push_back(values[place]);
  return some;
}

template <class T>
std::uint32_t largest(const std::vector<T>& values) {
  return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
}

/// Packs numbers; belongs to one thread at a time.
class Coder {
 public:
  Coder() : zstd_(ZSTD_createCCtx()) {
    if (!zstd_) throw std::bad_alloc();
  }

  // Bytes, whose number the reader knows: method, size, and the bytes as they are or as one zstd frame.
  std::string block(const std::uint8_t* data, std::size_t size) {
    // The noise of mantissas is not worth the time.
    const bool hopeless = size > 4 * kSample && 1000 * compressed(data, kSample).size() > 995 * kSample;
    std::string coded = hopeless ? std::string() : compressed(data, size);
    const bool smaller = !hopeless && coded.size() < size;
    if (!smaller) coded.assign(data, data + size);
    std::string out(1, static_cast<char>(smaller ? kZstd : kStored));
    put(out, static_cast<std::uint32_t>(coded.size()));
    return out + coded;
  }

  // Symbols of 2, 4 or 8 bits, whichever becomes smallest.
  std::string symbols(const Bytes& values) {
    const std::uint32_t most = largest(values);
    std::string best;
    for (const unsigned width : kWidths) {
      if (most >> width != 0) continue;
      const std::size_t each = 8 / width;
      Bytes packed((values.size() + each - 1) / each);
      for (std::size_t i = 0, byte = 0; i < values.size(); ++byte)
        for (unsigned shift = 0; shift < 8 && i < values.size(); shift += width)
          packed[byte] = static_cast<std::uint8_t>(packed[byte] | values[i++] << shift);
      std::string coded = static_cast<char>(width) + block(packed.data(), packed.size());
      if (best.empty() || coded.size() < best.size()) best = std::move(coded);
    }
    return best;
  }

  // The lowest byte of each word, then the next byte of each, and so on.
  template <class Word>
  std::string planes(const std::vector<Word>& words) {
    std::string out;
    Bytes plane(words.size());
    for (std::size_t byte = 0; byte < sizeof(Word); ++byte) {
      for (std::size_t i = 0; i < words.size(); ++i) plane[i] = static_cast<std::uint8_t>(words[i] >> 8 * byte & 255);
      out += block(plane.data(), plane.size());
    }
    return out;
  }

  std::string positions(const Positions& places) {
    Bytes gaps;
    std::uint32_t next = 0;
    for (const std::uint32_t place : places) {
      gaps.insert(gaps.end(), (place - next) / 255, 255);
      gaps.push_back(static_cast<std::uint8_t>((place - next) % 255));
      next = place + 1;
    }
    std::string out;
    put(out, static_cast<std::uint32_t>(places.size()));
    put(out, static_cast<std::uint32_t>(gaps.size()));
    return out + symbols(gaps);
  }

  // Dense, or as positions and values of those that are not zero if that is smaller.
  std::string integers(const std::vector<std::int32_t>& values) {
    return smaller(values, [&](const auto& some) { return dense(some); });
  }

  // The smaller of all values, and positions and values of those that are not zero, as `pack` packs them.
  template <class T, class Pack>
  std::string smaller(const std::vector<T>& values, const Pack& pack) {
    std::string best = static_cast<char>(kDense) + pack(values);
    const auto zeros = static_cast<std::size_t>(std::count(values.begin(), values.end(), T{0}));
    if (kSparseShare * (values.size() - zeros) <= values.size()) {
      const Positions places = nonzero(values);
      std::string sparse = static_cast<char>(kSparse) + positions(places) + pack(taken(values, places));
      if (sparse.size() < best.size()) return sparse;
    }
    return best;
  }

 private:
  struct Free {
    void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  };

  std::string compressed(const std::uint8_t* data, std::size_t size) {
    std::string out(ZSTD_compressBound(size), '\0');
    const std::size_t found = ZSTD_compressCCtx(zstd_.get(), out.data(), out.size(), data, size, 1);
    if (ZSTD_isError(found)) throw Error(std::string("zstd failed: ") + ZSTD_getErrorName(found));
    out.resize(found);
    return out;
  }

  std::string dense(const std::vector<std::int32_t>& values) {
    std::vector<std::uint32_t> folded(values.size());
    std::transform(values.begin(), values.end(), folded.begin(), [](std::int32_t value) {
      return static_cast<std::uint32_t>(value) << 1 ^ (value < 0 ? 0xFFFFFFFF : 0);
    });
    const std::uint32_t most = largest(folded);
    unsigned count = 0;
    while (count < 4 && most >> 8 * count != 0) ++count;
    std::string out(1, static_cast<char>(count));
    Bytes plane(values.size());
    for (unsigned byte = 0; byte < count; ++byte) {
      for (std::size_t i = 0; i < folded.size(); ++i) plane[i] = static_cast<std::uint8_t>(folded[i] >> 8 * byte & 255);
      out += symbols(plane);
    }
    return out;
  }

  std::unique_ptr<ZSTD_CCtx, Free> zstd_;
};

/// Unpacks what `Coder` packed, from start to end; allocates nothing that its caller has not asked for. Every method throws
/// IntegrityError for bytes that no `Coder` writes.
class Cursor {
 public:
  Cursor(std::string data, std::string where) : data_(std::move(data)), where_(std::move(where)), zstd_(ZSTD_createDCtx()) {
    if (!zstd_) throw std::bad_alloc();
  }

  const char* take(std::size_t size) {
    if (size > data_.size() - at_) throw wrong("ends within a block");
    at_ += size;
    return data_.data() + (at_ - size);
  }

  std::uint8_t byte() { return static_cast<std::uint8_t>(*take(1)); }

  std::size_t count(std::size_t limit) {
    const auto number = get<std::uint32_t>(take(4));
    if (number > limit) throw wrong(text("counts ", number, " where at most ", limit, " can be"));
    return number;
  }

  // The next block, which must hold exactly `size` bytes.
  Bytes block(std::size_t size) {
    const std::uint8_t method = byte();
    const std::size_t coded = get<std::uint32_t>(take(4));
    const char* from = take(coded);
    if (method == kZstd) {
      if (ZSTD_getFrameContentSize(from, coded) != size) throw wrong("holds a block of another size");
      Bytes data(size);
      std::size_t found = ZSTD_findFrameCompressedSize(from, coded);
      if (!ZSTD_isError(found) && found != coded) throw wrong("holds a block with more than one zstd frame");
      if (!ZSTD_isError(found)) found = ZSTD_decompressDCtx(zstd_.get(), data.data(), size, from, coded);
      if (ZSTD_isError(found)) throw wrong(text("holds a block that zstd refuses (", ZSTD_getErrorName(found), ")"));
      if (found != size) throw wrong("holds a block of another size or method");
      return data;
    }
    if (method != kStored || coded != size) throw wrong("holds a block of another size or method");
    return {from, from + coded};
  }

  Bytes symbols(std::size_t count) {
    const unsigned width = byte();
    if (std::find(std::begin(kWidths), std::end(kWidths), width) == std::end(kWidths))
      throw wrong(text("has symbols of ", width, " bits"));
    const unsigned each = 8 / width;
    Bytes packed = block((count + each - 1) / each);
    if (each == 1) return packed;
    Bytes values(count);
    for (std::size_t i = 0, byte = 0; i < count; ++byte)
      for (unsigned shift = 0; shift < 8 && i < count; shift += width)
        values[i++] = static_cast<std::uint8_t>(packed[byte] >> shift & ((1u << width) - 1));
    return values;
  }

  template <class Word>
  std::vector<Word> planes(std::size_t count) {
    std::vector<Word> words(count);
    for (std::size_t byte = 0; byte < sizeof(Word); ++byte) {
      const Bytes plane = block(count);
      for (std::size_t i = 0; i < count; ++i) words[i] = static_cast<Word>(words[i] | std::uint32_t{plane[i]} << 8 * byte);
    }
    return words;
  }

  // Ascending positions below `total`.
  Positions positions(std::size_t total) {
    const std::size_t count = this->count(total);
    const Bytes gaps = symbols(this->count(count + total / 255));
    const auto ends = static_cast<std::size_t>(std::count_if(gaps.begin(), gaps.end(), [](auto gap) { return gap != 255; }));
    if (ends != count || (!gaps.empty() && gaps.back() == 255)) throw wrong("has gaps that do not fit their count");
    Positions places;
    places.reserve(count);
    std::uint64_t next = 0;
    for (const std::uint8_t gap : gaps) {
      next += gap;
      if (gap != 255) places.push_back(static_cast<std::uint32_t>(next++));
    }
    if (next > total) throw wrong("has positions beyond the rows");
    return places;
  }

  std::vector<std::int32_t> integers(std::size_t count) {
    return unpacked<std::int32_t>("numbers", count, [&](std::size_t some) { return dense(some); });
  }

  // What Coder::smaller packed, `what` in messages.
  template <class T, class Unpack>
  std::vector<T> unpacked(const char* what, std::size_t count, const Unpack& unpack) {
    const std::uint8_t kind = byte();
    if (kind == kDense) return unpack(count);
    if (kind != kSparse) throw wrong(text("has ", what, " of kind ", int{kind}));
    const Positions places = positions(count);
    const std::vector<T> some = unpack(places.size());
    std::vector<T> values(count, T{0});
    for (std::size_t i = 0; i < places.size(); ++i) values[places[i]] = some[i];
    return values;
  }

  // Refuse bytes that nothing has asked for.
  void end() const {
    if (at_ != data_.size()) throw wrong("has bytes behind its last block");
  }

  IntegrityError wrong(const std::string& what) const {
    return IntegrityError(where_ + " " + what + "; it was not written by a sound writer: write the file again");
  }

 private:
  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };

  std::vector<std::int32_t> dense(std::size_t count) {
    const unsigned planes = byte();
    if (planes > 4) throw wrong(text("has numbers of ", planes, " bytes"));
    std::vector<std::uint32_t> folded(count);
    for (unsigned plane = 0; plane < planes; ++plane) {
      const Bytes each = symbols(count);
      for (std::size_t i = 0; i < count; ++i) folded[i] |= std::uint32_t{each[i]} << 8 * plane;
    }
    std::vector<std::int32_t> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<std::int32_t>(folded[i] >> 1 ^ (0 - (folded[i] & 1)));
    return values;
  }

  std::string data_, where_;
  std::size_t at_ = 0;
  std::unique_ptr<ZSTD_DCtx, Free> zstd_;
};

}  // namespace edgeae::detail::codec

// Latent files: Python's golden ones come out bit for bit, what is written is read and within its bound, and damage is seen.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <edgeae/latents.hpp>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "check.hpp"

namespace {

using namespace edgeae;
using namespace edgeae::detail::codec;
namespace fs = std::filesystem;

fs::path golden;   // where the golden bundles are; the latent files are beside it
fs::path scratch;  // emptied before and after

std::string slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream all;
  all << file.rdbuf();
  return all.str();
}

void spill(const fs::path& path, const std::string& data) { std::ofstream(path, std::ios::binary) << data; }

// The values of an .npy file, as they lie there.
std::string npy_values(const fs::path& path) {
  const std::string data = slurp(path);
  return data.substr(10 + get<std::uint16_t>(data.data() + 8));
}

Autoencoder model_of(const std::string& bundle, const std::string& precision = "fp32") {
  Options options;
  options.device = "cpu";
  options.precision = precision;
  return load(golden / bundle, options);
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <class T>
std::vector<T> part_of(const std::vector<T>& values, std::uint64_t from, std::uint64_t to, std::size_t each) {
  const auto begin = values.begin();
  return {begin + static_cast<std::ptrdiff_t>(from * each), begin + static_cast<std::ptrdiff_t>(to * each)};
}

template <class T>
double apart(T a, T b) {
  return std::fabs(static_cast<double>(a) - static_cast<double>(b));
}

double tolerance(const Autoencoder& model, const std::string& bundle, float expected) {
  const detail::Bundle held(golden / bundle);
  const detail::Tolerance& allowed = held.precision(model.signature().precision).tolerances.at("x_hat");
  return allowed.atol + allowed.rtol * std::fabs(static_cast<double>(expected));
}

// Rows of a file that promises something must be the writer's, bit for bit; others what a right decoder gives.
template <class T>
void check_rows_of(LatentReader& reader, const Autoencoder& model, const std::string& bundle, const std::string& wanted) {
  const std::size_t values = reader.header().row_values();
  const std::vector<T> rows = reader.read<T>();
  if (reader.header().bound != Bound::none) {
    CHECK(bytes_of(rows) == wanted);
  } else {
    std::vector<T> expected(wanted.size() / sizeof(T));
    if (!wanted.empty()) std::memcpy(expected.data(), wanted.data(), wanted.size());
    double most = 0;
    for (std::size_t i = 0; i < rows.size() && i < expected.size(); ++i) most = std::max(most, apart(rows[i], expected[i]));
    float largest = 0;
    for (const T value : expected) largest = std::max(largest, std::fabs(static_cast<float>(value)));
    CHECK(rows.size() == expected.size() && most <= tolerance(model, bundle, largest));
  }
  std::vector<T> again;
  for (std::size_t i = 0; i < reader.chunks(); ++i) {
    const LatentReader::Chunk chunk = reader.chunk(i);
    const std::vector<T> some = reader.read<T>(chunk.first, chunk.first + chunk.rows);
    again.insert(again.end(), some.begin(), some.end());
  }
  CHECK(bytes_of(again) == bytes_of(rows));
  if (reader.rows() < 6 || reader.header().bound == Bound::none) return;
  std::vector<T> some(4 * values);
  reader.read(reader.rows() - 5, reader.rows() - 1, Span<T>(some));
  CHECK(some == part_of(rows, reader.rows() - 5, reader.rows() - 1, values));
}

void test_golden() {
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(golden.parent_path() / "golden-latents")) {
    if (entry.path().extension() != ".eae") continue;
    ++files;
    const std::string name = entry.path().stem().string(), bundle = name.substr(0, name.find('.'));
    LatentReader plain(entry.path());
    const Autoencoder model = model_of(bundle, plain.header().precision);
    LatentReader reader(entry.path(), model);
    const std::string z = npy_values(entry.path().parent_path() / (name + ".latents.npy"));
    const std::string x = npy_values(entry.path().parent_path() / (name + ".rows.npy"));
    expect(bytes_of(plain.latents()) == z, name + ": other latents", __FILE__, __LINE__);
    const int before = failures;
    if (reader.has_bytes())
      check_rows_of<std::uint8_t>(reader, model, bundle, x);
    else
      check_rows_of<float>(reader, model, bundle, x);
    expect(failures == before, name + ": other rows", __FILE__, __LINE__);
    CHECK(!reader.lost() && reader.drifted() == 0);
    // What is whole of a whole file is all of it.
    LatentReaderOptions recover;
    recover.recover = true;
    LatentReader recovered(entry.path(), recover);
    CHECK(!recovered.lost() && bytes_of(recovered.latents()) == z);
  }
  CHECK(files >= 20);
}

template <class T>
std::vector<T> rows_for(const Autoencoder& model, std::size_t count, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::vector<T> rows(count * model.row_values());
  for (T& value : rows) value = static_cast<T>(random() % 17);
  return rows;
}

template <class T>
std::string written(const Autoencoder& model, const std::vector<std::vector<T>>& parts, const LatentWriterOptions& options) {
  const fs::path path = scratch / "written.eae";
  fs::remove(path);
  LatentWriter writer(path, model, options);
  std::size_t count = 0;
  for (const auto& part : parts) {
    writer.write(part);
    writer.flush();
    count += part.size() / model.row_values();
  }
  writer.close();
  const LatentReport report = writer.report();
  CHECK(report.rows == count && writer.rows() == count && report.raw_bytes == count * model.row_values() * sizeof(T));
  CHECK(report.coded_bytes < fs::file_size(path) && report.coded_bytes > 0);
  return slurp(path);
}

template <class T>
void check_writing(const std::string& bundle) {
  const Autoencoder model = model_of(bundle);
  const std::size_t values = model.row_values();
  std::vector<std::vector<T>> parts = {rows_for<T>(model, 20, 1), rows_for<T>(model, 1, 2), rows_for<T>(model, 9, 3)};
  parts[2][3] = static_cast<T>(251);  // unlike anything else
  std::vector<T> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  for (const char* dtype : {"float32", "float16", "int8", "int7", "int6", "int5", "int4", "int3", "int2"})
    for (const char* bound : {"none", "max-error", "small max-error", "target-psnr", "lossless"}) {
      const std::string kind = bound;
      LatentWriterOptions options;
      options.dtype = dtype;
      if (kind == "max-error") options.max_error = 2.5;
      if (kind == "small max-error") options.max_error = 0.01;
      if (kind == "target-psnr") options.target_psnr = 40;
      options.lossless = kind == "lossless";
      LatentReader reader = LatentReader::of_bytes(written(model, parts, options), model);
      CHECK(reader.rows() == 30 && reader.chunks() == 3 && reader.chunk(1).first == 20 && reader.chunk(2).rows == 9);
      CHECK(dtype_name(reader.header().bits) == dtype && reader.has_bytes() == (kind != "none" && std::is_same_v<T, std::uint8_t>));
      const std::vector<float> rows = reader.read();
      double largest = 0, squares = 0;
      for (std::size_t i = 0; i < all.size(); ++i) {
        const double error = apart(rows[i], static_cast<float>(all[i]));
        largest = std::max(largest, error);
        squares += error * error;
      }
      const std::string what = bundle + " " + dtype + " " + kind + ": beyond its bound";
      if (kind == "max-error" || kind == "small max-error") expect(largest <= *options.max_error, what, __FILE__, __LINE__);
      if (kind == "lossless") expect(!(largest > 0), what, __FILE__, __LINE__);
      if (kind == "target-psnr") expect(squares <= reader.header().value * static_cast<double>(all.size()), what, __FILE__, __LINE__);
      if (kind == "none" && options.dtype == "float32")
        for (std::size_t i = 0, from = 0; i < parts.size(); from += parts[i++].size() / values) {
          const std::size_t to = from + parts[i].size() / values;
          CHECK(reader.latents(from, to) == model.encode(parts[i]));
          CHECK(reader.read(from, to) == model.decode(reader.latents(from, to)));
        }
    }
}

void test_writing() {
  check_writing<float>("table");
  check_writing<std::uint8_t>("dense");
  check_writing<float>("dense-uint8-batch1");
  check_writing<std::uint8_t>("sparse");
  // A chunk that is full goes out by itself.
  const Autoencoder model = model_of("table");
  const std::vector<float> rows = rows_for<float>(model, 70000);
  LatentWriterOptions options;
  options.lossless = true;
  options.force = true;
  {
    LatentWriter writer(scratch / "long.eae", model, options);
    for (std::size_t at = 0; at < rows.size(); at += 7000 * 10) writer.write(Span<const float>(rows.data() + at, 7000 * 10));
  }
  LatentReader reader(scratch / "long.eae", model);
  CHECK(reader.chunks() == 2 && reader.chunk(1).first == 65536 && reader.read() == rows);
  CHECK(reader.read(65530, 65540) == part_of(rows, 65530, 65540, 10) && reader.read(5, 5).empty());
}

// Every flipped bit and every truncation is refused, and what is whole before a truncation comes back.
void test_damage() {
  const Autoencoder model = model_of("table");
  for (const bool bounded : {false, true}) {
    LatentWriterOptions options;
    options.dtype = "int4";
    if (bounded) options.max_error = 1.0;
    const std::vector<std::vector<float>> parts = {rows_for<float>(model, 5, 1), rows_for<float>(model, 1, 2), rows_for<float>(model, 3, 3)};
    const std::string file = written(model, parts, options);
    LatentReader whole = LatentReader::of_bytes(file, model);
    const std::vector<float> rows = whole.read();
    const auto refused = [&](const std::string& bytes, bool bundle_of_another) {
      try {
        LatentReader reader = LatentReader::of_bytes(bytes, model);
        reader.read();
      } catch (const IntegrityError&) {
        return true;
      } catch (const InputError&) {
        return bundle_of_another;
      }
      return false;
    };
    std::size_t accepted = 0;
    for (std::size_t bit = 0; bit < 8 * file.size(); ++bit) {
      std::string flipped = file;
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
      accepted += !refused(flipped, bit < 64);  // of the magic number
    }
    CHECK(accepted == 0);
    LatentReaderOptions recover;
    recover.recover = true;
    for (std::size_t size = 0; size < file.size(); ++size) {
      const std::string cut = file.substr(0, size);
      accepted += !refused(cut, size == 0);
      if (size < kHeaderBytes) {
        accepted += size > 0 ? 0 : !refused(cut, true);
        continue;
      }
      LatentReader reader = LatentReader::of_bytes(cut, model, recover);
      const std::uint64_t kept = reader.rows();
      CHECK(reader.lost() && (kept == 0 || kept == 5 || kept == 6 || kept == 9));
      CHECK(reader.read() == part_of(rows, 0, kept, 10));
    }
    for (const std::string& more : {file + '\0', file + file, file.substr(0, kHeaderBytes) + file}) CHECK(refused(more, false));
    CHECK(accepted == 0);
  }
}

// A file of one chunk with this payload, all checksums right.
std::string file_of(const LatentHeader& header, ChunkHead head, const std::string& payload) {
  head.size = static_cast<std::uint32_t>(payload.size());
  head.payload_crc = crc_of(payload);
  Prefix prefix;
  prefix.add(head);
  return pack(header) + head.pack(header.file_id) + payload + prefix.tail(header.file_id);
}

// Payloads that no writer writes are refused or give something, and sanitizers see the rest.
void test_payloads() {
  std::mt19937 random(3);
  int refused = 0, drifted = 0;
  for (const char* dtype : {"float32", "float16", "int8", "int3"})
    for (const bool bounded : {false, true}) {
      const Autoencoder model = model_of("sparse");
      LatentWriterOptions options;
      options.dtype = dtype;
      if (bounded) options.max_error = 1.0;
      const std::string file = written<std::uint8_t>(model, {rows_for<std::uint8_t>(model, 12)}, options);
      const LatentHeader header = unpack_header(file.substr(0, kHeaderBytes), "f");
      const ChunkHead head = ChunkHead::unpack(file.substr(kHeaderBytes, kChunkBytes), header, 0, 0, "f");
      const std::string payload = file.substr(kHeaderBytes + kChunkBytes, head.size);
      CHECK(file_of(header, head, payload) == file);
      for (int i = 0; i < 250; ++i) {
        std::string data = payload;
        for (unsigned change = 0; change <= random() % 3; ++change) {
          const std::size_t at = random() % data.size();
          if (random() % 4 == 0)
            data.erase(at, random() % 16);
          else if (random() % 3 == 0)
            data.insert(at, std::string(random() % 5, static_cast<char>(random() % 128)));
          else
            data[at] = static_cast<char>(static_cast<unsigned char>(random() % 256));
        }
        try {
          LatentReader reader = LatentReader::of_bytes(file_of(header, head, data), model);
          reader.read();
        } catch (const IntegrityError&) {
          ++refused;
        } catch (const InputError&) {  // latents that are not finite
          ++refused;
        }
      }
      ChunkHead other = head;
      other.decoded_crc ^= bounded ? 1 : 0;
      LatentReaderOptions allow;
      allow.allow_drift = true;
      LatentReader reader = LatentReader::of_bytes(file_of(header, other, payload), model, allow);
      CHECK(reader.read().size() == 12 * 64);
      drifted += static_cast<int>(reader.drifted());
      if (bounded)
        CHECK_THROWS(IntegrityError, "the latent file in memory: rows 0 to 11 come out differently on cpu than where they were written",
                     LatentReader::of_bytes(file_of(header, other, payload), model).read());
    }
  CHECK(refused > 1000 && drifted == 4);
}

// Lengths are looked at before memory is taken for them.
void test_lengths() {
  LatentHeader header;
  header.file_id = std::string(16, 'i');
  header.digest = std::string(64, 'a');
  header.precision = "fp32";
  header.latent_dim = 1 << 24;
  header.shape = {1};
  header.dtype = "float32";
  header.bits = 32;
  ChunkHead head;
  head.rows = 1;
  std::string claim(1, '\0');  // dense, and a block of 2^24 bytes that are not there
  put(claim, std::uint8_t{0});
  put(claim, std::uint32_t{1} << 24);
  CHECK_THROWS(IntegrityError, "ends within a block", LatentReader::of_bytes(file_of(header, head, claim)).latents());
  head.rows = 2;
  CHECK_THROWS(IntegrityError, "f: chunk 0 (from row 0) has 2 rows in 0 bytes, more than a chunk may have",
               ChunkHead::unpack(head.pack(header.file_id), header, 0, 0, "f"));
  head.rows = 1;
  head.unknown = 2;
  CHECK_THROWS(IntegrityError, "has 2 anomalies among 1 rows", LatentReader::of_bytes(file_of(header, head, claim)).latents());
  for (const auto& [chunks, offset] : {std::pair<std::uint32_t, std::uint64_t>(0xFFFFFFFF, 112), {0, ~std::uint64_t{0}}, {1, 0}}) {
    const End end{1, offset, chunks, 0};
    CHECK_THROWS(IntegrityError, "its index is damaged", LatentReader::of_bytes(pack(header) + end.pack(header.file_id)));
  }
  header.latent_dim = 0;
  CHECK_THROWS(InputError, "latent_dim 0 is not what a latent file may have", LatentReader::of_bytes(pack(header)));
  header.latent_dim = 1;
  header.shape = {1 << 24, 1 << 24, 1 << 24, 1 << 24};
  CHECK_THROWS(InputError, "is not what a latent file may have", LatentReader::of_bytes(pack(header)));
}

void test_coders() {
  std::mt19937 random(11);
  Coder coder;
  for (int turn = 0; turn < 60; ++turn) {
    std::vector<std::int32_t> values(random() % 500);
    const auto share = random() % 101, bits = random() % 32;
    for (std::int32_t& value : values)
      if (random() % 100 < share) value = static_cast<std::int32_t>(static_cast<std::uint32_t>(random()) >> bits);
    Positions places;
    for (std::uint32_t next = 0; places.size() < turn % 7u; ++next)
      places.push_back(next += static_cast<std::uint32_t>(random() % (turn % 2 ? 3 : 2000)));
    const std::uint32_t total = places.empty() ? turn % 3 : places.back() + 1 + turn % 3;
    Cursor cursor(coder.integers(values) + coder.positions(places), "test");
    CHECK(cursor.integers(values.size()) == values);
    CHECK(cursor.positions(total) == places);
    cursor.end();
  }
  const std::vector<std::int32_t> extremes = {std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max(), 0, -1};
  CHECK(Cursor(coder.integers(extremes), "test").integers(4) == extremes);
  CHECK_THROWS(IntegrityError, "test has bytes behind its last block; it was not written by a sound writer", Cursor("x", "test").end());

  int wrong = 0;
  for (std::uint32_t half = 0; half < 65536; ++half) {
    const float value = float_of_half(static_cast<std::uint16_t>(half));
    if (!detail::is_nan(value)) wrong += half_of(value) != half;
  }
  for (int i = 0; i < 20000; ++i) {  // the nearest of a value's neighbours, or the even one of two
    const float value = std::ldexp(1 + static_cast<float>(random() % 65536) / 65536, static_cast<int>(random() % 44) - 27);
    const std::uint16_t half = half_of(value);
    if ((half & 0x7C00) == 0x7C00) {
      wrong += value < 65520;
      continue;
    }
    const double error = apart(float_of_half(half), value);
    for (const int other : {half - 1, half + 1}) {
      if (other < 0 || other >= 0x7C00) continue;
      const double another = apart(float_of_half(static_cast<std::uint16_t>(other)), value);
      wrong += another < error || (!(another > error) && half % 2 == 1);
    }
  }
  CHECK(wrong == 0);
}

// Any decoder within the margins gives the same bits, and one that is not shows.
void test_drift() {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> spread(-1, 1);
  Coder coder;
  int different = 0;
  for (const double bound : {0.0, 0.02, 0.3, 3.0})
    for (const bool whole : {false, true}) {
      if (!(bound > 0) && !whole) continue;
      const std::size_t values = 7, count = 40 * values;
      std::vector<float> x(count), x_hat(count), near(count), far(count);
      const std::vector<double> margins(values, 1e-4);
      for (std::size_t i = 0; i < count; ++i) {
        x[i] = whole ? std::rint(static_cast<float>(50 * spread(random))) : static_cast<float>(5 * spread(random));
        x_hat[i] = i % 5 == 0 ? x[i] + 0.5f : x[i] + static_cast<float>(spread(random));
        near[i] = static_cast<float>(double{x_hat[i]} + 0.9e-4 * spread(random));
        far[i] = x_hat[i] + 1.5f;
      }
      x_hat[3] = std::numeric_limits<float>::quiet_NaN();
      near[3] = x_hat[3];
      const auto corrected = correct(x, x_hat, grid_for(bound, whole), margins, bound);
      CHECK(corrected.largest_error <= bound);
      for (std::size_t i = 0; i < count; ++i) CHECK(apart(corrected.rows[i], x[i]) <= bound);
      const std::string packed = pack_residuals(coder, corrected, values, kDecoder);
      for (const auto* decoder : {&x_hat, &near, &far}) {
        Cursor cursor(packed, "test");
        const bool same = apply_residuals<float>(cursor, *decoder, values) == corrected.rows;
        cursor.end();
        if (decoder == &far)
          different += !same;
        else
          CHECK(same);
      }
    }
  CHECK(different == 7);
}

void test_mistakes() {
  const Autoencoder model = model_of("table"), other = model_of("dense"), fp16 = model_of("table", "fp16");
  const fs::path path = scratch / "mistakes.eae";
  const std::vector<float> rows = rows_for<float>(model, 4);
  const auto with = [](const auto& set) {
    LatentWriterOptions options;
    set(options);
    return options;
  };
  const std::string where = path.string();
  CHECK_THROWS(InputError, where + ": cannot be read: No such file or directory", LatentReader(path));
  CHECK_THROWS(InputError, "cannot be read: it is no regular file", LatentReader(scratch));
  CHECK_THROWS(InputError, "dtype: 'int9' is not one of float32, float16, int8, int7, ... int2",
               LatentWriter(path, model, with([](auto& o) { o.dtype = "int9"; })));
  CHECK_THROWS(InputError, "max_error: expected a positive number", LatentWriter(path, model, with([](auto& o) { o.max_error = -1; })));
  CHECK_THROWS(InputError, "max_error, target_psnr and lossless exclude each other",
               LatentWriter(path, model, with([](auto& o) { o.max_error = 1, o.lossless = true; })));
  CHECK_THROWS(InputError, "the folder ", LatentWriter(scratch / "no" / "file.eae", model));
  CHECK_THROWS(InputError, "is only one graph of a bundle", LatentWriter(path, load(golden / "table" / "encoder.onnx")));
  CHECK(!fs::exists(path));
  CHECK_THROWS(InputError, "fp16 graphs compute too differently from machine to machine",
               LatentWriter(path, fp16, with([](auto& o) { o.lossless = o.force = true; })).write(rows));
  CHECK_THROWS(InputError, "the bound is too tight for this decoder, which is good to about ", [&] {
    LatentWriter writer(path, model, with([](auto& o) { o.max_error = 1e-9, o.force = true; }));
    writer.write(rows);
    writer.flush();
  }());
  CHECK_THROWS(InputError, "the output file exists already", LatentWriter(path, model));
  {
    LatentWriter writer(path, model, with([](auto& o) { o.force = true; }));
    CHECK_THROWS(InputError, "x: expected float32 [n, 10], got float32 [9]", writer.write(Span<const float>(rows.data(), 9)));
    writer.write(rows);
    std::vector<float> bad = rows;
    bad[13] = std::numeric_limits<float>::infinity();
    CHECK_THROWS(InputError, "x: row 5, value 3 is inf; remove or impute such values", writer.write(bad));
    writer.close();
    CHECK_THROWS(InputError, "this writer was closed", writer.write(rows));
  }
  const std::string file = slurp(path);
  try {  // the file that was there stays where its successor fails
    LatentWriter writer(path, model, with([](auto& o) { o.force = true; }));
    writer.write(rows_for<float>(model, 9));
    throw Error("something else");
  } catch (const Error&) {
    CHECK(slurp(path) == file);
  }
  CHECK_THROWS(InputError, where + ": written by another model: its decoder's digest begins with ", LatentReader(path, other));
  CHECK_THROWS(InputError, where + ": written at precision fp32, the model runs at fp16; load the bundle with precision fp32",
               LatentReader(path, fp16));
  CHECK_THROWS(InputError, "rows need the model that wrote them; latents do not", LatentReader(path).read());
  LatentReader reader(path, load(golden / "table" / "decoder.onnx"));  // is all that rows need
  CHECK(reader.read() == LatentReader(path, model).read());
  CHECK_THROWS(InputError, where + ": rows 3:5 of 4; there are no such rows", reader.read(3, 5));
  CHECK_THROWS(InputError, "its rows come out as float32, not uint8", reader.read<std::uint8_t>());
  CHECK_THROWS(InputError, "there is no such chunk", reader.chunk(1));
  for (const char* start : {"PK\x03\x04", "\x89PNG\r\n\x1a\n"})
    CHECK_THROWS(InputError, "no latent file (.eae)", LatentReader::of_bytes(start + file));
  CHECK_THROWS(InputError, "a latent file that was copied as text; copy it as binary", LatentReader::of_bytes("\x89" "EAE\n\x1a\n" + file));
  CHECK_THROWS(InputError, "is empty", LatentReader::of_bytes(""));
  std::string newer = file.substr(0, kHeaderBytes - 4);
  newer[8] = 2;
  put(newer, crc_of(newer));
  CHECK_THROWS(InputError, "format version 2; this edgeae reads 1: upgrade it", LatentReader::of_bytes(newer + file.substr(kHeaderBytes)));

  LatentWriterOptions lossless = with([](auto& o) { o.lossless = o.force = true; });
  LatentWriter bytes(path, other, lossless);
  bytes.write(rows_for<std::uint8_t>(other, 2));
  std::vector<float> halves = rows_for<float>(other, 1);
  halves[9] = 0.5f;
  CHECK_THROWS(InputError, "x: row 2, value [1, 1] is 0.5; the file holds whole numbers from 0 to 255, as its first rows did", bytes.write(halves));
  LatentWriter floats(scratch / "floats.eae", other, lossless);
  CHECK_THROWS(InputError, "x: row 0, value [1, 1] is 0.5; lossless is for whole numbers up to 2^24", floats.write(halves));
}

void test_appending() {
  const Autoencoder model = model_of("table");
  const fs::path path = scratch / "log.eae";
  LatentWriterOptions options;
  options.max_error = 0.5;
  options.append = true;
  std::vector<float> all;
  const auto add = [&](std::size_t count, unsigned seed) {
    const std::vector<float> rows = rows_for<float>(model, count, seed);
    LatentWriter writer(path, model, options);
    writer.write(rows);
    writer.close();
    all.insert(all.end(), rows.begin(), rows.end());
  };
  const auto check_all = [&] {
    LatentReader reader(path, model);
    const std::vector<float> rows = reader.read();
    CHECK(rows.size() == all.size());
    for (std::size_t i = 0; i < rows.size() && i < all.size(); ++i) CHECK(std::fabs(rows[i] - all[i]) <= 0.5f);
  };
  add(3, 1);
  options.max_error.reset();  // that of the file
  add(4, 2);
  check_all();
  const std::string file = slurp(path);
  LatentReader whole(path);
  for (std::size_t size = kHeaderBytes; size < file.size(); size += 7) {
    const std::uint64_t second = whole.rows();
    LatentReaderOptions recover;
    recover.recover = true;
    spill(path, file.substr(0, size));
    all = part_of(all, 0, std::min<std::uint64_t>(LatentReader(path, recover).rows(), second), 10);
    add(2, 3);
    check_all();
    all = rows_for<float>(model, 3, 1);
    const std::vector<float> more = rows_for<float>(model, 4, 2);
    all.insert(all.end(), more.begin(), more.end());
  }
  spill(path, "");
  all.clear();
  add(2, 4);
  LatentReader reader(path);
  CHECK(reader.rows() == 2 && reader.header().bound == Bound::none);
  options.dtype = "int4";
  CHECK_THROWS(InputError, "is written with dtype int8 and the bound none; it is gone on with in the same way: leave out dtype",
               LatentWriter(path, model, options));
  options.dtype = "";
#if defined(__unix__) || defined(__APPLE__)
  const LatentWriter first(path, model, options);
  CHECK_THROWS(InputError, "another process is writing it; wait until it is done", LatentWriter(path, model, options));
#endif
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) return 2;
  golden = fs::canonical(argv[1]);
  scratch = fs::temp_directory_path() / ("edgeae-latents-" + to_hex(random_bytes(8)));
  fs::create_directories(scratch);
  test_coders();
  test_drift();
  test_lengths();
  test_golden();
  test_writing();
  test_damage();
  test_payloads();
  test_mistakes();
  test_appending();
  fs::remove_all(scratch);
  return finish();
} catch (const std::exception& problem) {
  std::cout << "uncaught: " << problem.what() << '\n';
  return 1;
}

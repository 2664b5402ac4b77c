// Rows on standard input to a latent file, and back:
//
//     ./compress BUNDLE FILE.eae [--max-error E | --target-psnr DB | --lossless] [--dtype D] [--append] [--bytes] < rows.raw
//     ./compress --back BUNDLE FILE.eae [--recover] > rows.raw
//
// Rows are raw float32 values one after the other, or with --bytes uint8; they come back as float32, or as uint8 from a file
// that promises something about such.
#include <algorithm>
#include <cstdio>
#include <edgeae/latents.hpp>
#include <iostream>
#include <string>
#include <vector>

#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#endif

namespace {

struct Arguments {
  std::vector<std::string> paths;
  edgeae::LatentWriterOptions writing;
  edgeae::LatentReaderOptions reading;
  bool back = false, bytes = false;
};

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&] { return i + 1 < argc ? std::string(argv[++i]) : throw edgeae::InputError(word + ": needs a value"); };
    if (word == "--back") arguments.back = true;
    else if (word == "--bytes") arguments.bytes = true;
    else if (word == "--recover") arguments.reading.recover = true;
    else if (word == "--append") arguments.writing.append = true;
    else if (word == "--lossless") arguments.writing.lossless = true;
    else if (word == "--dtype") arguments.writing.dtype = value();
    else if (word == "--max-error") arguments.writing.max_error = std::stod(value());
    else if (word == "--target-psnr") arguments.writing.target_psnr = std::stod(value());
    else arguments.paths.push_back(word);
  }
  return arguments;
}

template <class T>
void compress(const edgeae::Autoencoder& model, const Arguments& arguments) {
  edgeae::LatentWriter writer(arguments.paths[1], model, arguments.writing);
  const std::size_t values = model.row_values();
  std::vector<T> rows(values * std::max<std::size_t>(1, 65536 / values));
  while (const std::size_t count = std::fread(rows.data(), sizeof(T), rows.size(), stdin)) {
    if (count % values != 0) throw edgeae::InputError("standard input ends within a row");
    writer.write(edgeae::Span<const T>(rows.data(), count));
  }
  writer.close();
  const edgeae::LatentReport report = writer.report();
  std::cerr << report.rows << " rows, " << report.raw_bytes << " bytes -> " << report.coded_bytes << '\n';
}

template <class T>
void decompress(edgeae::LatentReader& reader) {
  for (std::size_t number = 0; number < reader.chunks(); ++number) {
    const auto chunk = reader.chunk(number);
    const std::vector<T> rows = reader.read<T>(chunk.first, chunk.first + chunk.rows);
    if (std::fwrite(rows.data(), sizeof(T), rows.size(), stdout) != rows.size()) throw edgeae::Error("standard output is closed");
  }
}

}  // namespace

int main(int argc, char** argv) try {
#ifdef _WIN32
  _setmode(_fileno(stdin), _O_BINARY);
  _setmode(_fileno(stdout), _O_BINARY);
#endif
  const Arguments arguments = parse(argc, argv);
  if (arguments.paths.size() != 2) {
    std::cerr << "usage: compress [--back] BUNDLE FILE.eae [options] < rows.raw\n";
    return 2;
  }
  edgeae::Options options;
  options.device = "cpu";
  if (!arguments.back) {
    const edgeae::Autoencoder model = edgeae::load(arguments.paths[0], options);
    arguments.bytes ? compress<std::uint8_t>(model, arguments) : compress<float>(model, arguments);
    return 0;
  }
  edgeae::LatentReader header_only(arguments.paths[1], arguments.reading);
  options.precision = header_only.header().precision;
  edgeae::LatentReader reader(arguments.paths[1], edgeae::load(arguments.paths[0], options), arguments.reading);
  if (reader.lost()) std::cerr << "compress: lost " << *reader.lost() << '\n';
  reader.has_bytes() ? decompress<std::uint8_t>(reader) : decompress<float>(reader);
  return 0;
} catch (const std::exception& problem) {
  std::cerr << "compress: " << problem.what() << '\n';
  return 1;
}

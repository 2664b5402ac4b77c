// Spoils what bundles are made of and reads it: each reader answers with a result or one line, never otherwise. For
// sanitizers; `test_fuzz GOLDEN [SECONDS [SEED]]`, by default a second from seed 7.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"

namespace {

using namespace edgeae;
using namespace edgeae::detail;
namespace fs = std::filesystem;

std::mt19937 chance;

std::size_t below(std::size_t count) { return count == 0 ? 0 : chance() % count; }

template <class List>
const auto& one_of_these(const List& list) { return list[below(list.size())]; }

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream all;
  all << file.rdbuf();
  return all.str();
}

// Other bytes, fewer or more of them, a piece from elsewhere, a word that means something.
std::string spoil_bytes(std::string data, const std::vector<std::string>& words) {
  for (std::size_t change = 0; change <= below(4); ++change) {
    const std::size_t at = below(data.size());
    switch (below(7)) {
      case 0: data.erase(at, below(32)); break;
      case 1: data.insert(at, one_of_these(words)); break;
      case 2: data.insert(at, data.substr(below(data.size()), below(64))); break;
      case 3: data.resize(below(data.size() + 1)); break;
      case 4: data.replace(at, std::min<std::size_t>(4, data.size() - at), one_of_these(words)); break;
      default:
        if (!data.empty()) data[at] = static_cast<char>(static_cast<unsigned char>(chance() % 256));
    }
  }
  return data;
}

const std::vector<std::string> kWords = {
    "{", "}", "[", "]", ",", ":", "\"", "\\", "\\ud800", "\\u0000", "null", "true", "NaN", "-Infinity", "4.0", "1e999",
    "-0", "1e-400", "18446744073709551616", "99999999999", "\xC3\xA9", "\xED\xA0\x80", "\xFF", "\"fp32\"", "\"shape\": []",
    std::string(400, '['), std::string(5000, '1'), std::string(2, '\0')};
const std::vector<std::string> kRecords = {
    std::string("PK\1\2", 4), std::string("PK\3\4", 4), std::string("PK\5\6", 4), std::string(4, '\0'), "\xFF\xFF\xFF\xFF",
    std::string("\0\0\0\x80", 4), std::string("\x08\0", 2), "\x93NUMPY", "(4294967296, 4294967296)", "'<f8'", "True",
    "(0, 99)", "\x07", "\xFD"};

// A value of a number of bytes in a record of an archive.
std::string spoil_archive(std::string data) {
  if (below(3) == 0) return spoil_bytes(std::move(data), kRecords);
  for (std::size_t change = 0; change <= below(2); ++change) {
    std::vector<std::size_t> marks;
    for (std::size_t at = data.find("PK"); at != std::string::npos; at = data.find("PK", at + 1)) marks.push_back(at);
    if (marks.empty()) return data;
    const std::size_t at = one_of_these(marks) + 4 + below(42), width = below(2) == 0 ? 2 : 4;
    const std::vector<std::uint32_t> numbers = {0, 1, 2, 8, 255, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF,
                                                static_cast<std::uint32_t>(data.size()), static_cast<std::uint32_t>(chance())};
    const std::uint32_t number = one_of_these(numbers);
    for (std::size_t i = 0; i < width && at + i < data.size(); ++i) data[at + i] = static_cast<char>(number >> (8 * i) & 255);
  }
  return data;
}

// The text of a graph's metadata, in place, so that ONNX Runtime still loads it.
std::string spoil_metadata(std::string graph) {
  const std::size_t start = graph.find("edgeae.");
  for (std::size_t change = 0; start != std::string::npos && change <= below(4); ++change) {
    const std::size_t at = start + below(graph.size() - start);
    if (graph[at] >= '!') graph[at] = "0123456789-,.e[]\"\\nxz\x7F"[below(23)];
  }
  return graph;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2 || argc > 4) return 2;
  const fs::path folder = argv[1];
  const double seconds = argc > 2 ? std::atof(argv[2]) : 1;
  chance.seed(static_cast<unsigned>(argc > 3 ? std::atoi(argv[3]) : 7));
  std::vector<std::string> manifests, archives, graphs;
  for (const char* name : {"table", "dense-uint8-batch1", "variational", "recurrent-lstm"}) {
    manifests.push_back(read(folder / name / "manifest.json"));
    archives.push_back(read(folder / name / "golden.npz"));
    for (const char* role : {"encoder.onnx", "decoder.onnx", "scorer.onnx"}) graphs.push_back(read(folder / name / role));
    parse_manifest(manifests.back(), "manifest.json");
    CHECK(parse_npz(archives.back(), "golden.npz").count("score") == 1);
  }
  Options options;
  options.device = "cpu";
  const std::map<std::string, std::function<void()>> readers = {
      {"manifest", [&] { parse_manifest(spoil_bytes(one_of_these(manifests), kWords), "manifest.json"); }},
      {"json", [&] { parse_json(spoil_bytes(one_of_these(kWords), kWords), "f"); }},
      {"archive", [&] { parse_npz(spoil_archive(one_of_these(archives)), "golden.npz"); }},
      {"array", [&] {
         const std::string& archive = one_of_these(archives);
         const Zip zip(archive, "golden.npz", kMaxArrayBytes);
         parse_npy(spoil_bytes(zip.read(one_of_these(zip.members())), kRecords), "golden.npz: x.npy");
       }},
      {"stream", [&] {
         const std::string& archive = one_of_these(archives);
         const Zip zip(archive, "golden.npz", kMaxArrayBytes);
         const Zip::Member& member = one_of_these(zip.members());
         const std::string packed = spoil_bytes(archive.substr(member.start, member.packed), kRecords);
         Inflate unpacker(packed);
         if (unpacker.run(1u << 20); !unpacker.complete()) throw BundleError("cut off");
       }},
      {"digest", [&] {
         if (!codec::decoder_digest(spoil_bytes(one_of_these(graphs), kRecords))) throw BundleError("no digest");
       }},
      {"metadata", [&] {
         const std::string graph = spoil_metadata(one_of_these(graphs));
         load_bytes(graph.data(), graph.size(), options);
       }},
  };
  std::map<std::string, std::pair<int, int>> counts;  // read, refused
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  for (unsigned round = 0; std::chrono::steady_clock::now() < end; ++round) {
    for (const auto& [name, attempt] : readers) {
      if (name == "metadata" && round % 20 != 0) continue;  // ONNX Runtime loads each of them
      try {
        attempt();
        ++counts[name].first;
      } catch (const Error& problem) {
        ++counts[name].second;
        if (std::string(problem.what()).find('\n') != std::string::npos) expect(false, problem.what(), __FILE__, __LINE__);
      }
    }
  }
  for (const auto& [name, count] : counts) {
    std::cout << name << ": " << count.first << " read, " << count.second << " refused\n";
    CHECK(count.second > 0);
  }
  return finish();
} catch (const std::exception& problem) {
  std::cout << "uncaught: " << problem.what() << '\n';
  return 1;
}

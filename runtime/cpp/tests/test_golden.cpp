// Every golden bundle at every precision gives the numbers that Python recorded: from the directory, from each graph
// alone, whole and in chunks, and row by row through a Scorer.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "check.hpp"

namespace {

using edgeae::detail::Bundle;
using edgeae::detail::Golden;
using edgeae::detail::Tolerance;

struct Worst {
  double difference = 0, share = 0;  // largest |found - wanted|, and as a share of what is allowed
};

void compare(Worst& worst, const std::vector<float>& found, const std::vector<float>& wanted, const Tolerance& allowed) {
  CHECK(found.size() == wanted.size());
  for (std::size_t i = 0; i < std::min(found.size(), wanted.size()); ++i) {
    const double difference = std::fabs(double{found[i]} - double{wanted[i]});
    const double share = difference / (allowed.atol + allowed.rtol * std::fabs(double{wanted[i]}));
    worst.difference = std::max(worst.difference, difference);
    worst.share = std::isfinite(found[i]) ? std::max(worst.share, share) : INFINITY;
  }
}

edgeae::Span<const float> floats(const Golden& golden) {
  return {reinterpret_cast<const float*>(golden.x.bytes.data()), golden.x.bytes.size() / sizeof(float)};
}

edgeae::Span<const std::uint8_t> bytes(const Golden& golden) {
  return {reinterpret_cast<const std::uint8_t*>(golden.x.bytes.data()), golden.x.bytes.size()};
}

template <class T>
void run(const Bundle& bundle, const std::string& precision, const Golden& golden, edgeae::Span<const T> x) {
  const auto& entry = bundle.precision(precision);
  std::map<std::string, Worst> worst;
  const auto all = [&](const edgeae::Autoencoder& encoder, const edgeae::Autoencoder& decoder,
                       const edgeae::Autoencoder& scorer) {
    compare(worst["z"], encoder.encode(x), golden.z, entry.tolerances.at("z"));
    compare(worst["x_hat"], decoder.decode(golden.z), golden.x_hat, entry.tolerances.at("x_hat"));
    compare(worst["score"], scorer.score(x), golden.score, entry.tolerances.at("score"));
  };
  for (const std::size_t chunk : {std::size_t{0}, std::size_t{3}}) {
    edgeae::Options options;
    options.device = "cpu";
    options.precision = precision;
    options.chunk = chunk;
    options.workers = chunk == 0 ? 1 : 2;
    const auto whole = edgeae::load(bundle.path(), options);
    all(whole, whole, whole);
    const auto alone = [&](const char* role) { return edgeae::load(bundle.path() / entry.files.at(role).path, options); };
    const auto encoder = alone("encoder"), decoder = alone("decoder"), scorer = alone("scorer");
    all(encoder, decoder, scorer);
    CHECK(static_cast<double>(scorer.threshold()) == entry.threshold);
    CHECK(whole.reconstruct(x) == whole.decode(whole.encode(x)));

    edgeae::Scorer one = chunk == 0 ? whole.bind() : scorer.bind();
    std::vector<float> scores;
    for (std::size_t row = 0; row < golden.rows; ++row)
      scores.push_back(one.score(edgeae::Span<const T>(x.data() + row * whole.row_values(), whole.row_values())));
    compare(worst["score"], scores, golden.score, entry.tolerances.at("score"));
  }
  for (const auto& [name, each] : worst) {
    std::printf("%-22s %-5s %-6s max |difference| %8.2e, %5.1f %% of the tolerance\n",
                bundle.path().filename().string().c_str(), precision.c_str(), name.c_str(), each.difference,
                100 * each.share);
    CHECK(each.share <= 1);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  std::set<std::filesystem::path> folders;
  if (argc == 2)
    for (const auto& entry : std::filesystem::directory_iterator(argv[1]))
      if (std::filesystem::exists(entry.path() / "manifest.json")) folders.insert(entry.path());
  CHECK(folders.size() >= 5);
  for (const auto& folder : folders) {
    const Bundle bundle(folder);
    for (const auto& [precision, entry] : bundle.manifest().precisions) {
      const Golden golden = edgeae::detail::read_golden(bundle, precision);
      if (golden.x.dtype == "uint8")
        run(bundle, precision, golden, bytes(golden));
      else
        run(bundle, precision, golden, floats(golden));
    }
  }
  return finish();
} catch (const std::exception& problem) {
  std::cout << problem.what() << '\n';
  return 1;
}

// How long one row takes, in microseconds, pre-bound as in edgeae::Scorer:
//
//     ./edgeae-latency BUNDLE [SECONDS]
//
// With "-" for SECONDS it times a slice of 10 ms for every line on standard input and answers with its durations, so
// that latency.py can take turns with Python's runtime: both then meet the same weather.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <edgeae/edgeae.hpp>
#include <iostream>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

template <class Call>
void run_slice(const Call& call, double seconds, std::vector<double>& durations) {
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  for (auto before = Clock::now(); before < end;) {
    call();
    const auto after = Clock::now();
    durations.push_back(std::chrono::duration<double, std::micro>(after - before).count());
    before = after;
  }
}

double at(const std::vector<double>& sorted, double share) {
  return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2 || argc > 3) {
    std::cerr << "usage: edgeae-latency BUNDLE [SECONDS | -]\n";
    return 2;
  }
  const edgeae::Autoencoder model = edgeae::load(argv[1]);
  edgeae::Scorer scorer = model.bind();
  const std::vector<std::uint8_t> bytes(model.row_values(), 0);
  const std::vector<float> floats(model.row_values(), 0.0f);
  const auto call = [&] {
    if (model.signature().input_dtype == "uint8") return scorer.score(bytes);
    return scorer.score(floats);
  };
  std::vector<double> durations;
  run_slice(call, 0.05, durations);  // warm-up
  durations.clear();
  if (argc == 3 && std::string(argv[2]) == "-") {
    for (std::string line; std::getline(std::cin, line); durations.clear()) {
      run_slice(call, 0.01, durations);
      for (const double each : durations) std::cout << each << ' ';
      std::cout << std::endl;
    }
    return 0;
  }
  run_slice(call, argc == 3 ? std::atof(argv[2]) : 1.0, durations);
  std::sort(durations.begin(), durations.end());
  std::cout << "C++ batch 1: p10 " << at(durations, 0.1) << "  p50 " << at(durations, 0.5) << "  p90 "
            << at(durations, 0.9) << "  p99 " << at(durations, 0.99) << " us  (" << durations.size() << " calls, "
            << model.device() << ")\n";
  return 0;
} catch (const std::exception& problem) {
  std::cerr << "edgeae-latency: " << problem.what() << '\n';
  return 1;
}

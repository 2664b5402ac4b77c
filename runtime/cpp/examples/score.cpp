// CSV rows on standard input to scores on standard output, one line each as they arrive:
//
//     ./score BUNDLE < sensors.csv
//
// BUNDLE is a bundle's directory or its scorer.onnx. A first line of names is compared with the model's.
#include <cstdlib>
#include <edgeae/edgeae.hpp>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace {

std::vector<std::string> split(const std::string& line) {
  std::vector<std::string> cells;
  std::istringstream in(line);
  for (std::string cell; std::getline(in, cell, ',');) {
    while (!cell.empty() && (cell.back() == '\r' || cell.back() == ' ')) cell.pop_back();
    cells.push_back(cell);
  }
  return cells;
}

bool is_number(const std::string& cell, float& value) {
  char* end = nullptr;
  value = std::strtof(cell.c_str(), &end);
  return !cell.empty() && *end == '\0';
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::cerr << "usage: score BUNDLE < rows.csv\n";
    return 2;
  }
  edgeae::Options options;
  options.on_invalid = edgeae::OnInvalid::flag;  // a row with a missing value is no reason to stop: it gets NaN
  const edgeae::Autoencoder model = edgeae::load(argv[1], options);
  edgeae::Scorer scorer = model.bind();

  std::cout << "row,score,anomaly\n";
  std::vector<float> row(model.row_values());
  std::size_t number = 0;
  bool first = true;
  for (std::string line; std::getline(std::cin, line); first = false) {
    const std::vector<std::string> cells = split(line);
    if (cells.empty()) continue;
    float value = 0;
    if (first && !is_number(cells[0], value)) {
      const auto& names = model.signature().feature_names;
      if (names && *names != cells) throw edgeae::InputError("the columns are not the model's features, in their order");
      continue;
    }
    if (cells.size() != row.size())
      throw edgeae::InputError("row " + std::to_string(number) + ": " + std::to_string(cells.size()) +
                               " values, the model takes " + std::to_string(row.size()));
    for (std::size_t i = 0; i < row.size(); ++i)
      if (!is_number(cells[i], row[i])) row[i] = std::numeric_limits<float>::quiet_NaN();
    const float score = scorer.score(row);
    std::cout << number++ << ',' << score << ',' << (model.is_anomaly(score) ? "true" : "false") << std::endl;
  }
  return 0;
} catch (const std::exception& problem) {
  std::cerr << "score: " << problem.what() << '\n';
  return 1;
}

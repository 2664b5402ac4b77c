// Compiled with -ffast-math, where a compiler may take it that NaN does not exist: the rules hold all the same.
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <vector>

#include "check.hpp"

namespace {

float from_bits(std::uint32_t bits) {
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) return 2;
  edgeae::Options options;
  options.device = "cpu";
  const std::filesystem::path bundle = std::filesystem::path(argv[1]) / "table";
  const edgeae::Autoencoder strict = edgeae::load(bundle, options);
  options.on_invalid = edgeae::OnInvalid::flag;
  const edgeae::Autoencoder lenient = edgeae::load(bundle, options);
  for (const std::uint32_t bits : {0x7FC00000u, 0xFFC00001u, 0x7F800000u, 0xFF800000u}) {
    std::vector<float> x(30, 0.5f);
    x[14] = from_bits(bits);
    CHECK_THROWS(edgeae::InputError, "x: row 1, feature 'sensor_4' is ", strict.score(x));
    CHECK_THROWS(edgeae::InputError, "x: row 1, feature 'sensor_4' is ", strict.encode(x));
    CHECK(edgeae::detail::is_nan(lenient.score(x)[1]) && edgeae::detail::is_finite(lenient.score(x)[2]));
    CHECK(lenient.predict(x)[1] && strict.is_anomaly(from_bits(0x7FC00000)));
    CHECK(lenient.bind().predict(edgeae::Span<const float>(x.data() + 10, 10)));
  }
  return finish();
} catch (const std::exception& problem) {
  std::cout << "uncaught: " << problem.what() << '\n';
  return 1;
}

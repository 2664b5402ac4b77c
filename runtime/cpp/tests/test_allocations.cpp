// A bound scorer allocates nothing per call. ONNX Runtime itself does, now and then one more than usual: a bare run of the
// same session is counted for comparison, and in a thousand calls the scorer must not come near one more for each.
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <new>
#include <vector>

#include "check.hpp"

namespace {

std::atomic<bool> counting{false};
std::atomic<long> count{0};

void note() {
  if (counting.load(std::memory_order_relaxed)) ++count;
}

}  // namespace

#if defined(__GLIBC__) && !defined(EDGEAE_SANITIZED)
// All of the process, ONNX Runtime's library and operator new included.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t size) noexcept { return note(), __libc_malloc(size); }
void* calloc(std::size_t n, std::size_t size) noexcept { return note(), __libc_calloc(n, size); }
void* realloc(void* old, std::size_t size) noexcept { return note(), __libc_realloc(old, size); }
void* aligned_alloc(std::size_t align, std::size_t size) noexcept { return note(), __libc_memalign(align, size); }
int posix_memalign(void** out, std::size_t align, std::size_t size) noexcept {
  note();
  *out = __libc_memalign(align, size);
  return *out == nullptr ? 12 : 0;
}
}
#else
void* operator new(std::size_t size) {
  note();
  if (void* made = std::malloc(size)) return made;
  throw std::bad_alloc();
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  note();
  return std::malloc(size);
}
void operator delete(void* old) noexcept { std::free(old); }
void operator delete(void* old, std::size_t) noexcept { std::free(old); }
void operator delete(void* old, const std::nothrow_t&) noexcept { std::free(old); }
#endif

namespace {

template <class Call>
long allocations(const Call& call) {
  for (int i = 0; i < 20; ++i) call();
  count = 0;
  counting = true;
  for (int i = 0; i < 1000; ++i) call();
  counting = false;
  return count;
}

void test(const std::filesystem::path& bundle) {
  edgeae::Options options;
  options.device = "cpu";
  const edgeae::Autoencoder model = edgeae::load(bundle, options);
  edgeae::Scorer scorer = model.bind();
  const std::vector<float> floats(model.row_values(), 0.0f);
  const std::vector<std::uint8_t> bytes(model.row_values(), 0);

  // The same graph, bare.
  const edgeae::detail::Graph graph(edgeae::detail::read_bytes(bundle / "scorer.onnx", 1 << 20), "scorer.onnx", {}, options);
  std::vector<float> source(model.row_values()), result(1);
  const auto input = graph.source_value(source.data(), 1), output = graph.target_value(result.data(), 1);
  const auto binding = graph.bind(input, output);
  const long bare = allocations([&] { graph.run(binding); });
  const long bound = allocations([&] { scorer.score(floats); });
  const long bound_bytes = allocations([&] { scorer.score(bytes); });
  const long plain = allocations([&] { model.score(floats); });
  std::cout << bundle.filename().string() << ": allocations in 1000 calls: ONNX Runtime alone " << bare << ", Scorer "
            << bound << ", Autoencoder::score " << plain << '\n';
  CHECK(bound < bare + 10);
  CHECK(bound_bytes < bare + 10);
  CHECK(plain >= bare + 1000);  // what is counted, is counted
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) return 2;
  for (const char* name : {"table", "dense", "convolutional", "dense-uint8-batch1"}) test(std::filesystem::path(argv[1]) / name);
  return finish();
} catch (const std::exception& problem) {
  std::cout << "uncaught: " << problem.what() << '\n';
  return 1;
}

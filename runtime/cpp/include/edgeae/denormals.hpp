// Numbers below 1.2e-38 count as zero while a graph runs: a processor may take a hundred times as long for each.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace edgeae::detail {

// While one lives, its thread takes denormal numbers for zeros and makes none; then the caller's floating-point control
// and status are as they were. A few nanoseconds. On other machines than x86-64 and aarch64 nothing is changed.
class DenormalsAsZero {
 public:
#if defined(__x86_64__) || defined(_M_X64)
  static constexpr bool available = true;
  static constexpr std::uint64_t flags = 0x8040;  // FTZ and DAZ of MXCSR (Intel SDM, volume 1, 10.2.3)

  static std::uint64_t control() { return _mm_getcsr(); }
  static void set_control(std::uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
#elif defined(__aarch64__)
  static constexpr bool available = true;
  static constexpr std::uint64_t flags = std::uint64_t{1} << 24;  // FZ of FPCR (Arm ARM, C5.2.8)

  static std::uint64_t control() {
    std::uint64_t value = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set_control(std::uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value) : "memory"); }
#else
  static constexpr bool available = false;
  static constexpr std::uint64_t flags = 0;

  static std::uint64_t control() { return 0; }
  static void set_control(std::uint64_t) {}
#endif

  DenormalsAsZero() : saved_(control()) { set_control(saved_ | flags); }
  ~DenormalsAsZero() { set_control(saved_); }
  DenormalsAsZero(const DenormalsAsZero&) = delete;
  DenormalsAsZero& operator=(const DenormalsAsZero&) = delete;

 private:
  std::uint64_t saved_;
};

}  // namespace edgeae::detail

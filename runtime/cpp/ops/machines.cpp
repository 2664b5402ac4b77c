#include "machines.hpp"

#include <stdexcept>

#if EDGEAE_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace edgeae::ops {

extern const Machine portable;
#if defined(__x86_64__)
extern const Machine avx2, avxvnni, avx512, vnni;
#if EDGEAE_HAS_AMX
extern const Machine amx;
#endif
#elif defined(__aarch64__)
extern const Machine dotprod;
#endif

namespace {

#if defined(__x86_64__)
struct Features {
    bool avx2 = false, avxvnni = false, avx512 = false, vnni = false, amx = false;
};

// Asked of the processor itself: compilers differ in which names __builtin_cpu_supports knows, and some runtime
// libraries answer no to all. Source: Intel's Software Developer's Manual, volume 2, CPUID and XGETBV.
Features detect() {
    unsigned a, b, c, d;
    const auto cpuid = [&](unsigned leaf, unsigned subleaf) {
        __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "0"(leaf), "2"(subleaf));
    };
    const auto bit = [](unsigned word, int number) { return (word >> number & 1) != 0; };
    Features found;
    cpuid(0, 0);
    if (a < 7) return found;
    cpuid(1, 0);
    const bool fma = bit(c, 12);
    if (!bit(c, 27)) return found;  // the system saves no wide registers
    unsigned saved, high;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    const bool wide = (saved & 0x06) == 0x06, widest = (saved & 0xe6) == 0xe6;
    cpuid(7, 0);
    const unsigned subleaves = a;
    found.avx2 = wide && fma && bit(b, 5);
    found.avx512 = found.avx2 && widest && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);  // F, DQ, BW, VL
    found.vnni = found.avx512 && bit(c, 11);
    found.amx = found.vnni && (saved & 0x60000) == 0x60000 && bit(d, 24) && bit(d, 25);  // tiles, products of bytes
    if (subleaves >= 1) {
        cpuid(7, 1);
        found.avxvnni = found.avx2 && bit(a, 4);
    }
    return found;
}

#if EDGEAE_HAS_AMX
// Linux saves tiles, 8 KiB of them, only for processes that asked. Source: its Documentation/arch/x86/xstate.rst.
bool may_use_amx() {
    constexpr int request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif
#elif defined(__aarch64__)
bool has_dotprod() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
    return true;  // every arm64 Mac and every iPhone since 2018
#else
    return false;
#endif
}
#endif

}  // namespace

std::vector<const Machine*> available_machines() {
    std::vector<const Machine*> found;
#if defined(__x86_64__)
    const Features features = detect();
#if EDGEAE_HAS_AMX
    if (features.amx && may_use_amx()) found.push_back(&amx);
#endif
    if (features.vnni) found.push_back(&vnni);
    if (features.avxvnni) found.push_back(&avxvnni);
    if (features.avx512) found.push_back(&avx512);
    if (features.avx2) found.push_back(&avx2);
#elif defined(__aarch64__)
    if (has_dotprod()) found.push_back(&dotprod);
#endif
    found.push_back(&portable);
    return found;
}

const Machine& choose_machine(const std::string& name) {
    std::string names;
    for (const Machine* machine : available_machines()) {
        if (name.empty() || name == machine->name) return *machine;
        names += (names.empty() ? "" : ", ") + std::string(machine->name);
    }
    throw std::invalid_argument("EDGEAE_OPS_ISA: '" + name + "' does not run on this processor; these do: " + names);
}

}  // namespace edgeae::ops

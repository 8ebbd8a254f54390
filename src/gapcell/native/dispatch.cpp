#include "dispatch.h"

#include <atomic>
#include <cstdlib>

#include "checks.h"

namespace gapcell {
namespace {

struct Choice {
  const Kernel *kernel;
  const char *reason;
};

#if defined(GAPCELL_HAS_X86)
bool runs_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}

bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

constexpr Choice kPortableByChoice{&kPortable, "chosen by name"}, kOffByChoice{nullptr, "chosen by name"};
constexpr Choice kPortableByDefault{&kPortable, "this machine has neither AVX-512 nor AVX2 with FMA"};
#if defined(GAPCELL_HAS_X86)
constexpr Choice kAvx512ByChoice{&kAvx512, "chosen by name"}, kAvx2ByChoice{&kAvx2, "chosen by name"};
constexpr Choice kAvx512ByDefault{&kAvx512, "this machine has AVX-512"};
constexpr Choice kAvx2ByDefault{&kAvx2, "this machine has AVX2 and FMA, but not all of AVX-512"};
#endif

const Choice *default_choice() {
#if defined(GAPCELL_HAS_X86)
  if (runs_avx512()) return &kAvx512ByDefault;
  if (runs_avx2()) return &kAvx2ByDefault;
#endif
  return &kPortableByDefault;
}

const Choice *named(const std::string &name) {
  if (name.empty()) return default_choice();
  if (name == "off") return &kOffByChoice;
  if (name == "portable") return &kPortableByChoice;
#if defined(GAPCELL_HAS_X86)
  if (name == "avx512" && runs_avx512()) return &kAvx512ByChoice;
  if (name == "avx2" && runs_avx2()) return &kAvx2ByChoice;
#endif
  if (name == "avx512" || name == "avx2") throw Refused("this machine or this build does not have " + name);
  throw Refused("kernel `" + name + "` is not known, expected avx512, avx2, portable or off");
}

std::atomic<const Choice *> current{nullptr};

const Choice &choice() {
  const Choice *found = current.load();
  if (found) return *found;
  const char *wanted = std::getenv("GAPCELL_KERNEL");
  const Choice *chosen = named(wanted ? wanted : "");
  return current.compare_exchange_strong(found, chosen) ? *chosen : *found;
}

}  // namespace

const Kernel *active_kernel() { return choice().kernel; }
const char *active_reason() { return choice().reason; }
void choose_kernel(const std::string &name) { current.store(named(name)); }

}  // namespace gapcell

// What the machine can do: fused multiply-adds in registers, nothing else. Results are given as a share of this.
#pragma once

#include <time.h>

#include "simd.hpp"

namespace gapcell::GAPCELL_ISA {

inline double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// FLOP/s of one thread, the best of short runs that fill `seconds`: other programs may have the core in between.
inline double peak_flops(double seconds) {
  constexpr int kSums = 12, kRepeats = 20000;  // more sums than multiply-adds are under way at once
  double best = 0.0;
  for (const double end = now() + seconds; now() < end;) {
    Vec sums[kSums];
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sums[i] = all(1.0f);
    const Vec a = all(0.999f), b = all(0.001f);
    const double start = now();
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
#pragma GCC unroll 12
      for (int i = 0; i < kSums; ++i) {
        sums[i] = fused(sums[i], a, b);
#if defined(__x86_64__)
        asm volatile("" : "+v"(sums[i]));  // equal sums must not be computed once
#elif defined(__aarch64__)
        asm volatile("" : "+w"(sums[i]));
#endif
      }
    }
    const double flops = 2.0 * kLanes * kSums * kRepeats / (now() - start);
    best = flops > best ? flops : best;
  }
  return best;
}

}  // namespace gapcell::GAPCELL_ISA

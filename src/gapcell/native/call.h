// One checked call: what the instruction-set files read. Plain data only.
//
// The files that are compiled for one instruction set (kernel_*.cpp) must not use the standard library's templates: the
// linker keeps one copy of each for the whole library, and it could keep one that needs AVX-512. So everything they
// need is worked out by the other files and handed over here as pointers.
#pragma once

#include <cstdint>

#include "interface.h"

namespace gapcell {

// Channels are computed in blocks of this many, whatever the vector length: it fixes the layout of what is stored and
// of the gradients of the pre-activations, [block][gate 0..3][16 channels].
constexpr int kBlock = 16;
constexpr int kGates = 4;  // places in a block; the GRU's four are n, r, z and Un * h (see cells.hpp)
constexpr int kBlockGates = kGates * kBlock;  // floats

// Which site reads which, see geometry.h. An entry equal to the number of sites read means "outside".
struct TapTables {
  const int32_t *input;              // [P][taps] input site
  const int32_t *recurrent;          // [P][recurrent taps] site of h_(t-1)
  const int32_t *input_readers;      // [S][taps] output site that reads this input site through this tap
  const int32_t *recurrent_readers;  // [P][reader_taps] likewise; with `wraps` a second half for the window's end
};

// Which steps are computed, and by which thread, see schedule.h.
struct ActiveSteps {
  const int64_t *first;         // [N + 1] sample n's computed steps are steps[first[n]] .. steps[first[n + 1] - 1]
  const int64_t *steps;         // in the order of processing
  const int64_t *samples;       // all samples, by thread, longest first
  const int64_t *thread_first;  // [threads + 1] thread i owns samples[thread_first[i]] .. [thread_first[i + 1] - 1]
  int threads;
  int team;  // so many threads share a thread's samples in forward, site by site; 1: none is shared
};

// What gap="decay" leaves of a state, see decay.h; all NULL where it does not decay.
struct DecayTables {
  const float *left;    // [N][T][padded F] at t, of a state after the last computed step before; where it is asked for
  const float *waited;  // [N][T] the time between the two
  const double *clock;  // [first[n] + n + k] sample n's time at its k-th computed step, and behind these at the end
  const float *rates;   // [padded F], at least 0
};

// Threads that share samples, see threads.h. The work has phases, in each of which everybody claims slices until there
// are none (-1), finishes each, and then waits for those of the others.
class Team;
int claim_slice(Team &team, int64_t phase);
void finish_slice(Team &team);
void wait_for_slices(const Team &team, int64_t phase);

struct Call {
  gapcell_layer layer;
  gapcell_arguments data;

  int64_t N, T, S, P, C, F;  // as in interface.h
  int64_t padded_filters;    // F rounded up to whole blocks
  int64_t blocks;            // padded_filters / kBlock
  int taps, recurrent_taps, reader_taps;

  TapTables tables;
  ActiveSteps active;
  DecayTables decay;

  Team *const *teams;  // [threads] of forward, if active.team > 1
  float *team_c;       // [N][P][padded_filters] c_0 then, and where nothing is stored every c_t

  const float *packed;             // weights for forward, see packing.hpp
  const float *packed_transposed;  // weights for backward
  float *gradients;                // [threads][gradient_floats] partial weight gradients
  int64_t gradient_floats;

  // Inlined always: this class is shared by all instruction sets.
  __attribute__((always_inline)) bool updates(int64_t n, int64_t t, int64_t p) const {
    const auto *u = static_cast<const uint8_t *>(data.update.data);
    if (layer.update_mask == GAPCELL_NO_MASK) return true;
    return layer.update_mask == GAPCELL_STEPS ? u[n * T + t] != 0 : u[(n * T + t) * P + p] != 0;
  }
  __attribute__((always_inline)) int64_t computed_steps(int64_t n) const {
    return active.first[n + 1] - active.first[n];
  }
  // Sample n's time at its k-th computed step; k = -1: at the beginning, k = computed_steps(n): at the end.
  __attribute__((always_inline)) double clock(int64_t n, int64_t k) const {
    return k < 0 ? 0.0 : decay.clock[active.first[n] + n + k];
  }
  __attribute__((always_inline)) const float *left_at(int64_t n, int64_t t) const {
    return decay.left + (n * T + t) * padded_filters;
  }
  // What is left at the end of the state after the last computed step, or NULL: all of it.
  __attribute__((always_inline)) const float *left_at_end(int64_t n) const {
    const int64_t last = layer.reverse ? 0 : T - 1, computed = computed_steps(n);
    if (!decay.left || T == 0 || (computed > 0 && active.steps[active.first[n] + computed - 1] == last)) return nullptr;
    return left_at(n, last);
  }
};

// What a time leaves of a state: [padded F].
void decay_factors(const Call &call, double time, float *left);

// One thread's scratch memory, handed out piece by piece; all of it goes back to the pool at the end of the call.
class Scratch;
void *take_bytes(Scratch &scratch, uint64_t bytes);  // 64-byte aligned, not initialised

// What one instruction set offers.
struct Kernel {
  const char *name;
  int lanes;
  uint64_t (*packed_floats)(const Call &);
  void (*pack)(const Call &, float *packed);
  uint64_t (*transposed_floats)(const Call &);
  void (*pack_transposed)(const Call &, float *packed);
  uint64_t (*gradient_floats)(const Call &);
  void (*forward)(const Call &, int part, Scratch &);  // threads * team parts
  void (*backward)(const Call &, int thread, Scratch &);
  void (*reduce_gradients)(const Call &, int part, int parts);
  double (*peak_flops)(double seconds);
};

extern const Kernel kPortable;
#if defined(GAPCELL_HAS_X86)
extern const Kernel kAvx2;
extern const Kernel kAvx512;
#endif

}  // namespace gapcell

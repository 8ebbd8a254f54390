// Vectors of GAPCELL_LANES floats, through the compiler's vector extensions, so that one text serves AVX-512, AVX2,
// NEON and whatever else the compiler knows.
//
// Included by each kernel_*.cpp, which names its instruction set in GAPCELL_ISA. Everything below that point lives in a
// namespace of that name: the same function compiled for two instruction sets must stay two functions.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define GAPCELL_INLINE static inline __attribute__((always_inline))

namespace gapcell::GAPCELL_ISA {

constexpr int kLanes = GAPCELL_LANES;

typedef float Vec __attribute__((vector_size(4 * GAPCELL_LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * GAPCELL_LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * GAPCELL_LANES)));
typedef float AnyVec __attribute__((vector_size(4 * GAPCELL_LANES), aligned(4), may_alias));
typedef uint16_t AnyHalves __attribute__((vector_size(2 * GAPCELL_LANES), aligned(2), may_alias));

GAPCELL_INLINE Vec load(const float *from) { return *reinterpret_cast<const AnyVec *>(from); }
GAPCELL_INLINE void store(float *to, Vec v) { *reinterpret_cast<AnyVec *>(to) = v; }

GAPCELL_INLINE Vec all(float x) {
#if GAPCELL_LANES == 16
  return _mm512_set1_ps(x);
#elif GAPCELL_LANES == 8
  return _mm256_set1_ps(x);
#else
  return Vec{x, x, x, x};
#endif
}

// a * b + c. Written out, and compiled with -ffp-contract=off, so that no compiler can round one tile height otherwise
// than another: a row's result must not depend on the rows beside it.
GAPCELL_INLINE Vec fused(Vec a, Vec b, Vec c) {
#if GAPCELL_LANES == 16
  return _mm512_fmadd_ps(a, b, c);
#elif GAPCELL_LANES == 8
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

// Both keep NaN in x: where a comparison with NaN is False, x86's minimum and maximum give their second operand.
GAPCELL_INLINE Vec at_most(Vec x, Vec limit) {
#if GAPCELL_LANES == 16
  return _mm512_min_ps(limit, x);
#elif GAPCELL_LANES == 8
  return _mm256_min_ps(limit, x);
#else
  return x > limit ? limit : x;
#endif
}
GAPCELL_INLINE Vec at_least(Vec x, Vec limit) {
#if GAPCELL_LANES == 16
  return _mm512_max_ps(limit, x);
#elif GAPCELL_LANES == 8
  return _mm256_max_ps(limit, x);
#else
  return x < limit ? limit : x;
#endif
}

// The first `count` of a vector's places; what lies behind them is neither read nor written.
GAPCELL_INLINE Vec load_first(const float *from, int64_t count) {
  if (count >= kLanes) return load(from);
  float all_places[kLanes] = {};
  std::memcpy(all_places, from, count * sizeof(float));
  return load(all_places);
}
GAPCELL_INLINE void store_first(float *to, Vec v, int64_t count) {
  if (count >= kLanes) return store(to, v);
  float all_places[kLanes];
  store(all_places, v);
  std::memcpy(to, all_places, count * sizeof(float));
}

// The first `count` places, and zeros.
GAPCELL_INLINE Vec first(Vec v, int64_t count) {
  if (count >= kLanes) return v;
  float all_places[kLanes] = {};
  if (count > 0) store_first(all_places, v, count);
  return load(all_places);
}

// bfloat16 is the upper half of a float.
GAPCELL_INLINE float from_bf16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
GAPCELL_INLINE Vec load_bf16(const uint16_t *from) {
  const Halves halves = *reinterpret_cast<const AnyHalves *>(from);
  return reinterpret_cast<Vec>(__builtin_convertvector(halves, Bits) << 16);
}
// To nearest, ties to even; NaN stays NaN (rounding alone could carry it over into an infinity).
GAPCELL_INLINE void store_bf16(uint16_t *to, Vec v) {
  const Bits bits = reinterpret_cast<Bits>(v);
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits quiet = (bits >> 16) | 0x40;
  const Bits chosen = v == v ? rounded : quiet;
  *reinterpret_cast<AnyHalves *>(to) = __builtin_convertvector(chosen, Halves);
}

}  // namespace gapcell::GAPCELL_ISA

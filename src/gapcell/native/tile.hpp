// The register tile of the forward pass: kTileRows (sample, site) pairs by kLanes channels by four gates.
//
//     for every tap that one of the rows reads            (input convolution, then recurrent convolution)
//       for every channel k of what the tap reads
//         load kLanes weights of each gate                (one contiguous run of the packed panel)
//         for every row: sums[row][gate] += value[row][k] * weights[gate]
//     for every row: activations, c, h                    (in registers: a row owns all gates of its channels)
//
// AVX-512 has 32 registers: 6 x 4 sums, 4 weights, 1 value. AVX2 has 16: 3 x 4 sums, 3-4 others.
//
// One output is always the sum over the same products in the same order, so it does not depend on the other rows of its
// tile, nor on how many there are. A tap that all rows read outside the array is left out; it would have added zeros.
#pragma once

#include "cells.hpp"

namespace gapcell::GAPCELL_ISA {

#if GAPCELL_LANES == 16
constexpr int kTileRows = 6;
#elif GAPCELL_LANES == 8
constexpr int kTileRows = 3;
#elif defined(__aarch64__)
constexpr int kTileRows = 5;
#else
constexpr int kTileRows = 2;
#endif

// The weights of kLanes channels, see packing.hpp.
struct Panel {
  const float *input;      // [taps][C][places of Input][kLanes]
  const float *recurrent;  // [recurrent taps][F][places of Recurrent][kLanes]
  const float *bias;       // [4][kLanes]
};

// The taps that a tile reads, and from where.
struct TileTaps {
  int input_count, recurrent_count;
  const int32_t *taps;          // their numbers: input_count of the one convolution, then those of the other
  const float *const *sources;  // [tap][rows]
};

// sums[row][place] += from[row][k] * weights[k][place], over k.
template <class Run, int Rows>
GAPCELL_INLINE void multiply(const float *const *from, int64_t channels, const float *weights,
                             Vec (&sums)[Rows][kGates]) {
  const float *row[Rows];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) row[i] = from[i];
  for (int64_t k = 0; k < channels; ++k, weights += Run::count * kLanes) {
    Vec w[Run::count];
#pragma GCC unroll 4
    for (int g = 0; g < Run::count; ++g) w[g] = load(weights + g * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const Vec value = all(row[i][k]);
#pragma GCC unroll 4
      for (int g = 0; g < Run::count; ++g) sums[i][Run::first + g] = fused(value, w[g], sums[i][Run::first + g]);
    }
  }
}

// `channel` is the panel's first channel, `left` how many of F there are from it on.
template <class Cell, int Rows>
void forward_tile(const Call &call, const Panel &panel, const TileTaps &taps, const Row *rows, const GateLayout &layout,
                  int64_t channel, int64_t left) {
  Vec sums[Rows][kGates];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int g = 0; g < kGates; ++g) sums[i][g] = all(0.0f);

  const float *const *sources = taps.sources;
  const int32_t *tap = taps.taps;
  for (int j = 0; j < taps.input_count; ++j, ++tap, sources += Rows)
    multiply<typename Cell::Input, Rows>(sources, call.C, panel.input + *tap * call.C * Cell::Input::count * kLanes,
                                         sums);
  for (int j = 0; j < taps.recurrent_count; ++j, ++tap, sources += Rows)
    multiply<typename Cell::Recurrent, Rows>(sources, call.F,
                                             panel.recurrent + *tap * call.F * Cell::Recurrent::count * kLanes, sums);
  // Two loops: the activations of all rows wait for nothing but their sums, so many are under way at once.
#pragma GCC unroll 1
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int g = 0; g < kGates; ++g) sums[i][g] += load(panel.bias + g * kLanes);
    Cell::activate(sums[i]);
  }
#pragma GCC unroll 1
  for (int i = 0; i < Rows; ++i) Cell::forward(sums[i], rows[i], layout, channel, left);
}

// The tile of a height up to kTileRows.
template <class Cell, int Rows = kTileRows>
void forward_tile_of(int height, const Call &call, const Panel &panel, const TileTaps &taps, const Row *rows,
                     const GateLayout &layout, int64_t channel, int64_t left) {
  if constexpr (Rows > 1)
    if (height < Rows) return forward_tile_of<Cell, Rows - 1>(height, call, panel, taps, rows, layout, channel, left);
  forward_tile<Cell, Rows>(call, panel, taps, rows, layout, channel, left);
}

}  // namespace gapcell::GAPCELL_ISA

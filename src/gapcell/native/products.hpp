// Backward through a convolution to what it read: every row (a state or a pixel) gathers, from the sites that read it,
// their gate gradients times the transposed weights.
//
//     for every few vectors of channels ("columns"), for every tap, for every tile of rows
//       for every gate gradient k of the reading site
//         sums[row][column] += gradient[row][k] * weights[k][column]
//       add the sums to where the rows' gradients are collected
//
// A tap's weights are used for all rows before the next tap's are read. Gathered, not scattered: no two rows write to
// the same place, and the order of a row's sums is fixed.
#pragma once

#include "rows.hpp"

namespace gapcell::GAPCELL_ISA {

// Rows of a tile of so many columns that the sums fill the registers.
constexpr int product_rows(int columns) {
#if GAPCELL_LANES == 16
  return columns == 1 ? 12 : 24 / columns;
#elif GAPCELL_LANES == 8
  return columns == 1 ? 8 : 6;
#else
  return columns == 1 ? 8 : 4;
#endif
}
constexpr int kRowUnit = 24;  // a multiple of all of them

// The gate gradients of one step or several: [block][row][place][16], so that a block of all rows is one dense matrix.
struct GateGradients {
  float *data;
  int64_t block_stride;  // floats

  float *row(int64_t r) const { return data + r * kBlockGates; }
};

struct ProductTile {
  const float *const *sources;  // a row of GateGradients for every row of the tile, at the first place wanted
  float *const *to;
  const float *const *scales;  // NULL, or F values for every row
};

template <int Columns, int PerBlock>
void product_tile(const ProductTile &tile, int64_t blocks, int64_t block_stride, const float *weights, int64_t channel,
                  int64_t width) {
  constexpr int Rows = product_rows(Columns);
  Vec sums[Rows][Columns];
#pragma GCC unroll 12
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < Columns; ++v) sums[i][v] = all(0.0f);
  for (int64_t block = 0; block < blocks; ++block) {
    const float *row[Rows];
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) row[i] = tile.sources[i] + block * block_stride;
    for (int k = 0; k < PerBlock; ++k, weights += Columns * kLanes) {
      Vec w[Columns];
#pragma GCC unroll 4
      for (int v = 0; v < Columns; ++v) w[v] = load(weights + v * kLanes);
#pragma GCC unroll 12
      for (int i = 0; i < Rows; ++i) {
        const Vec value = all(row[i][k]);
#pragma GCC unroll 4
        for (int v = 0; v < Columns; ++v) sums[i][v] = fused(value, w[v], sums[i][v]);
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < Columns; ++v) {
      const int64_t first = channel + v * kLanes;
      if (tile.scales) sums[i][v] *= load_first(tile.scales[i] + first, width - first);
      store(tile.to[i] + first, load(tile.to[i] + first) + sums[i][v]);
    }
}

// Collects rows, then computes them together. `Run` are the gate places that the convolution fed.
//
// Every tap has a list of its own, of the rows that someone reads through it: borders, held sites and steps that are
// not computed cost nothing.
template <class Run>
class GatheredProducts {
 public:
  GatheredProducts(const Call &call, Scratch &scratch, int reader_taps, const GateGradients &gradients,
                   const float *zero_row, int64_t width, bool scaled)
      : gradients_(gradients),
        zero_(zero_row + Run::first * kBlock),
        blocks_(call.blocks),
        reader_taps_(reader_taps),
        most_(most(2, least(32, 131072 / (int64_t{16} * kRowUnit * reader_taps))) * kRowUnit),
        counts_(take<int64_t>(scratch, reader_taps)),
        sources_(take<const float *>(scratch, reader_taps * most_)),
        to_(take<float *>(scratch, reader_taps * most_)),
        scales_(scaled ? take<const float *>(scratch, reader_taps * most_) : nullptr),
        nowhere_(take<float>(scratch, vectors(width) * kLanes)) {
    std::memset(counts_, 0, reader_taps * sizeof(int64_t));
    std::memset(nowhere_, 0, vectors(width) * kLanes * sizeof(float));
  }

  // `readers` are the row's entries of a readers table; `rows` has for every site its row of gate gradients. With no
  // room for another row, `run` must come first.
  bool full() const { return rows_ == most_; }
  void add(const int32_t *readers, const float *const *rows, float *to, const float *scale) {
    for (int j = 0; j < reader_taps_; ++j) {
      const float *source = rows[readers[j]] + Run::first * kBlock;
      if (source == zero_) continue;
      const int64_t place = j * most_ + counts_[j]++;
      sources_[place] = source;
      to_[place] = to;
      if (scales_) scales_[place] = scale;
    }
    ++rows_;
  }

  void run(const Transposed &weights) {
    for (int64_t channel = 0; channel < weights.width;) {
      const int columns = columns_from(channel, weights.width);
      for (int j = 0; j < reader_taps_; ++j)
        run_tap<kMostColumns>(columns, j, weights.slab(channel, columns, j % weights.taps), channel, weights.width);
      channel += columns * kLanes;
    }
    std::memset(counts_, 0, reader_taps_ * sizeof(int64_t));
    rows_ = 0;
  }

 private:
  template <int Columns>
  void run_tap(int columns, int tap, const float *weights, int64_t channel, int64_t width) {
    if constexpr (Columns > 1)
      if (columns < Columns) return run_tap<Columns - 1>(columns, tap, weights, channel, width);
    constexpr int height = product_rows(Columns);
    const int64_t start = tap * most_;
    // The last tile is made whole with rows of zeros, which are added to nowhere.
    for (int64_t r = counts_[tap]; r % height; ++r) {
      sources_[start + r] = zero_;
      to_[start + r] = nowhere_;
      if (scales_) scales_[start + r] = scales_[start];
    }
    for (int64_t first = start; first < start + counts_[tap]; first += height) {
      const ProductTile tile{sources_ + first, to_ + first, scales_ ? scales_ + first : nullptr};
      product_tile<Columns, Run::count * kBlock>(tile, blocks_, gradients_.block_stride, weights, channel, width);
    }
  }

  const GateGradients gradients_;
  const float *zero_;
  const int64_t blocks_;
  const int reader_taps_;
  const int64_t most_;
  int64_t *counts_;
  const float **sources_;  // [tap][most]
  float **to_;
  const float **scales_;
  float *nowhere_;
  int64_t rows_ = 0;
};

}  // namespace gapcell::GAPCELL_ISA

// From (sample, site) pairs to the pointers that tiles read.
//
// Every pixel of x~ and every state h_(t-1) is reached through a table of pointers, one per site and one more, which is
// a row of zeros: what lies outside the array, what is masked, and a state that was never updated all point there. So
// rank, dilation, stride and gaps cost nothing inside the tile, and products with known zeros can be left out.
#pragma once

#include "packing.hpp"
#include "tile.hpp"

namespace gapcell::GAPCELL_ISA {

template <class T>
GAPCELL_INLINE T *take(Scratch &scratch, int64_t count) {
  return static_cast<T *>(take_bytes(scratch, count * sizeof(T)));
}
GAPCELL_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
GAPCELL_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

GAPCELL_INLINE const float *zeros(Scratch &scratch, int64_t count) {
  float *row = take<float>(scratch, count);
  std::memset(row, 0, count * sizeof(float));
  return row;
}

// x~ of eq. (2), as pointers. What is not observed is never read: NaN there has no effect.
struct InputRows {
  const Call &call;
  const float *zero;

  // Whether rows must be copied: cast, or partly masked. Then `copies` below is S * C floats, else it is not used.
  static bool copies_needed(const Call &call) {
    return call.layer.x_type == GAPCELL_BF16 || call.layer.observed_mask == GAPCELL_ELEMENTS;
  }

  // The S + 1 pointers of one step.
  void find(int64_t n, int64_t t, const float **rows, float *copies) const {
    const auto *observed = static_cast<const uint8_t *>(call.data.observed.data);
    const int64_t step = n * call.T + t, S = call.S, C = call.C;
    rows[S] = zero;
    if (call.layer.observed_mask == GAPCELL_STEPS && !observed[step]) {
      for (int64_t s = 0; s < S; ++s) rows[s] = zero;
      return;
    }
    for (int64_t s = 0; s < S; ++s) {
      const int64_t site = step * S + s;
      if (call.layer.observed_mask == GAPCELL_SITES && !observed[site]) {
        rows[s] = zero;
      } else if (call.layer.observed_mask == GAPCELL_ELEMENTS) {
        rows[s] = some(observed + site * C, site, copies + s * C);
      } else {
        rows[s] = whole(site, copies + s * C);
      }
    }
  }

 private:
  const float *whole(int64_t site, float *copy) const {
    if (call.layer.x_type == GAPCELL_FP32) return static_cast<const float *>(call.data.x.data) + site * call.C;
    for (int64_t c = 0; c < call.C; ++c) copy[c] = value(site, c);
    return copy;
  }

  const float *some(const uint8_t *observed, int64_t site, float *copy) const {
    int64_t count = 0;
    for (int64_t c = 0; c < call.C; ++c) count += observed[c] != 0;
    if (count == 0) return zero;
    if (count == call.C) return whole(site, copy);
    for (int64_t c = 0; c < call.C; ++c) copy[c] = observed[c] ? value(site, c) : 0.0f;
    return copy;
  }

  float value(int64_t site, int64_t c) const {
    if (call.layer.x_type == GAPCELL_FP32) return static_cast<const float *>(call.data.x.data)[site * call.C + c];
    return from_bf16(static_cast<const uint16_t *>(call.data.x.data)[site * call.C + c]);
  }
};

// The dropout scale on h_(t-1) at one site, F values.
GAPCELL_INLINE const float *recurrent_scale(const Call &call, int64_t n, int64_t p) {
  const auto *scale = static_cast<const float *>(call.data.recurrent_scale.data);
  return scale + (call.layer.recurrent_scale == GAPCELL_SITES ? n * call.P + p : n) * call.F;
}

// Output sites from `first` to just before `last`.
struct Sites {
  int64_t first, last;
};

// A pair that steps: the thread's q-th sample, output site p.
struct Pair {
  int32_t q, p;
};

// The pairs of one step, site by site: rows that read the same taps stand together, so that whole tiles can leave out
// the taps that lie outside. `samples[q]` steps at `steps[q]`.
GAPCELL_INLINE int64_t find_pairs(const Call &call, const int64_t *samples, const int64_t *steps, int64_t count,
                                  Sites sites, Pair *pairs) {
  int64_t found = 0;
  for (int64_t p = sites.first; p < sites.last; ++p)
    for (int64_t q = 0; q < count; ++q)
      if (call.updates(samples[q], steps[q], p)) pairs[found++] = {static_cast<int32_t>(q), static_cast<int32_t>(p)};
  return found;
}

// The pointers of a few tiles at a time, few enough that they stay in the first-level cache.
class TileTable {
 public:
  TileTable(const Call &call, Scratch &scratch, const float *zero)
      : call_(call),
        zero_(zero),
        taps_(call.taps + call.recurrent_taps),
        most_(most(4, least(64, 65536 / (taps_ * kTileRows * 8)))),
        tiles_(take<TileTaps>(scratch, most_)),
        numbers_(take<int32_t>(scratch, most_ * taps_)),
        sources_(take<const float *>(scratch, most_ * taps_ * kTileRows)) {}

  int64_t most_rows() const { return most_ * kTileRows; }
  const TileTaps &operator[](int64_t tile) const { return tiles_[tile]; }

  // `inputs` has S + 1 pointers per sample, `states` P + 1: h_(t-1) as the recurrent convolution reads it.
  void fill(const Pair *pairs, int64_t count, const float *const *inputs, const float *const *states) {
    for (int64_t first = 0; first < count; first += kTileRows) {
      const int64_t tile = first / kTileRows, height = least(kTileRows, count - first);
      int32_t *numbers = numbers_ + tile * taps_;
      const float **sources = sources_ + tile * taps_ * kTileRows;
      TileTaps &taps = tiles_[tile];
      taps.taps = numbers;
      taps.sources = sources;
      taps.input_count =
          fill_taps(pairs + first, height, call_.tables.input, call_.taps, inputs, call_.S + 1, numbers, sources);
      taps.recurrent_count = fill_taps(pairs + first, height, call_.tables.recurrent, call_.recurrent_taps, states,
                                       call_.P + 1, numbers, sources);
    }
  }

 private:
  // Adds the taps that any of the rows reads; moves `numbers` and `sources` behind them and gives their count.
  int fill_taps(const Pair *pairs, int64_t height, const int32_t *table, int taps, const float *const *rows,
                int64_t stride, int32_t *&numbers, const float **&sources) const {
    int count = 0;
    for (int j = 0; j < taps; ++j) {
      bool any = false;
      for (int64_t i = 0; i < height; ++i) {
        const float *source = rows[pairs[i].q * stride + table[pairs[i].p * taps + j]];
        sources[i] = source;
        any |= source != zero_;
      }
      if (!any) continue;
      *numbers++ = j;
      sources += height;
      ++count;
    }
    return count;
  }

  const Call &call_;
  const float *zero_;
  const int64_t taps_, most_;
  TileTaps *tiles_;
  int32_t *numbers_;
  const float **sources_;
};

// Runs the forward tile over rows that a TileTable describes, panel by panel: all of the table's tiles use a panel
// before the next is read.
template <class Cell>
void run_tiles(const Call &call, const TileTable &table, const Row *rows, int64_t count, const GateLayout &layout) {
  for (int64_t channel = 0; channel < call.F; channel += kLanes) {
    const Panel panel = ForwardPacking<Cell>::panel(call, channel);
    for (int64_t first = 0; first < count; first += kTileRows)
      forward_tile_of<Cell>(static_cast<int>(least(kTileRows, count - first)), call, panel, table[first / kTileRows],
                            rows + first, layout, channel, call.F - channel);
  }
}

// What forward stores for backward: first c, [computed step][P][padded F], then the gates, [computed step][P][4 padded
// F].
struct Stored {
  float *c;
  char *gates;
  int64_t gate_bytes;  // of one value; 0: no gates

  static Stored of(const Call &call) {
    const int64_t pairs = call.active.first[call.N] * call.P * call.padded_filters;
    const int64_t c_values = call.layer.cell == GAPCELL_LSTM ? pairs : 0;
    const int store = call.layer.store;
    char *start = static_cast<char *>(call.data.stored.data);
    return {reinterpret_cast<float *>(start), start + c_values * sizeof(float),
            store == GAPCELL_STORE_FP32   ? 4
            : store == GAPCELL_STORE_BF16 ? 2
                                          : 0};
  }
  // `pair` is computed step * P + site.
  float *c_of(const Call &call, int64_t pair) const { return c + pair * call.padded_filters; }
  void *gates_of(const Call &call, int64_t pair) const {
    return gate_bytes ? gates + pair * kGates * call.padded_filters * gate_bytes : nullptr;
  }
  GateLayout layout() const { return {gate_bytes == 2, kBlockGates}; }
};

}  // namespace gapcell::GAPCELL_ISA

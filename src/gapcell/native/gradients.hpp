// Gradients of the weights: for every tap, the outer products of what the tap read and the gate gradients, summed over
// pairs. Each thread sums its own pairs into its own buffer; the buffers are added in a fixed order when all are done.
//
// Pairs of several steps are collected first, so that the sums stay in registers for many of them:
//
//     for every tap, for every tile of channels m read
//       copy the channels of all collected pairs side by side        [pair][m], first-level cache
//       for every block of 16 gate channels, for every collected pair
//         sums[m][gate channel] += read[pair][m] * gradient[pair][gate channel]
//       add the sums to the buffer                                    [tap][tile of m][block][m][place][16]
//
// Sums start at zero for every collection: a chain over all pairs of a large batch would lose digits.
#pragma once

#include "products.hpp"

namespace gapcell::GAPCELL_ISA {

// Collected pairs from `first` to just before `last` whose tap lies inside.
struct Span {
  int32_t first, last;
};

template <class Run>
struct Outer {
  static constexpr int width = Run::count * kBlock;  // gate gradients of a block
  static constexpr int columns = kMostColumns < width / kLanes ? kMostColumns : width / kLanes;
  static constexpr int rows = product_rows(columns);

  static int64_t floats(const Call &call, int64_t taps, int64_t channels) {
    return taps * tiles(channels) * call.blocks * rows * width;
  }
  static int64_t tiles(int64_t channels) { return (channels + rows - 1) / rows; }
  static int64_t offset(const Call &call, int64_t channels, int64_t tap, int64_t tile, int64_t block) {
    return ((tap * tiles(channels) + tile) * call.blocks + block) * rows * width;
  }
};

template <int Rows, int Columns, int Width>
GAPCELL_INLINE void outer_tile(const float *read, const Span *spans, int64_t span_count, const float *gates,
                               float *to) {
  Vec sums[Rows][Columns];
#pragma GCC unroll 12
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < Columns; ++v) sums[i][v] = all(0.0f);
  for (int64_t s = 0; s < span_count; ++s) {
    const float *gate = gates + spans[s].first * int64_t{kBlockGates};
    for (int64_t r = spans[s].first; r < spans[s].last; ++r, gate += kBlockGates, read += Rows) {
      Vec g[Columns];
#pragma GCC unroll 4
      for (int v = 0; v < Columns; ++v) g[v] = load(gate + v * kLanes);
#pragma GCC unroll 12
      for (int i = 0; i < Rows; ++i) {
        const Vec value = all(read[i]);
#pragma GCC unroll 4
        for (int v = 0; v < Columns; ++v) sums[i][v] = fused(value, g[v], sums[i][v]);
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < Columns; ++v) {
      float *place = to + i * Width + v * kLanes;
      store(place, load(place) + sums[i][v]);
    }
}

// One convolution's share. At most `most` pairs are collected at a time.
template <class Run>
class OuterProducts {
 public:
  OuterProducts(const Call &call, Scratch &scratch, int64_t taps, int64_t channels, int64_t most, const float *zero,
                const GateGradients &gradients, float *to)
      : call_(call),
        taps_(taps),
        channels_(channels),
        most_(most),
        zero_(zero),
        gradients_(gradients),
        to_(to),
        sources_(take<const float *>(scratch, taps * most)),
        read_(take<float>(scratch, most * Outer<Run>::rows)),
        spans_(take<Span>(scratch, most)) {}

  // What the r-th of the collected pairs reads: by `table`, from `rows`.
  void add(int64_t r, const int32_t *table, const float *const *rows) {
    for (int64_t j = 0; j < taps_; ++j) sources_[j * most_ + r] = rows[table[j]];
  }

  // Their gate gradients are the rows from `first_row` on.
  void run(int64_t count, int64_t first_row) {
    first_gate_ = gradients_.row(first_row);
    for (int64_t tap = 0; tap < taps_; ++tap) {
      const float *const *sources = sources_ + tap * most_;
      const int64_t spans = find_spans(sources, count);
      if (spans == 0) continue;
      for (int64_t m = 0; m < channels_; m += Outer<Run>::rows)
        run_rows<Outer<Run>::rows>(least(Outer<Run>::rows, channels_ - m), sources, spans, tap, m);
    }
  }

 private:
  int64_t find_spans(const float *const *sources, int64_t count) {
    int64_t found = 0;
    for (int64_t r = 0; r < count; ++r) {
      if (sources[r] == zero_) continue;
      if (found && spans_[found - 1].last == r) {
        ++spans_[found - 1].last;
      } else {
        spans_[found++] = {static_cast<int32_t>(r), static_cast<int32_t>(r + 1)};
      }
    }
    return found;
  }

  template <int Rows>
  void run_rows(int64_t height, const float *const *sources, int64_t spans, int64_t tap, int64_t m) {
    if constexpr (Rows > 1)
      if (height < Rows) return run_rows<Rows - 1>(height, sources, spans, tap, m);
    using Layout = Outer<Run>;
    float *read = read_;
    for (int64_t s = 0; s < spans; ++s)
      for (int64_t r = spans_[s].first; r < spans_[s].last; ++r, read += Rows)
#pragma GCC unroll 12
        for (int i = 0; i < Rows; ++i) read[i] = sources[r][m + i];
    for (int64_t block = 0; block < call_.blocks; ++block) {
      float *to = to_ + Layout::offset(call_, channels_, tap, m / Layout::rows, block);
      const float *gates = first_gate_ + block * gradients_.block_stride + Run::first * kBlock;
      constexpr int step = Layout::columns * kLanes;
      for (int column = 0; column < Layout::width; column += step)
        outer_tile<Rows, Layout::columns, Layout::width>(read_, spans_, spans, gates + column, to + column);
    }
  }

  const Call &call_;
  const int64_t taps_, channels_, most_;
  const float *zero_;
  const GateGradients gradients_;
  float *to_;
  const float **sources_;
  float *read_;
  Span *spans_;
  const float *first_gate_ = nullptr;
};

// A thread's buffer: input products, recurrent products, bias [block][place][16], rates [padded F].
template <class Cell>
struct GradientBuffer {
  using Input = Outer<typename Cell::Input>;
  using Recurrent = Outer<typename Cell::Recurrent>;

  static int64_t input_floats(const Call &call) { return Input::floats(call, call.taps, call.C); }
  static int64_t recurrent_floats(const Call &call) { return Recurrent::floats(call, call.recurrent_taps, call.F); }
  static uint64_t floats(const Call &call) {
    return input_floats(call) + recurrent_floats(call) + call.blocks * kBlockGates + call.padded_filters;
  }
  static float *rates(const Call &call, float *buffer) { return bias(call, buffer) + call.blocks * kBlockGates; }
  static float *bias(const Call &call, float *buffer) { return buffer + input_floats(call) + recurrent_floats(call); }

  // Adds the threads' buffers, thread 0's first, and writes the arrays that are wanted. Parts share the rows.
  static void reduce(const Call &call, int part, int parts) {
    auto *kernel = static_cast<float *>(call.data.dkernel.data);
    auto *recurrent = static_cast<float *>(call.data.drecurrent_kernel.data);
    if (kernel) reduce_rows<typename Cell::Input>(call, 0, call.taps, call.C, kernel, part, parts);
    if (recurrent)
      reduce_rows<typename Cell::Recurrent>(call, input_floats(call), call.recurrent_taps, call.F, recurrent, part,
                                            parts);
    if (part == 0) reduce_bias(call);
    if (part == 0) reduce_rates(call);
  }

 private:
  static float sum(const Call &call, int64_t offset) {
    float total = 0.0f;
    for (int i = 0; i < call.active.threads; ++i) total += call.gradients[i * call.gradient_floats + offset];
    return total;
  }

  template <class Run>
  static void reduce_rows(const Call &call, int64_t start, int64_t taps, int64_t channels, float *to, int part,
                          int parts) {
    using Layout = Outer<Run>;
    const int64_t columns = Run::count * call.F, rows = taps * channels;
    for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row) {
      const int64_t tap = row / channels, m = row % channels;
      for (int g = 0; g < Run::count; ++g)
        for (int64_t f = 0; f < call.F; ++f) {
          const int64_t tile = start + Layout::offset(call, channels, tap, m / Layout::rows, f / kBlock);
          const int64_t place = m % Layout::rows * Layout::width + g * kBlock + f % kBlock;
          to[row * columns + Run::gate[g] * call.F + f] = sum(call, tile + place);
        }
    }
  }

  // A rate below 0 counts as 0 and has no slope.
  static void reduce_rates(const Call &call) {
    auto *to = static_cast<float *>(call.data.drates.data);
    const auto *rates = static_cast<const float *>(call.data.rates.data);
    const int64_t start = static_cast<int64_t>(floats(call)) - call.padded_filters;
    for (int64_t f = 0; to && f < call.F; ++f) to[f] = rates[f] < 0.0f ? 0.0f : sum(call, start + f);
  }

  static void reduce_bias(const Call &call) {
    auto *bias = static_cast<float *>(call.data.dbias.data);
    auto *recurrent = static_cast<float *>(call.data.drecurrent_bias.data);
    const int64_t start = input_floats(call) + recurrent_floats(call);
    for (int g = 0; g < kGates; ++g)
      for (int64_t f = 0; f < call.F; ++f) {
        const float total = sum(call, start + f / kBlock * kBlockGates + g * kBlock + f % kBlock);
        if (g == Cell::recurrent_bias_place) {
          if (recurrent) recurrent[f] = total;
        } else if (bias) {
          bias[Cell::bias_gate[g] * call.F + f] = total;
        }
      }
  }
};

}  // namespace gapcell::GAPCELL_ISA

// Weights in the order in which the tiles read them.
//
// Forward, one panel for every kLanes channels of a gate (F padded with zeros to whole vectors):
//
//     [panel]  [taps * C][places of Input][kLanes]  [recurrent taps * F][places of Recurrent][kLanes]  [4][kLanes] bias
//
// so that the four gates of kLanes channels are produced together. Backward, the transpose, one slab for every tap of
// every few vectors ("columns") of the channels that the gradient arrives at:
//
//     [columns]  [tap]  [block of 16 channels][place][16][columns * kLanes]
//
// so that a row of gate gradients, which lies as [block][place][16], is read from front to back.
#pragma once

#include "cells.hpp"
#include "tile.hpp"

namespace gapcell::GAPCELL_ISA {

GAPCELL_INLINE int64_t vectors(int64_t channels) { return (channels + kLanes - 1) / kLanes; }

// A weight array of either type, [rows][gates * F].
struct Weights {
  const void *data;
  bool bf16;
  int64_t width;

  float at(int64_t row, int64_t column) const {
    if (bf16) return from_bf16(static_cast<const uint16_t *>(data)[row * width + column]);
    return static_cast<const float *>(data)[row * width + column];
  }
  // kLanes weights from a column on, zeros behind the first `count`.
  Vec vector(int64_t row, int64_t column, int64_t count) const {
    if (!bf16) return load_first(static_cast<const float *>(data) + row * width + column, count);
    float values[kLanes] = {};
    for (int64_t i = 0; i < count && i < kLanes; ++i) values[i] = at(row, column + i);
    return load(values);
  }
};

GAPCELL_INLINE Weights weights_of(const Call &call, const gapcell_buffer &buffer) {
  const int64_t gates = call.layer.cell == GAPCELL_LSTM ? 4 : 3;
  return {buffer.data, call.layer.weight_type == GAPCELL_BF16, gates * call.F};
}

// Forward
// ---------------------------------------------------------------------------------------------------------------

template <class Cell>
struct ForwardPacking {
  static int64_t input_floats(const Call &call) { return call.taps * call.C * Cell::Input::count * kLanes; }
  static int64_t recurrent_floats(const Call &call) {
    return call.recurrent_taps * call.F * Cell::Recurrent::count * kLanes;
  }
  static int64_t panel_floats(const Call &call) {
    return input_floats(call) + recurrent_floats(call) + kGates * kLanes;
  }
  static uint64_t floats(const Call &call) { return vectors(call.F) * panel_floats(call); }

  static Panel panel(const Call &call, int64_t channel) {
    const float *start = call.packed + channel / kLanes * panel_floats(call);
    return {start, start + input_floats(call), start + input_floats(call) + recurrent_floats(call)};
  }

  static void pack(const Call &call, float *to) {
    const Weights input = weights_of(call, call.data.kernel), recurrent = weights_of(call, call.data.recurrent_kernel);
    for (int64_t channel = 0; channel < call.F; channel += kLanes) {
      to = pack_rows<typename Cell::Input>(input, call.taps * call.C, call.F, channel, to);
      to = pack_rows<typename Cell::Recurrent>(recurrent, call.recurrent_taps * call.F, call.F, channel, to);
      to = pack_bias(call, channel, to);
    }
  }

 private:
  template <class Run>
  static float *pack_rows(const Weights &from, int64_t rows, int64_t F, int64_t channel, float *to) {
    for (int64_t row = 0; row < rows; ++row)
      for (int g = 0; g < Run::count; ++g, to += kLanes)
        store(to, from.vector(row, Run::gate[g] * F + channel, F - channel));
    return to;
  }

  static float *pack_bias(const Call &call, int64_t channel, float *to) {
    const Weights bias = weights_of(call, call.data.bias), recurrent = weights_of(call, call.data.recurrent_bias);
    for (int g = 0; g < kGates; ++g, to += kLanes) {
      Vec v = all(0.0f);
      if (g == Cell::recurrent_bias_place) {
        if (recurrent.data) v = recurrent.vector(0, channel, call.F - channel);
      } else if (bias.data) {
        v = bias.vector(0, Cell::bias_gate[g] * call.F + channel, call.F - channel);
      }
      store(to, v);
    }
    return to;
  }
};

// Backward
// --------------------------------------------------------------------------------------------------------------

#if GAPCELL_LANES == 16
constexpr int kMostColumns = 4;  // vectors of a product tile
#else
constexpr int kMostColumns = 2;
#endif

// The transpose of one convolution's weights.
struct Transposed {
  const float *data;
  int64_t width;  // channels the gradient arrives at
  int64_t taps;
  int64_t depth;  // products a tap adds: blocks * places * 16

  // The slab of a tap, for `columns` vectors from channel `channel` on.
  const float *slab(int64_t channel, int columns, int64_t tap) const {
    return data + channel * taps * depth + tap * depth * columns * kLanes;
  }
};

GAPCELL_INLINE int columns_from(int64_t channel, int64_t width) {
  const int64_t left = vectors(width - channel);
  return static_cast<int>(left < kMostColumns ? left : kMostColumns);
}

template <class Cell>
struct TransposedPacking {
  static int64_t depth(const Call &call, int places) { return call.blocks * places * kBlock; }
  static int64_t input_floats(const Call &call) {
    return vectors(call.C) * kLanes * call.taps * depth(call, Cell::Input::count);
  }
  static int64_t recurrent_floats(const Call &call) {
    return vectors(call.F) * kLanes * call.recurrent_taps * depth(call, Cell::Recurrent::count);
  }
  static uint64_t floats(const Call &call) {
    return recurrent_floats(call) + (call.data.dx.data ? input_floats(call) : 0);
  }

  static Transposed recurrent(const Call &call) {
    return {call.packed_transposed, call.F, call.recurrent_taps, depth(call, Cell::Recurrent::count)};
  }
  static Transposed input(const Call &call) {
    return {call.packed_transposed + recurrent_floats(call), call.C, call.taps, depth(call, Cell::Input::count)};
  }

  static void pack(const Call &call, float *to) {
    to = pack_all<typename Cell::Recurrent>(call, weights_of(call, call.data.recurrent_kernel), call.F,
                                            call.recurrent_taps, to);
    if (call.data.dx.data)
      pack_all<typename Cell::Input>(call, weights_of(call, call.data.kernel), call.C, call.taps, to);
  }

 private:
  template <class Run>
  static float *pack_all(const Call &call, const Weights &from, int64_t width, int64_t taps, float *to) {
    for (int64_t channel = 0; channel < width;) {
      const int64_t columns = columns_from(channel, width) * kLanes;
      for (int64_t tap = 0; tap < taps; ++tap) {
        pack_slab<Run>(call, from, tap * width + channel, width - channel, columns, to);
        to += call.blocks * Run::count * kBlock * columns;
      }
      channel += columns;
    }
    return to;
  }

  // Read along the rows of `from`, which are contiguous, and written across.
  template <class Run>
  static void pack_slab(const Call &call, const Weights &from, int64_t row, int64_t rows, int64_t columns, float *to) {
    for (int64_t v = 0; v < columns; ++v)
      for (int64_t block = 0; block < call.blocks; ++block)
        for (int g = 0; g < Run::count; ++g)
          for (int64_t i = 0; i < kBlock; ++i) {
            const int64_t channel = block * kBlock + i;
            const bool inside = v < rows && channel < call.F;
            to[((block * Run::count + g) * kBlock + i) * columns + v] =
                inside ? from.at(row + v, Run::gate[g] * call.F + channel) : 0.0f;
          }
  }
};

}  // namespace gapcell::GAPCELL_ISA

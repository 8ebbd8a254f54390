// The two cells: which gates a pre-activation holds, and one step of eq. (7) and (8), forward and backward.
//
// Both have four places in the registers. The GRU's second n keeps Un * h apart from Wn * x, since the reset gate
// multiplies it; so its input products go to the places 0..2 and its recurrent products to 1..3, and each is one
// contiguous run.
//
//     place      0    1    2    3
//     LSTM       i    f    g    o      input and recurrent products in all four
//     GRU        n    r    z    Un*h   input products in 0..2, recurrent ones in 1..3
#pragma once

#include "activations.hpp"
#include "call.h"

namespace gapcell::GAPCELL_ISA {

// A run of places, and the gate (block of F columns of the weights) that each holds.
template <int First, int Count, int... Gate>
struct Places {
  static constexpr int first = First;
  static constexpr int count = Count;
  static constexpr int gate[Count] = {Gate...};
};

// One (sample, site) pair of a forward step. Pointers are to channel 0.
struct Row {
  float *h;               // h_t, F channels; NULL: only the gates are wanted
  const float *h_before;  // h_(t-1), F channels; read by the GRU
  const float *c_before;  // c_(t-1), padded to whole blocks; LSTM
  float *c;               // c_t, likewise
  void *gates;            // places 0..3 of block 0, or NULL
};

// How a row's gates lie in memory: [block][place][16 channels].
struct GateLayout {
  bool bf16;
  int64_t block_stride;  // values from one block to the next
};

GAPCELL_INLINE int64_t gate_offset(const GateLayout &layout, int64_t channel, int place) {
  return channel / kBlock * layout.block_stride + place * kBlock + channel % kBlock;
}
GAPCELL_INLINE void store_gate(const GateLayout &layout, void *gates, int64_t channel, int place, Vec v) {
  const int64_t offset = gate_offset(layout, channel, place);
  if (layout.bf16) return store_bf16(static_cast<uint16_t *>(gates) + offset, v);
  store(static_cast<float *>(gates) + offset, v);
}
GAPCELL_INLINE Vec load_gate(const GateLayout &layout, const void *gates, int64_t channel, int place) {
  const int64_t offset = gate_offset(layout, channel, place);
  if (layout.bf16) return load_bf16(static_cast<const uint16_t *>(gates) + offset);
  return load(static_cast<const float *>(gates) + offset);
}

// One pair of a backward step; channels as in Row.
struct BackwardRow {
  const void *gates;      // as Row's
  const float *h_before;  // GRU
  const float *c_before;  // LSTM
  const float *dhs;       // cotangent of this h_t as an output, F channels, or NULL
  float *dh;              // from after the step to before it, but for what the recurrent convolution carries back
  float *dc;              // likewise; LSTM
};

struct Lstm {
  using Input = Places<0, 4, 0, 1, 2, 3>;
  using Recurrent = Places<0, 4, 0, 1, 2, 3>;
  static constexpr int bias_gate[kGates] = {0, 1, 2, 3};
  static constexpr bool has_c = true;
  static constexpr int recurrent_bias_place = -1;

  // Pre-activations to gates.
  GAPCELL_INLINE void activate(Vec (&z)[kGates]) {
    z[0] = sigmoid(z[0]);
    z[1] = sigmoid(z[1]);
    z[2] = tanh(z[2]);
    z[3] = sigmoid(z[3]);
  }

  GAPCELL_INLINE void forward(const Vec (&z)[kGates], const Row &row, const GateLayout &layout, int64_t channel,
                              int64_t left) {
    const Vec i = z[0], f = z[1], g = z[2], o = z[3];
    if (row.gates) {
      store_gate(layout, row.gates, channel, 0, i);
      store_gate(layout, row.gates, channel, 1, f);
      store_gate(layout, row.gates, channel, 2, g);
      store_gate(layout, row.gates, channel, 3, o);
    }
    if (!row.h) return;
    const Vec c = fused(f, load(row.c_before + channel), i * g);
    store(row.c + channel, c);
    store_first(row.h + channel, o * tanh(c), left);
  }

  // The gradients of the pre-activations, by the chain rule of eq. (7).
  GAPCELL_INLINE void backward(Vec (&dz)[kGates], const BackwardRow &row, const GateLayout &layout, int64_t channel,
                               int64_t left) {
    const Vec i = load_gate(layout, row.gates, channel, 0), f = load_gate(layout, row.gates, channel, 1);
    const Vec g = load_gate(layout, row.gates, channel, 2), o = load_gate(layout, row.gates, channel, 3);
    const Vec c_before = load(row.c_before + channel), one = all(1.0f);
    const Vec tanh_c = tanh(fused(f, c_before, i * g));
    Vec dh = load(row.dh + channel);
    if (row.dhs) dh += load_first(row.dhs + channel, left);
    const Vec dc = load(row.dc + channel) + dh * o * (one - tanh_c * tanh_c);
    dz[0] = dc * g * i * (one - i);
    dz[1] = dc * c_before * f * (one - f);
    dz[2] = dc * i * (one - g * g);
    dz[3] = dh * tanh_c * o * (one - o);
    store(row.dh + channel, all(0.0f));
    store(row.dc + channel, dc * f);
  }
};

struct Gru {
  using Input = Places<0, 3, 2, 0, 1>;
  using Recurrent = Places<1, 3, 0, 1, 2>;
  static constexpr int bias_gate[kGates] = {2, 0, 1, -1};
  static constexpr bool has_c = false;
  static constexpr int recurrent_bias_place = 3;

  // Pre-activations to gates; the last place stays what the reset gate multiplied.
  GAPCELL_INLINE void activate(Vec (&z)[kGates]) {
    z[1] = sigmoid(z[1]);
    z[2] = sigmoid(z[2]);
    z[0] = tanh(fused(z[1], z[3], z[0]));
  }

  GAPCELL_INLINE void forward(const Vec (&z)[kGates], const Row &row, const GateLayout &layout, int64_t channel,
                              int64_t left) {
    const Vec n = z[0], reset = z[1], keep = z[2];
    if (row.gates) {
      store_gate(layout, row.gates, channel, 0, n);
      store_gate(layout, row.gates, channel, 1, reset);
      store_gate(layout, row.gates, channel, 2, keep);
      store_gate(layout, row.gates, channel, 3, z[3]);
    }
    if (!row.h) return;
    const Vec h_before = load_first(row.h_before + channel, left);
    store_first(row.h + channel, fused(keep, h_before, (all(1.0f) - keep) * n), left);
  }

  // The gradients of the pre-activations, by the chain rule of eq. (8).
  GAPCELL_INLINE void backward(Vec (&dz)[kGates], const BackwardRow &row, const GateLayout &layout, int64_t channel,
                               int64_t left) {
    const Vec n = load_gate(layout, row.gates, channel, 0), reset = load_gate(layout, row.gates, channel, 1);
    const Vec keep = load_gate(layout, row.gates, channel, 2), from_h = load_gate(layout, row.gates, channel, 3);
    const Vec h_before = load_first(row.h_before + channel, left), one = all(1.0f);
    Vec dh = load(row.dh + channel);
    if (row.dhs) dh += load_first(row.dhs + channel, left);
    dz[0] = dh * (one - keep) * (one - n * n);
    dz[1] = dz[0] * from_h * reset * (one - reset);
    dz[2] = dh * (h_before - n) * keep * (one - keep);
    dz[3] = dz[0] * reset;
    store(row.dh + channel, dh * keep);
  }
};

}  // namespace gapcell::GAPCELL_ISA

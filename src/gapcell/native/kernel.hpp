// What one kernel_*.cpp compiles: everything below for one instruction set, behind a table of functions.
//
// Read in this order: simd, activations, cells, tile, packing, rows, forward; then products, gradients, decayed and
// backward.
//
// The idea. A convolution at one site is a sum over taps of (what the tap reads) x (that tap's weights), and a matrix
// product does not care where its rows come from. So nothing is padded, unfolded or transposed: a (sample, site) pair
// that steps is a row, reached through pointers, and masked pairs are simply not among the rows.
//
//     each thread, for its samples (schedule.h): for every computed step
//       rows        = pairs that step                                    site by site, so that borders stand together
//       for a few tiles of rows                                          pointers in the first-level cache
//         for every kLanes channels                                      weights in the second-level cache
//           for every tile: 6 rows x (4 gates x 16 channels) sums        registers
//             taps of x~, then taps of h_(t-1), channel by channel
//             activations, c, h                                          still in registers
//
// How memory lies:
//
//     weights, forward    [16 channels][tap, channel read][gate][16]     one stream from front to back for a tile
//     stored c            [computed step of a sample][site][F, padded to whole blocks of 16]
//     stored gates        [computed step of a sample][site][block][gate][16]
//     gate gradients      [block][row][gate][16]                         dense for the weights' gradients, and one
//                                                                        stream a row for those of h and x
//     weights, backward   [64 channels][tap][block][gate][16][64]
#pragma once

#include "backward.hpp"
#include "forward.hpp"
#include "peak.hpp"

namespace gapcell::GAPCELL_ISA {

template <class Cell>
struct Entry {
  static void forward(const Call &call, int thread, Scratch &scratch) { Forward<Cell>(call, thread, scratch).run(); }
  static void backward(const Call &call, int thread, Scratch &scratch) { Backward<Cell>(call, thread, scratch).run(); }
};

// The function of the call's cell.
#define GAPCELL_BY_CELL(function, ...) \
  (call.layer.cell == GAPCELL_LSTM ? function<Lstm>::__VA_ARGS__ : function<Gru>::__VA_ARGS__)

inline uint64_t packed_floats(const Call &call) { return GAPCELL_BY_CELL(ForwardPacking, floats(call)); }
inline void pack(const Call &call, float *to) { GAPCELL_BY_CELL(ForwardPacking, pack(call, to)); }
inline uint64_t transposed_floats(const Call &call) { return GAPCELL_BY_CELL(TransposedPacking, floats(call)); }
inline void pack_transposed(const Call &call, float *to) { GAPCELL_BY_CELL(TransposedPacking, pack(call, to)); }
inline uint64_t gradient_floats(const Call &call) { return GAPCELL_BY_CELL(GradientBuffer, floats(call)); }
inline void forward(const Call &call, int thread, Scratch &scratch) {
  GAPCELL_BY_CELL(Entry, forward(call, thread, scratch));
}
inline void backward(const Call &call, int thread, Scratch &scratch) {
  GAPCELL_BY_CELL(Entry, backward(call, thread, scratch));
}
inline void reduce_gradients(const Call &call, int part, int parts) {
  GAPCELL_BY_CELL(GradientBuffer, reduce(call, part, parts));
}
#undef GAPCELL_BY_CELL

constexpr Kernel table(const char *name) {
  return {name,    kLanes,   packed_floats,    pack,      transposed_floats, pack_transposed, gradient_floats,
          forward, backward, reduce_gradients, peak_flops};
}

}  // namespace gapcell::GAPCELL_ISA

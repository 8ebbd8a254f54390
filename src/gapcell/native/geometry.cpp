#include "geometry.h"

namespace gapcell {
namespace {

// A convolution along one axis: output site s reads, through tap j, site s * stride + j * dilation - left.
struct Axis {
  int64_t read, written, taps, stride, dilation, left;
  bool wraps;

  // The site read, or -1 outside.
  int64_t site(int64_t s, int64_t j) const {
    int64_t p = s * stride + j * dilation - left;
    if (wraps && p < 0) p += read;  // eq. (17): one window back, not further
    return p >= 0 && p < read ? p : -1;
  }
};

using Axes = std::vector<Axis>;

Axes input_axes(const gapcell_layer &layer) {
  Axes axes;
  for (int a = 0; a < layer.rank; ++a)
    axes.push_back({layer.sites[a], layer.output_sites[a], layer.kernel_size[a], layer.stride[a], layer.dilation[a],
                    layer.left[a], false});
  return axes;
}

Axes recurrent_axes(const gapcell_layer &layer) {
  Axes axes;
  for (int a = 0; a < layer.rank; ++a)
    axes.push_back({layer.output_sites[a], layer.output_sites[a], layer.recurrent_kernel_size[a], 1, 1,
                    layer.recurrent_left[a], layer.wraps != 0});
  return axes;
}

// [written][taps], both flattened with the last axis fastest: the flattened site read, or -1. One axis more than
// `outer` has.
std::vector<int32_t> extended(const std::vector<int32_t> &outer, int64_t outer_taps, const Axis &axis) {
  const int64_t outer_written = static_cast<int64_t>(outer.size()) / outer_taps;
  std::vector<int32_t> reads;
  reads.reserve(outer.size() * axis.written * axis.taps);
  for (int64_t o = 0; o < outer_written; ++o)
    for (int64_t s = 0; s < axis.written; ++s)
      for (int64_t oj = 0; oj < outer_taps; ++oj)
        for (int64_t j = 0; j < axis.taps; ++j) {
          const int64_t before = outer[o * outer_taps + oj], site = axis.site(s, j);
          reads.push_back(static_cast<int32_t>(before < 0 || site < 0 ? -1 : before * axis.read + site));
        }
  return reads;
}

std::vector<int32_t> table(const Axes &axes) {
  std::vector<int32_t> reads{0};
  int64_t taps = 1, outside = 1;
  for (const Axis &axis : axes) {
    reads = extended(reads, taps, axis);
    taps *= axis.taps;
    outside *= axis.read;
  }
  for (int32_t &site : reads)
    if (site < 0) site = static_cast<int32_t>(outside);
  return reads;
}

// The table the other way round: who reads `site` through tap j. With `wraps` two sites may (one from its own window,
// one from the next), so there are two halves of `taps` entries.
std::vector<int32_t> readers(const std::vector<int32_t> &reads, int64_t taps, int64_t read, int64_t written,
                             int halves) {
  std::vector<int32_t> found(read * taps * halves, static_cast<int32_t>(written));
  for (int64_t s = 0; s < written; ++s)
    for (int64_t j = 0; j < taps; ++j) {
      int64_t site = reads[s * taps + j];
      if (site == read) continue;
      int32_t *place = &found[site * taps * halves + j];
      if (*place != written) place += taps;
      *place = static_cast<int32_t>(s);
    }
  return found;
}

}  // namespace

Geometry::Geometry(const Call &call, bool backward)
    : input(table(input_axes(call.layer))), recurrent(table(recurrent_axes(call.layer))) {
  if (!backward) return;
  input_readers = readers(input, call.taps, call.S, call.P, 1);
  recurrent_readers = readers(recurrent, call.recurrent_taps, call.P, call.P, call.layer.wraps ? 2 : 1);
}

}  // namespace gapcell

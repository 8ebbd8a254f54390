#include "layers.h"

#include <sstream>

namespace {

int64_t product(const int64_t *sizes, int rank) {
  int64_t all = 1;
  for (int a = 0; a < rank; ++a) all *= sizes[a];
  return all;
}

// Kernels may be larger than the width, look back only, or lie wholly outside. Where the outputs' number is what a
// convolution gives it is taken; sometimes another one, since the library must not depend on it.
void draw_axis(Random &random, gapcell_layer &layer, int a, int64_t most_sites, int64_t most_taps) {
  const int64_t sites = random.between(1, most_sites), taps = random.between(1, most_taps);
  const int64_t stride = random.chance(0.6) ? 1 : random.between(1, 4);
  const int64_t dilation = random.chance(0.6) ? 1 : random.between(1, 4), reach = (taps - 1) * dilation;
  const int64_t left = random.one_of({int64_t{0}, reach / 2, reach, random.between(-2, reach + 2)});
  const int64_t last = sites - 1 + left + random.between(0, reach) - reach;
  int64_t outputs = last < 0 ? 1 : last / stride + 1;
  if (outputs > 2 * most_sites || random.chance(0.1)) outputs = random.between(1, most_sites);
  const int64_t recurrent_taps = random.between(1, most_taps);
  layer.sites[a] = sites;
  layer.output_sites[a] = outputs;
  layer.kernel_size[a] = taps;
  layer.stride[a] = stride;
  layer.dilation[a] = dilation;
  layer.left[a] = left;
  layer.recurrent_kernel_size[a] = recurrent_taps;
  layer.recurrent_left[a] =
      random.one_of({(recurrent_taps - 1) / 2, recurrent_taps - 1, random.between(-2, recurrent_taps + 1)});
}

void draw_sizes(Random &random, gapcell_layer &layer, const Draw &draw) {
  const bool large = random.chance(draw.large_share);
  const int64_t sites[] = {large ? 30 : 12, large ? 7 : 5, large ? 4 : 3}, taps[] = {large ? 5 : 14, 4, 3};
  layer.samples = large ? random.between(4, 9) : random.chance(0.05) ? draw.least : random.between(1, 5);
  layer.steps = large ? random.between(4, 6) : random.chance(0.05) ? draw.least : random.between(1, 5);
  layer.channels = random.one_of({1, 2, 3, 4, 5, 7, 9, 13, 15, 16, 17, 33});
  layer.filters = large ? random.one_of({48, 65}) : random.one_of({1, 2, 3, 5, 7, 8, 9, 11, 15, 16, 17, 20, 31, 33});
  for (int a = 0; a < layer.rank; ++a) draw_axis(random, layer, a, sites[layer.rank - 1], taps[layer.rank - 1]);
}

}  // namespace

Sizes::Sizes(const gapcell_layer &layer)
    : N(layer.samples),
      T(layer.steps),
      S(product(layer.sites, layer.rank)),
      P(product(layer.output_sites, layer.rank)),
      C(layer.channels),
      F(layer.filters),
      G(layer.cell == GAPCELL_LSTM ? 4 : 3),
      taps(product(layer.kernel_size, layer.rank)),
      recurrent_taps(product(layer.recurrent_kernel_size, layer.rank)) {}

gapcell_layer draw_layer(Random &random, const Draw &draw) {
  gapcell_layer layer{};
  layer.version = GAPCELL_INTERFACE_VERSION;
  layer.cell = random.one_of({GAPCELL_LSTM, GAPCELL_GRU});
  layer.rank = static_cast<int32_t>(random.between(1, 3));
  layer.x_type = random.chance(0.3) ? GAPCELL_BF16 : GAPCELL_FP32;
  layer.weight_type = random.chance(0.3) ? GAPCELL_BF16 : GAPCELL_FP32;
  layer.observed_mask = random.one_of({GAPCELL_NO_MASK, GAPCELL_STEPS, GAPCELL_SITES, GAPCELL_ELEMENTS});
  layer.update_mask = random.one_of({GAPCELL_NO_MASK, GAPCELL_STEPS, GAPCELL_SITES});
  layer.recurrent_scale = random.chance(0.6) ? GAPCELL_NO_MASK : random.one_of({GAPCELL_STEPS, GAPCELL_SITES});
  layer.held_output = random.one_of({GAPCELL_HELD_ZERO, GAPCELL_HELD_STATE});
  layer.store = random.one_of({GAPCELL_STORE_NONE, GAPCELL_STORE_FP32, GAPCELL_STORE_BF16, GAPCELL_STORE_RECOMPUTE});
  layer.reverse = random.chance(0.3);
  layer.wraps = layer.rank == 1 && random.chance(0.4);
  layer.threads = static_cast<int32_t>(random.between(1, 4));
  draw_sizes(random, layer, draw);
  return layer;
}

std::string described(const gapcell_layer &layer) {
  std::ostringstream text;
  const auto axes = [&](const char *name, const int64_t *sizes) {
    text << ' ' << name;
    for (int a = 0; a < layer.rank; ++a) text << (a ? ',' : '=') << sizes[a];
  };
  text << (layer.cell == GAPCELL_LSTM ? "lstm" : "gru") << " N=" << layer.samples << " T=" << layer.steps
       << " C=" << layer.channels << " F=" << layer.filters << " x_type=" << layer.x_type
       << " weight_type=" << layer.weight_type << " observed=" << layer.observed_mask << " update=" << layer.update_mask
       << " recurrent_scale=" << layer.recurrent_scale << " held_output=" << layer.held_output
       << " store=" << layer.store << " reverse=" << layer.reverse << " wraps=" << layer.wraps
       << " threads=" << layer.threads;
  axes("sites", layer.sites);
  axes("output_sites", layer.output_sites);
  axes("kernel_size", layer.kernel_size);
  axes("stride", layer.stride);
  axes("dilation", layer.dilation);
  axes("left", layer.left);
  axes("recurrent_kernel_size", layer.recurrent_kernel_size);
  axes("recurrent_left", layer.recurrent_left);
  return text.str();
}

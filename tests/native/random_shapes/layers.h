// Random layers, and the sizes that follow from them.
#pragma once

#include <cstdint>
#include <string>

#include "interface.h"
#include "random.h"

// N, T, S, P, C and F of interface.h; G gates, and the taps of the two convolutions.
struct Sizes {
  int64_t N, T, S, P, C, F, G, taps, recurrent_taps;

  explicit Sizes(const gapcell_layer &layer);
};

struct Draw {
  int64_t least = 0;           // of N and T: with 0 there are empty batches too
  double large_share = 0.015;  // so large that several threads have work: the library wakes none for less
};
gapcell_layer draw_layer(Random &random, const Draw &draw);
std::string described(const gapcell_layer &layer);

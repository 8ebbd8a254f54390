// One random layer, and everything that must hold of its calls.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "layers.h"
#include "library.h"
#include "random.h"

// What was done, for the summary: a check that never ran has shown nothing.
struct Counts {
  int64_t shapes = 0, forward = 0, backward = 0, packed = 0, empty = 0, out_of_memory = 0;
  std::map<std::string, int64_t> refused, kernels;

  void add(const Counts &other);
  std::string summary() const;
};

struct Options {
  bool alone = true;  // no other thread calls the library: the instruction set may be changed, and memory run out
  Draw draw;
};

// Draws shape `index` of `seed` and checks it. Throws std::runtime_error with the shape and what is wrong.
void check_shape(const Library &library, uint64_t seed, uint64_t index, const Options &options, Counts &counts);

// Which site reads which: the tap tables of eq. (12) and (17), from sizes alone.
#pragma once

#include <cstdint>
#include <vector>

#include "call.h"

namespace gapcell {

struct Geometry {
  std::vector<int32_t> input, recurrent, input_readers, recurrent_readers;

  // Every entry lies in 0 .. sites read (inclusive: "outside"), whatever the layer says.
  // Who reads what is for the backward pass only.
  Geometry(const Call &call, bool backward);
  TapTables tables() const { return {input.data(), recurrent.data(), input_readers.data(), recurrent_readers.data()}; }
};

}  // namespace gapcell

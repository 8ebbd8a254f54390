// Memory that runs out: this program's operator new, which the library uses too, refuses from a given call on.
#pragma once

#include <cstdint>

// While it lives, `allocations` succeed and all others throw std::bad_alloc, in every thread.
class Starve {
 public:
  explicit Starve(int64_t allocations);
  ~Starve();
};

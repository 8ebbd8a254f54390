// Random numbers that are the same on every machine (SplitMix64): a failure's seed and index are enough to see it
// again.
#pragma once

#include <cstdint>
#include <initializer_list>

class Random {
 public:
  Random(uint64_t seed, uint64_t index) : state_(seed * 0xD1342543DE82EF95 + index) { bits(); }

  uint64_t bits() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }
  int64_t between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(bits() % static_cast<uint64_t>(most - least + 1));
  }
  bool chance(double share) { return static_cast<double>(bits() >> 11) * 0x1p-53 < share; }
  float real() { return static_cast<float>(static_cast<double>(bits() >> 11) * 0x1p-52 - 1.0); }  // -1 to 1
  template <class T>
  T one_of(std::initializer_list<T> choices) {
    return choices.begin()[between(0, static_cast<int64_t>(choices.size()) - 1)];
  }

 private:
  uint64_t state_;
};

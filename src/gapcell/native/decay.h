// What gap="decay" leaves of a state, eq. (24).
#pragma once

#include <vector>

#include "call.h"
#include "memory.h"

namespace gapcell {

// Times and factors of a whole call, worked out before its threads start.
//
// The time of steps that are not computed adds to that of the next one that is; what is left of a state is then one
// factor a channel for all sites.
class Decay {
 public:
  explicit Decay(const Call &call);
  DecayTables tables() const {
    return {static_cast<const float *>(left_.data()), waited_.data(), clock_.data(), rates_.data()};
  }

 private:
  void time_sample(const Call &call, int64_t n);

  std::vector<float> rates_, waited_;
  std::vector<double> clock_;
  Memory left_;
};

}  // namespace gapcell

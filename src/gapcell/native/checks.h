// From what a caller gives to a Call: every size and every buffer is checked before anything is read.
#pragma once

#include <stdexcept>

#include "call.h"

namespace gapcell {

// A call that is refused; what() is the text for the caller.
class Refused : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// The sizes of a layer; tables, schedule and weights are still empty.
Call checked_layer(const gapcell_layer *layer);

void check_weights(const Call &call);  // kernel, recurrent_kernel and the biases
void check_forward(const Call &call, bool packed);
void check_backward(const Call &call);
void check_update(const Call &call);

uint64_t stored_bytes(const Call &call, int64_t computed_steps);  // of all samples
void check_stored(const Call &call);                              // needs call.active

}  // namespace gapcell

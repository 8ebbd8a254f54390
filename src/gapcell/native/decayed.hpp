// gap="decay" in the backward pass of one thread: states as the steps read them, eq. (24), and the rates' gradient.
#pragma once

#include "rows.hpp"

namespace gapcell::GAPCELL_ISA {

class Decayed {
 public:
  // `slots` states h and `pairs` states c are kept at once; where nothing decays, none.
  Decayed(const Call &call, Scratch &scratch, int64_t slots, int64_t pairs) : call_(call) {
    if (!call.decay.left) return;
    h_ = take<float>(scratch, slots * call.F);
    row_ = take<float>(scratch, call.F);
    left_ = take<float>(scratch, call.padded_filters);
    rates_ = take<double>(scratch, call.F);
    for (int64_t f = 0; f < call.F; ++f) rates_[f] = 0.0;
    if (call.layer.cell == GAPCELL_LSTM) c_ = take<float>(scratch, pairs * call.padded_filters);
  }

  explicit operator bool() const { return left_ != nullptr; }

  // What is left at sample n's k-th computed step of the state after the computed step `before`.
  const float *between(int64_t n, int64_t before, int64_t k) {
    const bool ends = k == call_.computed_steps(n);
    if (before == k - 1 && !ends) return call_.left_at(n, call_.active.steps[call_.active.first[n] + k]);
    decay_factors(call_, call_.clock(n, k) - call_.clock(n, before), left_);
    return left_;
  }

  // What `left` leaves: of h and c for as long as the steps that read them are looked at, or just once.
  const float *keep_h(int64_t slot, const float *h, const float *left) const {
    return kept(h_ + slot * call_.F, h, left);
  }
  const float *keep_c(int64_t pair, const float *c, const float *left) const {
    return kept(c_ + pair * call_.padded_filters, c, left);
  }
  const float *once(const float *state, const float *left) const { return kept(row_, state, left); }
  const float *c(int64_t pair) const { return c_ + pair * call_.padded_filters; }

  // The gradient of what was left after some time becomes that of the state before, and adds to that of the rates.
  void pass(float *gradient, const float *decayed, const float *left, double time) const {
    add_rates(gradient, decayed, time);
    for (int64_t f = 0; f < call_.F; ++f) gradient[f] *= left[f];
  }

  // The same of an output that was what was left of the state.
  void pass_output(float *gradient, const float *cotangent, const float *output, const float *left, double time) const {
    add_rates(cotangent, output, time);
    for (int64_t f = 0; f < call_.F; ++f) gradient[f] += cotangent[f] * left[f];
  }

  void write_rates(float *to) const {
    for (int64_t f = 0; f < call_.F; ++f) to[f] = static_cast<float>(rates_[f]);
  }

 private:
  const float *kept(float *to, const float *from, const float *left) const {
    for (int64_t f = 0; f < call_.F; ++f) to[f] = from[f] * left[f];
    return to;
  }
  // In double: over all sites and steps a sum in fp32 would lose digits.
  void add_rates(const float *gradient, const float *decayed, double time) const {
    for (int64_t f = 0; f < call_.F; ++f)
      rates_[f] -= time * static_cast<double>(gradient[f]) * static_cast<double>(decayed[f]);
  }

  const Call &call_;
  float *h_ = nullptr, *c_ = nullptr, *row_ = nullptr, *left_ = nullptr;
  double *rates_ = nullptr;
};

}  // namespace gapcell::GAPCELL_ISA

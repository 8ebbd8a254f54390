#include "decay.h"

#include <cmath>

namespace gapcell {

void decay_factors(const Call &call, double time, float *left) {
  for (int64_t f = 0; f < call.padded_filters; ++f)
    left[f] = static_cast<float>(std::exp(-static_cast<double>(call.decay.rates[f]) * time));
}

Decay::Decay(const Call &call) {
  const auto *rates = static_cast<const float *>(call.data.rates.data);
  if (!rates) return;
  rates_.assign(call.padded_filters, 0.0f);
  for (int64_t f = 0; f < call.F; ++f) rates_[f] = rates[f] < 0.0f ? 0.0f : rates[f];  // NaN stays NaN
  waited_.resize(call.N * call.T);
  clock_.resize(call.active.first[call.N] + call.N);
  left_ = Memory(static_cast<uint64_t>(call.N * call.T * call.padded_filters) * sizeof(float));
  for (int64_t n = 0; n < call.N; ++n) time_sample(call, n);
}

void Decay::time_sample(const Call &call, int64_t n) {
  const auto *dt = static_cast<const float *>(call.data.dt.data) + n * call.T;
  const int64_t first = call.active.first[n], computed = call.computed_steps(n);
  Call timed = call;
  timed.decay = tables();
  double time = 0.0, clock = 0.0;
  int64_t k = 0;
  for (int64_t i = 0; i < call.T; ++i) {
    const int64_t t = call.layer.reverse ? call.T - 1 - i : i;
    const bool steps = k < computed && call.active.steps[first + k] == t;
    time += dt[t];
    waited_[n * call.T + t] = static_cast<float>(time);
    if (steps || i == call.T - 1 || call.layer.held_output == GAPCELL_HELD_STATE)
      decay_factors(timed, time, static_cast<float *>(left_.data()) + (n * call.T + t) * call.padded_filters);
    if (!steps) continue;
    clock_[first + n + k++] = clock += time;
    time = 0.0;
  }
  clock_[first + n + computed] = clock + time;
}

}  // namespace gapcell

// The backward pass of one thread: its samples in groups, each from its last computed step to its first.
//
//     for every k, downwards: the k-th computed step of each sample of the group that has one
//       gates from what forward stored, or computed again               (tile.hpp)
//       gradients of the gates, by the chain rule of the cell           (cells.hpp)
//       dh_(t-1) and dx: transposed convolutions of these               (products.hpp)
//       now and then: the weights' gradients of the steps so far        (gradients.hpp)
//
// A group is so small that one step's gate gradients stay in the second-level cache, and so large that weights read for
// it are used often. dh and dc are those of the state after step k, then before it; a site that holds passes them on.
#pragma once

#include "decayed.hpp"
#include "gradients.hpp"

namespace gapcell::GAPCELL_ISA {

struct BackwardSizes {
  int64_t group;       // samples that go together
  int64_t collected;   // pairs collected for the weights' gradients: their gate gradients fill half of the cache
  int64_t most_rows;   // gate gradients kept: those collected, or all pairs of one step if these are more
  int64_t most_steps;  // steps that these may come from, where x or h must be copied

  BackwardSizes(const Call &call, int64_t samples) {
    collected = most(128, least(1024, 32768 / call.padded_filters));
    group = most(1, least(samples, collected / call.P));
    most_rows = most(collected, group * call.P);
    most_steps = most_rows / (group * call.P);
  }
};

template <class Cell>
class Backward {
 public:
  Backward(const Call &call, int thread, Scratch &scratch)
      : call_(call),
        samples_(call.active.samples + call.active.thread_first[thread]),
        count_(call.active.thread_first[thread + 1] - call.active.thread_first[thread]),
        sizes_(call, count_),
        zero_(zeros(scratch, most(call.C, call.padded_filters))),
        stored_(Stored::of(call)),
        buffer_(call.gradients + thread * call.gradient_floats),
        gradients_(gate_gradients(scratch)),
        no_gradient_(gradients_.row(sizes_.most_rows)),
        state_products_(call, scratch, call.reader_taps, gradients_, no_gradient_, call.F,
                        call.data.recurrent_scale.data),
        input_outer_(call, scratch, call.taps, call.C, sizes_.collected, zero_, gradients_, buffer_),
        recurrent_outer_(call, scratch, call.recurrent_taps, call.F, sizes_.collected, zero_, gradients_,
                         buffer_ + GradientBuffer<Cell>::input_floats(call)),
        input_products_(call, scratch, call.taps, gradients_, no_gradient_, call.C, false),
        table_(call, scratch, zero_),
        tile_rows_(take<Row>(scratch, table_.most_rows())),
        steps_(take<int64_t>(scratch, sizes_.group)),
        pairs_(take<Pair>(scratch, sizes_.group * call.P)),
        rows_(take<BackwardRow>(scratch, sizes_.group * call.P)),
        before_(take<int64_t>(scratch, sizes_.group * call.P)),
        inputs_(take<const float *>(scratch, sizes_.group * (call.S + 1))),
        h_(take<const float *>(scratch, sizes_.group * (call.P + 1))),
        entered_(h_),
        gate_rows_(take<const float *>(scratch, sizes_.group * (call.P + 1))),
        dh_(take<float>(scratch, sizes_.group * call.P * call.padded_filters)),
        decayed_(call, scratch, sizes_.most_steps * sizes_.group * call.P, sizes_.group * call.P) {
    const int64_t pairs = sizes_.group * call.P;
    if (InputRows::copies_needed(call))
      copies_ = take<float>(scratch, sizes_.most_steps * sizes_.group * call.S * call.C);
    if (call.data.recurrent_scale.data) {
      entered_ = take<const float *>(scratch, sizes_.group * (call.P + 1));
      scaled_ = take<float>(scratch, sizes_.most_steps * pairs * call.F);
    }
    if (call.layer.cell == GAPCELL_LSTM) {
      dc_ = take<float>(scratch, pairs * call.padded_filters);
      c0_ = take<float>(scratch, pairs * call.padded_filters);
    }
    if (call.data.dx.data) dx_ = take<float>(scratch, sizes_.group * call.S * dx_width());
    std::memset(buffer_, 0, GradientBuffer<Cell>::floats(call) * sizeof(float));
  }

  void run() {
    for (; count_ > 0; samples_ += group_, count_ -= group_) {
      group_ = least(sizes_.group, count_);
      for (int64_t q = 0; q < group_; ++q) begin(q);
      int64_t running = 0;
      for (int64_t k = call_.computed_steps(samples_[0]) - 1; k >= 0; --k) {
        while (running < group_ && call_.computed_steps(samples_[running]) > k) ++running;
        step(k, running);
      }
      for (int64_t q = 0; q < group_; ++q) finish(q);
    }
    flush();
    if (decayed_) decayed_.write_rates(GradientBuffer<Cell>::rates(call_, buffer_));
  }

 private:
  GateGradients gate_gradients(Scratch &scratch) const {
    const int64_t stride = (sizes_.most_rows + 1) * kBlockGates;
    const GateGradients gradients{take<float>(scratch, call_.blocks * stride), stride};
    for (int64_t block = 0; block < call_.blocks; ++block)
      std::memset(gradients.row(sizes_.most_rows) + block * stride, 0, kBlockGates * sizeof(float));
    return gradients;
  }
  int64_t dx_width() const { return vectors(call_.C) * kLanes; }
  bool recomputes() const { return stored_.gate_bytes == 0; }

  // The cotangents of the final state, and the states' pointers at the last computed step.
  void begin(int64_t q) {
    const int64_t n = samples_[q], P = call_.P;
    const auto *c0 = static_cast<const float *>(call_.data.c0.data);
    copy_padded(static_cast<const float *>(call_.data.dh.data), n, dh_ + q * P * call_.padded_filters);
    if (dc_) copy_padded(static_cast<const float *>(call_.data.dc.data), n, dc_ + q * P * call_.padded_filters);
    if (c0_ && c0) copy_padded(c0, n, c0_ + q * P * call_.padded_filters);
    h_[q * (P + 1) + P] = entered_[q * (P + 1) + P] = zero_;
    for (int64_t p = 0; p <= P; ++p) gate_rows_[q * (P + 1) + p] = no_gradient_;
    for (int64_t p = 0; p < P; ++p) before_[q * P + p] = update_before(n, call_.computed_steps(n), p);
    if (const float *left = call_.left_at_end(n)) decay_end(q, left);
  }

  // The cotangents of what is left at the end become those of the state after the last computed step.
  void decay_end(int64_t q, const float *left) {
    const int64_t n = samples_[q], P = call_.P, end = call_.computed_steps(n);
    const double time = call_.clock(n, end) - call_.clock(n, end - 1);
    for (int64_t p = 0; p < P; ++p) {
      const int64_t at = q * P + p, before = before_[at];
      const float *whole = decayed_.between(n, before, end);
      decayed_.pass(dh_ + at * call_.padded_filters, decayed_.once(h_after(n, before, p), whole), left, time);
      if (dc_) decayed_.pass(dc_ + at * call_.padded_filters, decayed_.once(c_after(q, before, p), whole), left, time);
    }
  }

  // The state after the k-th computed step, which updated the site, or the initial one.
  const float *h_after(int64_t n, int64_t k, int64_t p) const {
    if (k >= 0) return output(static_cast<const float *>(call_.data.hs.data), n, k, p);
    const auto *h0 = static_cast<const float *>(call_.data.h0.data);
    return h0 ? h0 + (n * call_.P + p) * call_.F : zero_;
  }
  const float *c_after(int64_t q, int64_t k, int64_t p) const {
    if (k >= 0) return stored_.c_of(call_, (call_.active.first[samples_[q]] + k) * call_.P + p);
    return call_.data.c0.data ? c0_ + (q * call_.P + p) * call_.padded_filters : zero_;
  }

  void copy_padded(const float *from, int64_t n, float *to) const {
    std::memset(to, 0, call_.P * call_.padded_filters * sizeof(float));
    if (!from) return;
    for (int64_t p = 0; p < call_.P; ++p)
      std::memcpy(to + p * call_.padded_filters, from + (n * call_.P + p) * call_.F, call_.F * sizeof(float));
  }

  // The last computed step before the k-th that updated this site, or -1.
  int64_t update_before(int64_t n, int64_t k, int64_t p) const {
    for (--k; k >= 0; --k)
      if (call_.updates(n, call_.active.steps[call_.active.first[n] + k], p)) break;
    return k;
  }

  void step(int64_t k, int64_t running) {
    for (int64_t q = 0; q < running; ++q) {
      steps_[q] = call_.active.steps[call_.active.first[samples_[q]] + k];
      pass_held(q, k);
    }
    const int64_t count = find_pairs(call_, samples_, steps_, running, {0, call_.P}, pairs_);
    const bool slots = copies_ || scaled_ || decayed_;
    if (rows_used_ + count > sizes_.most_rows || (slots && steps_used_ == sizes_.most_steps)) {
      flush();
      first_collected_ = rows_used_ = steps_used_ = 0;
    }
    for (int64_t q = 0; q < running; ++q) find_sources(q, k);
    for (int64_t i = 0; i < count; ++i) prepare(i, k);
    if (recomputes()) compute_gates(count);
    gate_gradients_of(count);
    if (k > 0 || call_.data.dh0.data || decayed_) state_gradients(running);
    for (int64_t q = 0; q < running && decayed_; ++q) decay_step(q);
    if (dx_) input_gradients(running);
    for (int64_t i = 0; i < count; ++i) collect(i);
    rows_used_ += count;
    ++steps_used_;
  }

  // What the step read: x~ and h_(t-1), and the latter times the dropout's scale.
  void find_sources(int64_t q, int64_t k) {
    const int64_t n = samples_[q], P = call_.P, F = call_.F, slot = steps_used_ * sizes_.group + q;
    InputRows{call_, zero_}.find(n, steps_[q], inputs_ + q * (call_.S + 1),
                                 copies_ + (copies_ ? slot * call_.S * call_.C : 0));
    for (int64_t p = 0; p < P; ++p) {
      int64_t &before = before_[q * P + p];
      if (before == k) before = update_before(n, k, p);
      const float *h = h_after(n, before, p);
      if (decayed_) {
        const float *left = decayed_.between(n, before, k);
        if (h != zero_) h = decayed_.keep_h(slot * P + p, h, left);
        if (dc_) decayed_.keep_c(q * P + p, c_after(q, before, p), left);
      }
      h_[q * (P + 1) + p] = h;
      if (!scaled_) continue;
      float *scaled = scaled_ + (slot * P + p) * F;
      entered_[q * (P + 1) + p] = h == zero_ ? zero_ : scaled;
      const float *scale = recurrent_scale(call_, n, p);
      for (int64_t f = 0; f < F && h != zero_; ++f) scaled[f] = h[f] * scale[f];
    }
  }

  // dh and dc from after the decay to before it.
  void decay_step(int64_t q) const {
    const int64_t n = samples_[q], P = call_.P, t = steps_[q];
    const float *left = call_.left_at(n, t);
    const double time = call_.decay.waited[n * call_.T + t];
    for (int64_t p = 0; p < P; ++p) {
      const int64_t at = q * P + p;
      decayed_.pass(dh_ + at * call_.padded_filters, h_[q * (P + 1) + p], left, time);
      if (dc_) decayed_.pass(dc_ + at * call_.padded_filters, decayed_.c(at), left, time);
    }
  }

  const float *output(const float *array, int64_t n, int64_t k, int64_t p) const {
    const int64_t t = call_.active.steps[call_.active.first[n] + k];
    return array + ((n * call_.T + t) * call_.P + p) * call_.F;
  }

  void prepare(int64_t i, int64_t k) {
    const Pair pair = pairs_[i];
    const int64_t n = samples_[pair.q], P = call_.P, first = call_.active.first[n], at = pair.q * P + pair.p;
    const auto *dhs = static_cast<const float *>(call_.data.dhs.data);
    float *gates = gradients_.row(rows_used_ + i);
    const float *c_before = nullptr;
    if (dc_) c_before = decayed_ ? decayed_.c(at) : c_after(pair.q, before_[at], pair.p);
    gate_rows_[pair.q * (P + 1) + pair.p] = gates;
    rows_[i] = {recomputes() ? static_cast<void *>(gates) : stored_.gates_of(call_, (first + k) * P + pair.p),
                h_[pair.q * (P + 1) + pair.p],
                c_before,
                dhs ? output(dhs, n, k, pair.p) : nullptr,
                dh_ + at * call_.padded_filters,
                dc_ + (dc_ ? at * call_.padded_filters : 0)};
  }

  // Into the rows of the gate gradients, which then take their place.
  void compute_gates(int64_t count) {
    for (int64_t first = 0; first < count; first += table_.most_rows()) {
      const int64_t here = least(table_.most_rows(), count - first);
      table_.fill(pairs_ + first, here, inputs_, entered_);
      for (int64_t i = 0; i < here; ++i)
        tile_rows_[i] = {nullptr, nullptr, nullptr, nullptr, gradients_.row(rows_used_ + first + i)};
      run_tiles<Cell>(call_, table_, tile_rows_, here, {false, gradients_.block_stride});
    }
  }

  void gate_gradients_of(int64_t count) {
    const GateLayout layout = recomputes() ? GateLayout{false, gradients_.block_stride} : stored_.layout();
    const GateLayout to{false, gradients_.block_stride};
    float *bias = GradientBuffer<Cell>::bias(call_, buffer_);
    for (int64_t channel = 0; channel < call_.padded_filters; channel += kLanes) {
      Vec sums[kGates] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
      for (int64_t i = 0; i < count; ++i) {
        Vec dz[kGates] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
        if (channel < call_.F) Cell::backward(dz, rows_[i], layout, channel, call_.F - channel);
        for (int g = 0; g < kGates; ++g) {
          // Behind F there is whatever was in `stored`: an instruction set with shorter vectors does not write there.
          dz[g] = first(dz[g], call_.F - channel);
          store_gate(to, gradients_.row(rows_used_ + i), channel, g, dz[g]);
          sums[g] += dz[g];
        }
      }
      for (int g = 0; g < kGates; ++g) {
        float *place = bias + gate_offset({false, kBlockGates}, channel, g);
        store(place, load(place) + sums[g]);
      }
    }
  }

  // Adds what the recurrent convolution carries back to every site that it read.
  void state_gradients(int64_t running) {
    const Transposed weights = TransposedPacking<Cell>::recurrent(call_);
    for (int64_t p = 0; p < call_.P; ++p)
      for (int64_t q = 0; q < running; ++q) {
        if (state_products_.full()) state_products_.run(weights);
        const float *scale = call_.data.recurrent_scale.data ? recurrent_scale(call_, samples_[q], p) : nullptr;
        state_products_.add(call_.tables.recurrent_readers + p * call_.reader_taps, gate_rows_ + q * (call_.P + 1),
                            dh_ + (q * call_.P + p) * call_.padded_filters, scale);
      }
    state_products_.run(weights);
  }

  void input_gradients(int64_t running) {
    const Transposed weights = TransposedPacking<Cell>::input(call_);
    std::memset(dx_, 0, running * call_.S * dx_width() * sizeof(float));
    for (int64_t s = 0; s < call_.S; ++s)
      for (int64_t q = 0; q < running; ++q) {
        if (inputs_[q * (call_.S + 1) + s] == zero_) continue;  // not observed
        if (input_products_.full()) input_products_.run(weights);
        input_products_.add(call_.tables.input_readers + s * call_.taps, gate_rows_ + q * (call_.P + 1),
                            dx_ + (q * call_.S + s) * dx_width(), nullptr);
      }
    input_products_.run(weights);
    for (int64_t q = 0; q < running; ++q) write_dx(q);
  }

  // The select of eq. (2), backwards: exactly 0 where nothing was observed.
  void write_dx(int64_t q) const {
    const auto *observed = static_cast<const uint8_t *>(call_.data.observed.data);
    for (int64_t s = 0; s < call_.S; ++s) {
      const int64_t site = (samples_[q] * call_.T + steps_[q]) * call_.S + s;
      const float *from = dx_ + (q * call_.S + s) * dx_width();
      float *to = static_cast<float *>(call_.data.dx.data) + site * call_.C;
      for (int64_t c = 0; c < call_.C; ++c)
        to[c] = call_.layer.observed_mask == GAPCELL_ELEMENTS && !observed[site * call_.C + c] ? 0.0f : from[c];
    }
  }

  void collect(int64_t i) {
    const Pair pair = pairs_[i];
    if (collected_ == sizes_.collected) flush();
    if (call_.data.dkernel.data)
      input_outer_.add(collected_, call_.tables.input + pair.p * call_.taps, inputs_ + pair.q * (call_.S + 1));
    if (call_.data.drecurrent_kernel.data)
      recurrent_outer_.add(collected_, call_.tables.recurrent + pair.p * call_.recurrent_taps,
                           entered_ + pair.q * (call_.P + 1));
    ++collected_;
    gate_rows_[pair.q * (call_.P + 1) + pair.p] = no_gradient_;
  }

  void flush() {
    if (call_.data.dkernel.data) input_outer_.run(collected_, first_collected_);
    if (call_.data.drecurrent_kernel.data) recurrent_outer_.run(collected_, first_collected_);
    first_collected_ += collected_;
    collected_ = 0;
  }

  // Where nothing was computed, in the k-th computed step and in those between it and the next: an output that was the
  // held state hands its cotangent to the state, and x has none.
  void pass_held(int64_t q, int64_t k) {
    const int64_t n = samples_[q], first = call_.active.first[n], computed = call_.computed_steps(n);
    const int64_t way = call_.layer.reverse ? -1 : 1, end = call_.layer.reverse ? -1 : call_.T;
    const int64_t stop = k + 1 < computed ? call_.active.steps[first + k + 1] : end;
    int64_t t = call_.layer.reverse ? call_.T - 1 : 0;
    if (k >= 0) {
      t = call_.active.steps[first + k] + way;
      for (int64_t p = 0; call_.layer.update_mask == GAPCELL_SITES && p < call_.P; ++p)
        if (!call_.updates(n, t - way, p)) pass_held_site(q, t - way, p, nullptr);
    }
    for (; t != stop; t += way) {
      for (int64_t p = 0; p < call_.P; ++p) pass_held_site(q, t, p, decayed_ ? call_.left_at(n, t) : nullptr);
      if (!dx_) continue;
      auto *dx = static_cast<float *>(call_.data.dx.data) + (n * call_.T + t) * call_.S * call_.C;
      std::memset(dx, 0, call_.S * call_.C * sizeof(float));
    }
  }

  // `left`: what was left of the state by then; NULL: all of it.
  void pass_held_site(int64_t q, int64_t t, int64_t p, const float *left) const {
    const auto *dhs = static_cast<const float *>(call_.data.dhs.data);
    if (!dhs || call_.layer.held_output != GAPCELL_HELD_STATE) return;
    const int64_t place = ((samples_[q] * call_.T + t) * call_.P + p) * call_.F;
    float *to = dh_ + (q * call_.P + p) * call_.padded_filters;
    if (!left) {
      for (int64_t f = 0; f < call_.F; ++f) to[f] += dhs[place + f];
      return;
    }
    decayed_.pass_output(to, dhs + place, static_cast<const float *>(call_.data.hs.data) + place, left,
                         call_.decay.waited[samples_[q] * call_.T + t]);
  }

  void finish(int64_t q) {
    pass_held(q, -1);
    const int64_t P = call_.P, F = call_.F;
    auto *dh0 = static_cast<float *>(call_.data.dh0.data), *dc0 = static_cast<float *>(call_.data.dc0.data);
    for (int64_t p = 0; p < P; ++p) {
      const int64_t to = (samples_[q] * P + p) * F, from = (q * P + p) * call_.padded_filters;
      if (dh0) std::memcpy(dh0 + to, dh_ + from, F * sizeof(float));
      if (dc0 && dc_) std::memcpy(dc0 + to, dc_ + from, F * sizeof(float));
    }
  }

  const Call &call_;
  const int64_t *samples_;  // of the group and those after it
  int64_t count_, group_ = 0;
  const BackwardSizes sizes_;
  const float *zero_;
  const Stored stored_;
  float *buffer_;
  const GateGradients gradients_;
  const float *no_gradient_;
  GatheredProducts<typename Cell::Recurrent> state_products_;
  OuterProducts<typename Cell::Input> input_outer_;
  OuterProducts<typename Cell::Recurrent> recurrent_outer_;
  GatheredProducts<typename Cell::Input> input_products_;
  TileTable table_;
  Row *tile_rows_;
  int64_t *steps_;
  Pair *pairs_;
  BackwardRow *rows_;
  int64_t *before_;  // [q][p] the computed step that wrote h_(t-1), or -1
  const float **inputs_, **h_, **entered_, **gate_rows_;
  float *dh_, *dc_ = nullptr, *dx_ = nullptr, *c0_ = nullptr, *copies_ = nullptr, *scaled_ = nullptr;
  Decayed decayed_;
  int64_t rows_used_ = 0, steps_used_ = 0;       // of the gate gradients and of the copies
  int64_t first_collected_ = 0, collected_ = 0;  // rows whose weight gradients are not summed yet
};

}  // namespace gapcell::GAPCELL_ISA

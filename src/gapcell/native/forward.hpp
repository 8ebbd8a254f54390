// The forward pass of one thread: its samples, all their steps.
//
//     for every k: the k-th computed step of each sample that has one      (samples need not be at the same t)
//       find x~, the pairs that step, and their pointers                   (rows.hpp)
//       for a few tiles of pairs
//         for every kLanes channels: for every tile                        (tile.hpp)
//       let the states' pointers move on to what was just written
//
// h_t is written to hs and read from there as h_(t-1): a site that holds simply keeps its pointer. A team of threads
// does the same, each with pointers of its own, and shares the tiles of a step by their sites.
#pragma once

#include "rows.hpp"

namespace gapcell::GAPCELL_ISA {

template <class Cell>
class Forward {
 public:
  Forward(const Call &call, int part, Scratch &scratch)
      : call_(call),
        thread_(part / call.active.team),
        team_(call.active.team > 1 ? call.teams[thread_] : nullptr),
        samples_(call.active.samples + call.active.thread_first[thread_]),
        count_(call.active.thread_first[thread_ + 1] - call.active.thread_first[thread_]),
        zero_(zeros(scratch, most(call.C, call.padded_filters))),
        stored_(Stored::of(call)),
        training_(call.layer.store != GAPCELL_STORE_NONE),
        table_(call, scratch, zero_),
        steps_(take<int64_t>(scratch, count_)),
        pairs_(take<Pair>(scratch, count_ * call.P)),
        rows_(take<Row>(scratch, table_.most_rows())),
        inputs_(take<const float *>(scratch, count_ * (call.S + 1))),
        h_(take<const float *>(scratch, count_ * (call.P + 1))),
        entered_(h_),
        c_(take<float *>(scratch, count_ * call.P)) {
    if (InputRows::copies_needed(call)) copies_ = take<float>(scratch, count_ * call.S * call.C);
    if (call.data.recurrent_scale.data) {
      entered_ = take<const float *>(scratch, count_ * (call.P + 1));
      scaled_ = take<float>(scratch, count_ * call.P * call.F);
    }
    if (call.decay.left) decayed_ = take<float>(scratch, count_ * call.P * call.F);
    if (call.layer.cell == GAPCELL_LSTM && !call.team_c)
      own_c_ = take<float>(scratch, count_ * call.P * call.padded_filters);
  }

  void run() {
    for (int64_t q = 0; q < count_; ++q) begin(q);
    share([this](Sites sites) {
      for (int64_t q = 0; q < count_; ++q) begin_memory(q, sites);
    });
    int64_t k = 0;
    for (; running(k) > 0; ++k) step(k, running(k));
    share([this, k](Sites sites) {
      hold_after(k - 1, sites);
      for (int64_t q = 0; q < count_; ++q) finish(q, sites);
    });
  }

 private:
  // Samples that have a k-th computed step; they come first.
  int64_t running(int64_t k) {
    while (running_ > 0 && call_.computed_steps(samples_[running_ - 1]) <= k) --running_;
    return running_;
  }

  // Runs work over all sites, alone or with the team.
  template <class Work>
  void share(Work work) {
    if (!team_) return work(Sites{0, call_.P});
    const int slices = call_.active.team;
    for (int i = claim_slice(*team_, phase_); i >= 0; i = claim_slice(*team_, phase_)) {
      work(Sites{call_.P * i / slices, call_.P * (i + 1) / slices});
      finish_slice(*team_);
    }
    wait_for_slices(*team_, phase_++);
  }

  // Eq. (11): the initial state.
  void begin(int64_t q) {
    const int64_t P = call_.P, F = call_.F;
    const auto *h0 = static_cast<const float *>(call_.data.h0.data);
    running_ = last_running_ = count_;
    h_[q * (P + 1) + P] = entered_[q * (P + 1) + P] = zero_;
    for (int64_t p = 0; p < P; ++p) {
      set_h(q, p, h0 ? h0 + (samples_[q] * P + p) * F : zero_);
      if (has_c) c_[q * P + p] = first_c(q, p);
    }
  }

  void begin_memory(int64_t q, Sites sites) {
    const auto *c0 = static_cast<const float *>(call_.data.c0.data);
    for (int64_t p = sites.first; has_c && p < sites.last; ++p) {
      std::memset(first_c(q, p), 0, call_.padded_filters * sizeof(float));
      if (c0) std::memcpy(first_c(q, p), c0 + (samples_[q] * call_.P + p) * call_.F, call_.F * sizeof(float));
    }
    hold_until(q, -1, sites);
  }

  // Where c_0 lies, and where nothing is stored every c_t.
  float *first_c(int64_t q, int64_t p) const {
    if (own_c_) return own_c_ + (q * call_.P + p) * call_.padded_filters;
    return call_.team_c + (samples_[q] * call_.P + p) * call_.padded_filters;
  }

  void set_h(int64_t q, int64_t p, const float *h) {
    h_[q * (call_.P + 1) + p] = h;
    if (!scaled_) return;
    float *scaled = scaled_ + (q * call_.P + p) * call_.F;
    entered_[q * (call_.P + 1) + p] = h == zero_ ? zero_ : scaled;
    if (h == zero_) return;
    const float *scale = recurrent_scale(call_, samples_[q], p);
    for (int64_t f = 0; f < call_.F; ++f) scaled[f] = h[f] * scale[f];
  }

  void step(int64_t k, int64_t running) {
    InputRows input{call_, zero_};
    for (int64_t q = 0; q < running; ++q) {
      steps_[q] = call_.active.steps[call_.active.first[samples_[q]] + k];
      input.find(samples_[q], steps_[q], inputs_ + q * (call_.S + 1), copies_ + (copies_ ? q * call_.S * call_.C : 0));
    }
    if (call_.decay.left) {
      share([this, k](Sites sites) { hold_after(k - 1, sites); });
      for (int64_t q = 0; q < running; ++q) decay_h(q);
    }
    share([this, k, running](Sites sites) {
      if (!call_.decay.left) hold_after(k - 1, sites);
      for (int64_t q = 0; q < running && call_.decay.left && has_c; ++q) decay_c(q, sites);
      compute(k, running, sites);
    });
    for (int64_t q = 0; q < running && call_.decay.left && has_c; ++q)
      for (int64_t p = 0; p < call_.P; ++p) c_[q * call_.P + p] = first_c(q, p);  // also of sites that others decayed
    // Neighbours read the old states during the step; what was just written becomes the state now.
    const int64_t count = find_pairs(call_, samples_, steps_, running, {0, call_.P}, pairs_);
    for (int64_t i = 0; i < count; ++i) advance(pairs_[i], k);
    last_running_ = running;
  }

  // Eq. (24), into memory of this thread's own.
  void decay_h(int64_t q) {
    const float *left = call_.left_at(samples_[q], steps_[q]);
    for (int64_t p = 0; p < call_.P; ++p) {
      const float *h = h_[q * (call_.P + 1) + p];
      if (h == zero_) continue;
      float *decayed = decayed_ + (q * call_.P + p) * call_.F;
      for (int64_t f = 0; f < call_.F; ++f) decayed[f] = h[f] * left[f];
      set_h(q, p, decayed);
    }
  }

  void decay_c(int64_t q, Sites sites) {
    const float *left = call_.left_at(samples_[q], steps_[q]);
    for (int64_t p = sites.first; p < sites.last; ++p) {
      float *&c = c_[q * call_.P + p], *decayed = first_c(q, p);
      for (int64_t f = 0; f < call_.padded_filters; ++f) decayed[f] = c[f] * left[f];
      c = decayed;
    }
  }

  void compute(int64_t k, int64_t running, Sites sites) {
    const int64_t count = find_pairs(call_, samples_, steps_, running, sites, pairs_);
    for (int64_t first = 0; first < count; first += table_.most_rows()) {
      const int64_t here = least(table_.most_rows(), count - first);
      table_.fill(pairs_ + first, here, inputs_, entered_);
      for (int64_t i = 0; i < here; ++i) rows_[i] = row(pairs_[first + i], k);
      run_tiles<Cell>(call_, table_, rows_, here, stored_.layout());
    }
  }

  float *output(int64_t q, int64_t t, int64_t p) const {
    return static_cast<float *>(call_.data.hs.data) + ((samples_[q] * call_.T + t) * call_.P + p) * call_.F;
  }

  Row row(Pair pair, int64_t k) const {
    const int64_t stored = (call_.active.first[samples_[pair.q]] + k) * call_.P + pair.p;
    float *c = has_c ? c_[pair.q * call_.P + pair.p] : nullptr;
    return {output(pair.q, steps_[pair.q], pair.p), h_[pair.q * (call_.P + 1) + pair.p], c,
            has_c && training_ ? stored_.c_of(call_, stored) : c,
            training_ ? stored_.gates_of(call_, stored) : nullptr};
  }

  void advance(Pair pair, int64_t k) {
    set_h(pair.q, pair.p, output(pair.q, steps_[pair.q], pair.p));
    if (has_c && training_)
      c_[pair.q * call_.P + pair.p] =
          stored_.c_of(call_, (call_.active.first[samples_[pair.q]] + k) * call_.P + pair.p);
  }

  void hold_after(int64_t k, Sites sites) {
    for (int64_t q = 0; k >= 0 && q < last_running_; ++q) hold_until(q, k, sites);
  }

  // Eq. (10) where u is False: in the k-th computed step, and in the steps between it and the next.
  void hold_until(int64_t q, int64_t k, Sites sites) {
    const int64_t n = samples_[q], first = call_.active.first[n], computed = call_.computed_steps(n);
    const int64_t way = call_.layer.reverse ? -1 : 1, end = call_.layer.reverse ? -1 : call_.T;
    const int64_t stop = k + 1 < computed ? call_.active.steps[first + k + 1] : end;
    int64_t t = call_.layer.reverse ? call_.T - 1 : 0;
    if (k >= 0) {
      t = call_.active.steps[first + k] + way;
      if (call_.layer.update_mask == GAPCELL_SITES)
        for (int64_t p = sites.first; p < sites.last; ++p)
          if (!call_.updates(n, t - way, p)) hold(q, t - way, p, nullptr);
    }
    const bool decays = call_.decay.left && call_.layer.held_output == GAPCELL_HELD_STATE;
    for (; t != stop; t += way)
      for (int64_t p = sites.first; p < sites.last; ++p) hold(q, t, p, decays ? call_.left_at(n, t) : nullptr);
  }

  // `left`: what is left of the state by then; NULL: all of it.
  void hold(int64_t q, int64_t t, int64_t p, const float *left) {
    const float *state = call_.layer.held_output == GAPCELL_HELD_STATE ? h_[q * (call_.P + 1) + p] : zero_;
    copy(output(q, t, p), state, left);
  }

  void copy(float *to, const float *from, const float *left) const {
    if (!left) return static_cast<void>(std::memcpy(to, from, call_.F * sizeof(float)));
    for (int64_t f = 0; f < call_.F; ++f) to[f] = from[f] * left[f];
  }

  void finish(int64_t q, Sites sites) {
    const int64_t n = samples_[q], P = call_.P, F = call_.F;
    auto *h = static_cast<float *>(call_.data.h.data), *c = static_cast<float *>(call_.data.c.data);
    const float *left = call_.left_at_end(n);
    for (int64_t p = sites.first; p < sites.last; ++p) {
      if (h) copy(h + (n * P + p) * F, h_[q * (P + 1) + p], left);
      if (c && has_c) copy(c + (n * P + p) * F, c_[q * P + p], left);
    }
  }

  static constexpr bool has_c = Cell::has_c;

  const Call &call_;
  const int thread_;
  Team *const team_;  // or alone
  const int64_t *samples_;
  const int64_t count_;
  const float *zero_;
  const Stored stored_;
  const bool training_;
  TileTable table_;
  int64_t *steps_;
  Pair *pairs_;
  Row *rows_;
  const float **inputs_;
  const float **h_;        // h_(t-1)
  const float **entered_;  // as the recurrent convolution reads it: h_, or times the dropout's scale
  float **c_;              // c_(t-1)
  float *copies_ = nullptr, *scaled_ = nullptr, *own_c_ = nullptr, *decayed_ = nullptr;
  int64_t running_ = 0, last_running_ = 0, phase_ = 0;
};

}  // namespace gapcell::GAPCELL_ISA

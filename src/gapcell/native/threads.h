// A small pool of threads that sleep when there is nothing to do, or the caller's own threads.
//
// Not an OpenMP of our own: a second OpenMP runtime beside a framework's spins for the same cores, and times vary
// tenfold. For the same reason a framework that has one does better to lend it: its threads spin for a while after its
// own operators, just when this kernel wants the cores.
#pragma once

#include <atomic>
#include <functional>

#include "call.h"

namespace gapcell {

// Runs work(0) .. work(parts - 1), the caller among the threads that do, and returns when all are done. Which thread
// runs which part does not matter to the result. May be called from several threads at once, and after fork. The first
// exception that a part throws is thrown again here. `lent`: the caller's threads, or NULL.
void run_parts(int parts, gapcell_parallel lent, const std::function<void(int)> &work);

// Several threads at work that has phases, each of so many slices. Whoever comes claims what is left of a phase, and
// then waits for the others to finish theirs: all gets done, however many come. Its functions are in call.h.
class Team {
 public:
  explicit Team(int slices) : slices_(slices) {}

 private:
  friend int claim_slice(Team &team, int64_t phase);
  friend void finish_slice(Team &team);
  friend void wait_for_slices(const Team &team, int64_t phase);

  const int64_t slices_;
  std::atomic<int64_t> claimed_{0}, done_{0};
};

}  // namespace gapcell

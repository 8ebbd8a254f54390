// Which steps are computed and who computes them.
#pragma once

#include <cstdint>
#include <vector>

#include "call.h"

namespace gapcell {

// A step in which no site of a sample is updated is a no-op (eq. (9)) and is left out.
//
// A thread owns whole samples, for all steps, so that no thread ever waits for another's h_(t-1). Samples are dealt out
// longest first to the thread that has least, which depends on the masks and the number of threads only: the same call
// is divided the same way every time. Where there are fewer samples than threads, forward lets several threads share
// the sites of each step (`team`); they wait for each other at its end.
struct Schedule {
  std::vector<int64_t> first, steps, samples, thread_first;
  int team = 1;

  explicit Schedule(const Call &call);
  ActiveSteps active() const {
    return {first.data(), steps.data(), samples.data(), thread_first.data(), static_cast<int>(thread_first.size()) - 1,
            team};
  }

 private:
  void list_steps(const Call &call);
  void deal_out(const Call &call);
};

// How many steps of all samples are computed; lists none, so that it may be asked of sizes that no memory holds.
int64_t computed_steps(const Call &call);

}  // namespace gapcell

// A small pool of threads that sleep when there is nothing to do, or the caller's own threads.
//
// Not an OpenMP of our own: a second OpenMP runtime beside a framework's spins for the same cores, and times vary
// tenfold. For the same reason a framework that has one does better to lend it: its threads spin for a while after its
// own operators, just when this kernel wants the cores.
#pragma once

#include <functional>

#include "interface.h"

namespace gapcell {

// Runs work(0) .. work(parts - 1), the caller among the threads that do, and returns when all are done. Which thread
// runs which part does not matter to the result. May be called from several threads at once, and after fork. The first
// exception that a part throws is thrown again here. `lent`: the caller's threads, or NULL.
void run_parts(int parts, gapcell_parallel lent, const std::function<void(int)> &work);

}  // namespace gapcell

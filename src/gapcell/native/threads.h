// A small pool of threads that sleep when there is nothing to do.
//
// Not OpenMP: a second OpenMP runtime beside a framework's own spins for the same cores, and times vary tenfold.
#pragma once

#include <functional>

namespace gapcell {

// Runs work(0) .. work(parts - 1), the caller among the threads that do, and returns when all are done. Which thread
// runs which part does not matter to the result. May be called from several threads at once, and after fork. The first
// exception that a part throws is thrown again here.
void run_parts(int parts, const std::function<void(int)> &work);

}  // namespace gapcell

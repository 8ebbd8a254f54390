// Which instruction set runs.
#pragma once

#include <string>

#include "call.h"

namespace gapcell {

// NULL if the kernel is switched off.
const Kernel *active_kernel();
const char *active_reason();

// "" is the default choice: the widest this machine has. Throws Refused for a name that it does not have.
void choose_kernel(const std::string &name);

}  // namespace gapcell

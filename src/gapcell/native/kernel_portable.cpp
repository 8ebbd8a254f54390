#define GAPCELL_ISA portable
#define GAPCELL_LANES 4
#include "kernel.hpp"

namespace gapcell {
const Kernel kPortable = portable::table("portable");
}

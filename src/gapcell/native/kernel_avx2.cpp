#define GAPCELL_ISA avx2
#define GAPCELL_LANES 8
#include "kernel.hpp"

namespace gapcell {
const Kernel kAvx2 = avx2::table("avx2");
}

#define GAPCELL_ISA avx512
#define GAPCELL_LANES 16
#include "kernel.hpp"

namespace gapcell {
const Kernel kAvx512 = avx512::table("avx512");
}

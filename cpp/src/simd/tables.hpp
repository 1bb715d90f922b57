// The tables that the source files of this folder define, one pair for each instruction set.
#pragma once

#include "atheria/kernels.hpp"

namespace atheria {

extern const Kernels<float> baseline_float;
extern const Kernels<double> baseline_double;
#if defined(__x86_64__)
extern const Kernels<float> avx2_float;
extern const Kernels<double> avx2_double;
extern const Kernels<float> avx512_float;
extern const Kernels<double> avx512_double;
#endif

}  // namespace atheria

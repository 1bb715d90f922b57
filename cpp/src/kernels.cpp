#include "atheria/kernels.hpp"

#include "simd/tables.hpp"

namespace atheria {

template <>
const Kernels<float>& kernels<float>(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::avx512: return avx512_float;
    case Isa::avx2: return avx2_float;
    case Isa::baseline: break;
  }
#endif
  static_cast<void>(isa);
  return baseline_float;
}

template <>
const Kernels<double>& kernels<double>(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::avx512: return avx512_double;
    case Isa::avx2: return avx2_double;
    case Isa::baseline: break;
  }
#endif
  static_cast<void>(isa);
  return baseline_double;
}

}  // namespace atheria

#include "atheria/cpu.hpp"

#include <initializer_list>

namespace atheria {

bool supported(Isa isa) noexcept {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("fma");
    case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::baseline: break;
  }
#endif
  return isa == Isa::baseline;
}

Isa best_isa() noexcept {
  for (const Isa isa : {Isa::avx512, Isa::avx2}) {
    if (supported(isa)) {
      return isa;
    }
  }
  return Isa::baseline;
}

std::string_view name(Isa isa) noexcept {
  switch (isa) {
    case Isa::avx512: return "AVX-512";
    case Isa::avx2: return "AVX2+FMA";
    case Isa::baseline: break;
  }
  return "baseline";
}

}  // namespace atheria

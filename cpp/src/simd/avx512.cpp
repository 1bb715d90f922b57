#define ATHERIA_VECTOR_BYTES 64
#include "table.hpp"
#include "tables.hpp"

namespace atheria {

constinit const Kernels<float> avx512_float = table<float>();
constinit const Kernels<double> avx512_double = table<double>();

}  // namespace atheria

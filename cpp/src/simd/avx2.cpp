#define ATHERIA_VECTOR_BYTES 32
#include "table.hpp"
#include "tables.hpp"

namespace atheria {

constinit const Kernels<float> avx2_float = table<float>();
constinit const Kernels<double> avx2_double = table<double>();

}  // namespace atheria

// The kernels of one instruction set, gathered into its table. To include once in a source file
// that defines ATHERIA_VECTOR_BYTES and is compiled for that instruction set.
#pragma once

#include "dense.hpp"
#include "tiles.hpp"

namespace atheria {
namespace {

template <class R>
constexpr Kernels<R> table() {
  return {Simd<R>::lanes, dense<R>, activate<R>, load<R>, scale<R>, blend<R>, noise<R>, store<R>};
}

}  // namespace
}  // namespace atheria

// One source for every instruction set: vectors of ATHERIA_VECTOR_BYTES, by the compiler's vector
// extension. Each source file that includes this is compiled with its own flags; everything here
// lives in an unnamed namespace, so that no function compiled for a wide instruction set can be
// taken by the linker for another file's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef ATHERIA_VECTOR_BYTES
#error "a source file with kernels defines ATHERIA_VECTOR_BYTES first"
#endif

namespace atheria {
namespace {

template <class R>
struct Simd {
  using Integer = std::conditional_t<sizeof(R) == 4, std::int32_t, std::int64_t>;
  typedef R Vector __attribute__((vector_size(ATHERIA_VECTOR_BYTES)));
  typedef Integer Integers __attribute__((vector_size(ATHERIA_VECTOR_BYTES)));
  // The same vector, anywhere in memory.
  typedef R Loose __attribute__((vector_size(ATHERIA_VECTOR_BYTES), aligned(alignof(R)), may_alias));
  static constexpr std::size_t lanes = ATHERIA_VECTOR_BYTES / sizeof(R);
};

template <class R>
using Vec = typename Simd<R>::Vector;

template <class R>
using Ints = typename Simd<R>::Integers;

#define ATHERIA_INLINE [[gnu::always_inline]] inline

template <class R>
ATHERIA_INLINE Vec<R> load_vector(const R* from) {
  return *reinterpret_cast<const typename Simd<R>::Loose*>(from);
}

template <class R>
ATHERIA_INLINE void store_vector(R* to, Vec<R> v) {
  *reinterpret_cast<typename Simd<R>::Loose*>(to) = v;
}

template <class R>
ATHERIA_INLINE Vec<R> fill(R x) {
  return x - Vec<R>{};
}

template <class R>
ATHERIA_INLINE Ints<R> bits(Vec<R> v) {
  return reinterpret_cast<Ints<R>>(v);
}

template <class R>
ATHERIA_INLINE Vec<R> from_bits(Ints<R> v) {
  return reinterpret_cast<Vec<R>>(v);
}

// The greater, and the lesser; of a NaN and b: b. The compiler makes two instructions of the
// comparison where the processor has one.
template <class V>
ATHERIA_INLINE V maximum(V a, V b) {
  return a > b ? a : b;
}

template <class V>
ATHERIA_INLINE V minimum(V a, V b) {
  return a < b ? a : b;
}

#if ATHERIA_VECTOR_BYTES == 32
ATHERIA_INLINE __m256 maximum(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
ATHERIA_INLINE __m256d maximum(__m256d a, __m256d b) { return _mm256_max_pd(a, b); }
ATHERIA_INLINE __m256 minimum(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
ATHERIA_INLINE __m256d minimum(__m256d a, __m256d b) { return _mm256_min_pd(a, b); }
#endif

// Of the pairs (a0, a1), (a2, a3), ... of two vectors, the first or the second numbers; and back,
// the first or the second vector of pairs. Nothing crosses from one 16 bytes to the next, which
// would take three times as long: the order is split_number()'s.
template <class R, std::size_t Which, std::size_t... I>
ATHERIA_INLINE Vec<R> of_pairs(Vec<R> a, Vec<R> b, std::index_sequence<I...>) {
  constexpr std::size_t lane = 16 / sizeof(R);
  return __builtin_shufflevector(
      a, b,
      (I / lane * lane + I % (lane / 2) * 2 + Which +
       I % lane / (lane / 2) * Simd<R>::lanes)...);
}

template <class R, std::size_t Which>
ATHERIA_INLINE Vec<R> of_pairs(Vec<R> a, Vec<R> b) {
  return of_pairs<R, Which>(a, b, std::make_index_sequence<Simd<R>::lanes>{});
}

template <class R, std::size_t Half, std::size_t... I>
ATHERIA_INLINE Vec<R> to_pairs(Vec<R> a, Vec<R> b, std::index_sequence<I...>) {
  constexpr std::size_t lane = 16 / sizeof(R);
  return __builtin_shufflevector(
      a, b,
      (I / lane * lane + Half * lane / 2 + I % lane / 2 + I % 2 * Simd<R>::lanes)...);
}

template <class R, std::size_t Half>
ATHERIA_INLINE Vec<R> to_pairs(Vec<R> a, Vec<R> b) {
  return to_pairs<R, Half>(a, b, std::make_index_sequence<Simd<R>::lanes>{});
}

// Summed lane by lane in order: the same for every call.
template <class R>
ATHERIA_INLINE R sum_lanes(Vec<R> v) {
  R total = 0;
  for (std::size_t i = 0; i < Simd<R>::lanes; ++i) {
    total += v[i];
  }
  return total;
}

}  // namespace
}  // namespace atheria

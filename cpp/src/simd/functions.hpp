// exp, tanh, erf, sine and cosine of vectors, each within a few units in the last place.
//
// exp, sine and cosine reduce their argument and sum the Taylor series: over so short an interval
// it is as good as a fitted polynomial. erf interpolates at Chebyshev nodes (fitted to 40 digits).
#pragma once

#include "vector.hpp"

namespace atheria {
namespace {

template <class R>
struct Constants;

template <>
struct Constants<float> {
  static constexpr float magic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int mantissa = 23;
  static constexpr std::int32_t one = 0x3F800000;
  static constexpr std::int32_t sign = static_cast<std::int32_t>(0x80000000U);
  static constexpr float least_exponent = -87.0F;
  static constexpr float most_exponent = 88.0F;
  static constexpr float log2_e = 1.44269504088896341F;
  static constexpr float ln2 = 0.693147180559945309F;
  static constexpr float exp_minus[] = {
      1.0F, -1.00000003773887126F, 0.500000004714605742F, -0.166664154140411784F,
      0.0416663527711122113F, -0.00837513477462432517F, 0.00139411188958370008F};
  static constexpr float ln2_high = 0.693115234375F;  // few bits: its multiples are exact
  static constexpr float ln2_low = 3.1946184945309415e-05F;
  static constexpr float half_pi_high = 0x1.921f8p+0F;
  static constexpr float half_pi_middle = 0x1.aa22p-19F;
  static constexpr float half_pi_low = 0x1.68c234p-39F;
  static constexpr int exp_terms = 7;
  static constexpr int circle_terms = 5;
  static constexpr float erf_most = 4.0F;
  static constexpr float erf_inner[] = {
      1.12837916584835095F,     -0.37612626666720331F,   0.112835947151602177F,
      -0.0268542120106264124F,  0.00518908742343397399F, -0.000801686428716586953F,
      0.0000787587506268548834F};
  static constexpr float erf_outer[] = {
      -0.000164236387081617662F, 0.285061620115570627F, 0.258751366385519118F,
      0.351030323178788544F,     -0.110208294055693828F, 0.57126517581198151F,
      -0.476525274384609331F,    0.120852433163171017F};
};

template <>
struct Constants<double> {
  static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int mantissa = 52;
  static constexpr std::int64_t one = 0x3FF0000000000000;
  static constexpr std::int64_t sign = static_cast<std::int64_t>(0x8000000000000000U);
  static constexpr double least_exponent = -708.0;
  static constexpr double most_exponent = 709.0;
  static constexpr double log2_e = 1.44269504088896340736;
  static constexpr double ln2 = 0.693147180559945309;
  static constexpr double exp_minus[] = {
      1.0,                    -1.0,
      0.50000000000000184,    -0.166666666666666808,
      0.0416666666664879525,  -0.00833333333331958962,
      0.00138888889523528629, -0.000198412698900764028,
      0.000024801485441561313, -2.75572408872298686e-6,
      2.76326547225277919e-7, -2.51100492048186598e-8};
  static constexpr double ln2_high = 0x1.62e42fefa2p-1;
  static constexpr double ln2_low = 0x1.9ef35793c7673p-41;
  static constexpr double half_pi_high = 0x1.921fb54442dp+0;
  static constexpr double half_pi_middle = 0x1.8469898cc51p-48;
  static constexpr double half_pi_low = 0x1.c06e0e6894812p-94;
  static constexpr int exp_terms = 13;
  static constexpr int circle_terms = 9;
  static constexpr double erf_most = 6.0;
  static constexpr double erf_inner[] = {
      1.12837916709551257,     -0.376126389031837481,    0.112837916709548787,
      -0.0268661706450767932,  0.00522397762481801447,   -0.000854832698083378991,
      0.000120553311116427109, -0.0000149255952668311816, 1.6461000484121368e-6,
      -1.6350312701054695e-7,  1.46597752740474358e-8,   -1.13728488567916737e-9,
      5.9571761477489114e-11};
  static constexpr double erf_outer[] = {
      1.29658413029865563e-7, 0.282089759929175398,  0.282185255460822064,  0.24583414322512833,
      0.183875166187312208,   0.0421658108417165331, 0.166402356422969138,  -0.588380498452977529,
      1.2007988921739575,     -2.21611129583081131,  2.86891148761687675,   -2.36034631086710566,
      1.171209502392138,      -0.299108740311273908, 0.013174502501744025,  0.00730113499585691705};
};

// A NaN passes: the instructions return their second operand if one is a NaN.
template <class R>
ATHERIA_INLINE Vec<R> clamp(Vec<R> x, R least, R most) {
  return minimum(fill(most), maximum(fill(least), x));
}

template <class R>
ATHERIA_INLINE Vec<R> absolute(Vec<R> x) {
  return from_bits<R>(bits<R>(x) & ~Constants<R>::sign);
}

template <class R, int Terms>
ATHERIA_INLINE Vec<R> polynomial(const R (&coefficients)[Terms], Vec<R> x) {
  Vec<R> sum = fill(coefficients[Terms - 1]);
#pragma GCC unroll 20
  for (int i = Terms - 2; i >= 0; --i) {
    sum = sum * x + coefficients[i];
  }
  return sum;
}

constexpr double factorial(int n) { return n < 2 ? 1.0 : n * factorial(n - 1); }

// exp(x) = scale * (1 + rest), with scale a power of two.
template <class R>
struct Exponential {
  Vec<R> scale;
  Vec<R> rest;
};

template <class R>
ATHERIA_INLINE Exponential<R> exponential(Vec<R> x) {
  using C = Constants<R>;
  const Vec<R> shifted = x * C::log2_e + C::magic;
  const Vec<R> n = shifted - C::magic;
  const Vec<R> r = (x - n * C::ln2_high) - n * C::ln2_low;
  // 1/1! + r/2! + r^2/3! + ..., which is (exp(r) - 1) / r.
  Vec<R> sum = fill(R(1.0 / factorial(C::exp_terms)));
#pragma GCC unroll 20
  for (int i = C::exp_terms - 1; i >= 1; --i) {
    sum = sum * r + R(1.0 / factorial(i));
  }
  return {from_bits<R>((bits<R>(shifted) << C::mantissa) + C::one), r * sum};
}

// For x between least_exponent and most_exponent.
template <class R>
ATHERIA_INLINE Vec<R> exp_within(Vec<R> x) {
  const Exponential<R> e = exponential<R>(x);
  return e.scale + e.scale * e.rest;
}

template <class R>
ATHERIA_INLINE Vec<R> tanh(Vec<R> x) {
  const Exponential<R> e = exponential<R>(clamp<R>(x + x, R(-60), R(60)));
  // exp(2x) - 1 without cancellation.
  const Vec<R> less_one = e.scale * e.rest + (e.scale - R(1));
  return less_one / (less_one + R(2));
}

template <class R>
ATHERIA_INLINE Vec<R> erf(Vec<R> x) {
  using C = Constants<R>;
  const Vec<R> size = clamp<R>(absolute<R>(x), R(0), C::erf_most);
  const Vec<R> inner = size * polynomial<R>(C::erf_inner, size * size);
  const Vec<R> t = R(1) / (size * R(0.5) + R(1));
  const Vec<R> outer =
      R(1) - exp_within<R>(-(size * size)) * polynomial<R>(C::erf_outer, t);
  const Vec<R> value = size < R(1) ? inner : outer;
  return from_bits<R>(bits<R>(value) | (bits<R>(x) & C::sign));
}

// 1 + exp(-x), in fewer instructions than exponential() takes: most of an MLP's time outside its
// matrices is here. The polynomial interpolates exp over half a binade at Chebyshev nodes.
template <class R>
ATHERIA_INLINE Vec<R> one_plus_exp_minus(Vec<R> x) {
  using C = Constants<R>;
  x = clamp<R>(x, -C::most_exponent, -C::least_exponent);
  const Vec<R> shifted = C::magic - x * C::log2_e;
  const Vec<R> n = shifted - C::magic;
#if defined(__FMA__)
  // The product is not rounded, so ln 2 in one piece does.
  const Vec<R> minus_r = x + n * C::ln2;
#else
  const Vec<R> minus_r = (x + n * C::ln2_high) + n * C::ln2_low;
#endif
  const Vec<R> scale = from_bits<R>((bits<R>(shifted) << C::mantissa) + C::one);
  return scale * polynomial<R>(C::exp_minus, minus_r) + R(1);
}

#if ATHERIA_VECTOR_BYTES == 32
// The same with a table of the powers of 2^(1/8), which leaves so little that a cubic does (again
// interpolated). An entry lacks its index's share of the exponent, which the shift puts there.
template <>
ATHERIA_INLINE Vec<float> one_plus_exp_minus<float>(Vec<float> x) {
  using C = Constants<float>;
  const __m256i powers =
      _mm256_setr_epi32(0x3F800000, 0x3F7B95C2, 0x3F7837F0, 0x3F75FED7,  //
                        0x3F7504F3, 0x3F75672A, 0x3F7744FD, 0x3F7AC0C7);
  constexpr float cubic[] = {0.99999998F, -0.999999996F, 0.500081363F, -0.166682939F};
  x = clamp<float>(x, -C::most_exponent, -C::least_exponent);
  const Vec<float> shifted = C::magic - x * (8 * C::log2_e);
  const Vec<float> n = shifted - C::magic;
  const Vec<float> minus_r = x + n * (C::ln2 / 8);
  const Ints<float> power = reinterpret_cast<Ints<float>>(
      _mm256_permutevar8x32_epi32(powers, reinterpret_cast<__m256i>(shifted)));
  const Vec<float> scale = from_bits<float>((bits<float>(shifted) << (C::mantissa - 3)) + power);
  return scale * polynomial<float>(cubic, minus_r) + 1.0F;
}
#endif

template <class R>
ATHERIA_INLINE Vec<R> silu(Vec<R> x) {
  return x / one_plus_exp_minus<R>(x);
}

template <class R>
ATHERIA_INLINE Vec<R> gelu(Vec<R> x) {
  return x * R(0.5) * (erf<R>(x * R(0.70710678118654752440)) + R(1));
}

template <class R>
struct Circle {
  Vec<R> cosine;
  Vec<R> sine;
};

// For angles of a few turns at most.
template <class R>
ATHERIA_INLINE Circle<R> circle(Vec<R> angle) {
  using C = Constants<R>;
  const Vec<R> shifted = angle * R(0.63661977236758134308) + C::magic;
  const Vec<R> n = shifted - C::magic;
  const Vec<R> r =
      ((angle - n * C::half_pi_high) - n * C::half_pi_middle) - n * C::half_pi_low;
  const Vec<R> square = r * r;
  Vec<R> sine = Vec<R>{};
  Vec<R> cosine = Vec<R>{};
#pragma GCC unroll 20
  for (int i = C::circle_terms; i >= 0; --i) {
    const double sign = i % 2 == 0 ? 1.0 : -1.0;
    sine = sine * square + R(sign / factorial(2 * i + 1));
    cosine = cosine * square + R(sign / factorial(2 * i));
  }
  sine *= r;
  // The quadrant is in the low bits: odd ones swap, the second and third turn signs.
  const Ints<R> quadrant = bits<R>(shifted);
  const Ints<R> odd = (quadrant & 1) != 0;
  const Vec<R> c = odd ? sine : cosine;
  const Vec<R> s = odd ? cosine : sine;
  const Ints<R> turn_sine = (quadrant & 2) << (8 * int(sizeof(R)) - 2);
  const Ints<R> turn_cosine = ((quadrant + 1) & 2) << (8 * int(sizeof(R)) - 2);
  return {from_bits<R>(bits<R>(c) ^ turn_cosine), from_bits<R>(bits<R>(s) ^ turn_sine)};
}

}  // namespace
}  // namespace atheria

// What the backward pass of a fused step is made of.
#pragma once

#include <cmath>

#include "atheria/kernels.hpp"
#include "functions.hpp"
#include "tiles.hpp"
#include "vector.hpp"

namespace atheria {
namespace {

template <class R>
struct Slope {
  Vec<R> value;
  Vec<R> slope;
};

template <class R>
ATHERIA_INLINE Slope<R> slope_of(Activation f, Vec<R> x) {
  switch (f) {
    case Activation::silu: {
      const Vec<R> part = R(1) / one_plus_exp_minus<R>(x);
      const Vec<R> value = x * part;
      return {value, part + value * (R(1) - part)};
    }
    case Activation::relu:
      // A NaN stays one; where the input is 0, so is the slope, as in PyTorch.
      return {x < R(0) ? Vec<R>{} : x, x > R(0) ? fill(R(1)) : (x <= R(0) ? Vec<R>{} : x)};
    case Activation::gelu: {
      const Vec<R> share = R(0.5) * (erf<R>(x * R(0.70710678118654752440)) + R(1));
      const Vec<R> bell = exp_within<R>(
          clamp<R>(x * x * R(-0.5), Constants<R>::least_exponent, R(0)));
      return {x * share, share + x * bell * R(0.39894228040143267794)};
    }
    case Activation::tanh: {
      const Vec<R> value = tanh<R>(x);
      return {value, R(1) - value * value};
    }
  }
  return {x, x};
}

template <class R>
void differentiate(Activation f, R* data, R* value, std::size_t count) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  const auto all = [&](auto chosen) {
    for (std::size_t i = 0; i < count; i += lanes) {
      const Slope<R> at = slope_of<R>(chosen, load_vector(data + i));
      store_vector(value + i, at.value);
      store_vector(data + i, at.slope);
    }
  };
  switch (f) {
    case Activation::silu:
      all(std::integral_constant<Activation, Activation::silu>{});
      break;
    case Activation::relu:
      all(std::integral_constant<Activation, Activation::relu>{});
      break;
    case Activation::gelu:
      all(std::integral_constant<Activation, Activation::gelu>{});
      break;
    case Activation::tanh:
      all(std::integral_constant<Activation, Activation::tanh>{});
      break;
  }
}

template <class R>
void multiply(R* data, const R* factor, std::size_t count) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  for (std::size_t i = 0; i < count; i += lanes) {
    store_vector(data + i, load_vector(data + i) * load_vector(factor + i));
  }
}

// `Count` inputs by `Panel` vectors: their sums stay in registers over all rows.
template <class R, std::size_t Count, std::size_t Panel>
ATHERIA_INLINE void outer_block(const R* a, std::size_t a_stride, const R* b, std::size_t b_stride,
                                std::size_t rows, R* sum) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  Vec<R> total[Count][Panel];
#pragma GCC unroll 16
  for (std::size_t i = 0; i < Count; ++i) {
#pragma GCC unroll 4
    for (std::size_t p = 0; p < Panel; ++p) {
      total[i][p] = load_vector(sum + i * b_stride + p * lanes);
    }
  }
  for (std::size_t row = 0; row < rows; ++row, a += a_stride, b += b_stride) {
    Vec<R> y[Panel];
#pragma GCC unroll 4
    for (std::size_t p = 0; p < Panel; ++p) {
      y[p] = load_vector(b + p * lanes);
    }
#pragma GCC unroll 16
    for (std::size_t i = 0; i < Count; ++i) {
      const Vec<R> x = fill(a[i]);
#pragma GCC unroll 4
      for (std::size_t p = 0; p < Panel; ++p) {
        total[i][p] += x * y[p];
      }
    }
  }
#pragma GCC unroll 16
  for (std::size_t i = 0; i < Count; ++i) {
#pragma GCC unroll 4
    for (std::size_t p = 0; p < Panel; ++p) {
      store_vector(sum + i * b_stride + p * lanes, total[i][p]);
    }
  }
}

template <class R, std::size_t Panel>
void outer_panel(const R* a, std::size_t a_stride, std::size_t a_count, const R* b,
                 std::size_t b_stride, std::size_t rows, R* sum) {
  std::size_t i = 0;
  for (; i + 6 <= a_count; i += 6) {
    outer_block<R, 6, Panel>(a + i, a_stride, b, b_stride, rows, sum + i * b_stride);
  }
  for (; i + 4 <= a_count; i += 4) {
    outer_block<R, 4, Panel>(a + i, a_stride, b, b_stride, rows, sum + i * b_stride);
  }
  for (; i < a_count; i += 2) {
    outer_block<R, 2, Panel>(a + i, a_stride, b, b_stride, rows, sum + i * b_stride);
  }
}

template <class R>
void outer(const R* a, std::size_t a_stride, std::size_t a_count, const R* b, std::size_t b_stride,
           std::size_t rows, R* sum) {
  constexpr std::size_t panel = kPanelVectors * Simd<R>::lanes;
  std::size_t first = 0;
  for (; first + panel <= b_stride; first += panel) {
    outer_panel<R, kPanelVectors>(a, a_stride, a_count, b + first, b_stride, rows, sum + first);
  }
  if (first < b_stride) {
    outer_panel<R, 1>(a, a_stride, a_count, b + first, b_stride, rows, sum + first);
  }
}

template <class R>
void sum_rows(const R* data, std::size_t stride, std::size_t rows, R* sum) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  for (std::size_t i = 0; i < stride; i += lanes) {
    Vec<R> total = load_vector(sum + i);
    for (std::size_t row = 0; row < rows; ++row) {
      total += load_vector(data + row * stride + i);
    }
    store_vector(sum + i, total);
  }
}

template <class R>
double dot(const R* a, const R* b, std::size_t count) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  Vec<R> sums[2] = {};
  std::size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    sums[0] += load_vector(a + i) * load_vector(b + i);
    sums[1] += load_vector(a + i + lanes) * load_vector(b + i + lanes);
  }
  R rest = 0;
  for (; i < count; ++i) {
    rest += a[i] * b[i];
  }
  return static_cast<double>(sum_lanes<R>(sums[0] + sums[1]) + rest);
}

template <class R>
void less(const R* a, const R* b, std::size_t rows, std::size_t width, R factor, R share, R* to,
          std::size_t stride) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  for (std::size_t row = 0; row < rows; ++row) {
    const R* const x = a + row * width;
    R* const out = to + row * stride;
    std::size_t i = 0;
    for (; i + lanes <= width; i += lanes) {
      Vec<R> rest = load_vector(x + i);
      if (b != nullptr) {
        rest -= load_vector(b + row * width + i) * share;
      }
      store_vector(out + i, rest * factor);
    }
    for (; i < width; ++i) {
      out[i] = factor * (x[i] - (b != nullptr ? share * b[row * width + i] : R(0)));
    }
    for (; i < stride; ++i) {
      out[i] = 0;
    }
  }
}

template <class R>
void unscale_cells(const R* y, R* gradient, std::size_t rows, std::size_t stride) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  const R least = static_cast<R>(kTinyDensity);
  for (std::size_t row = 0; row < rows; ++row) {
    const R* const cell = y + row * stride;
    R* const g = gradient + row * stride;
    Vec<R> squares{};
    Vec<R> products{};
    for (std::size_t i = 0; i < stride; i += lanes) {
      squares += load_vector(cell + i) * load_vector(cell + i);
      products += load_vector(cell + i) * load_vector(g + i);
    }
    const R density = sum_lanes<R>(squares);
    // Below the least density the scale is a constant.
    const R factor = R(1) / std::sqrt(density < least ? least : density);
    const R along = density < least ? R(0) : sum_lanes<R>(products) / density;
    for (std::size_t i = 0; i < stride; i += lanes) {
      store_vector(g + i, (load_vector(g + i) - load_vector(cell + i) * along) * factor);
    }
  }
}

}  // namespace
}  // namespace atheria

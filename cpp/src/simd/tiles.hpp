// How a tile is loaded, blended with the law's change, turned by noise, and stored.
#pragma once

#include <cmath>

#include "atheria/kernels.hpp"
#include "functions.hpp"
#include "philox_lanes.hpp"

namespace atheria {
namespace {

// The least density that a norm divides by, as in lattice.py.
constexpr double kTinyDensity = 1e-30;

template <class R, class F>
ATHERIA_INLINE void for_each_vector(R* data, std::size_t count, F f) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  std::size_t i = 0;
  // Two at a time: one alone waits for its own division.
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const Vec<R> first = f(load_vector(data + i));
    const Vec<R> second = f(load_vector(data + i + lanes));
    store_vector(data + i, first);
    store_vector(data + i + lanes, second);
  }
  for (; i < count; i += lanes) {
    store_vector(data + i, f(load_vector(data + i)));
  }
}

template <class R>
void activate(Activation f, R* data, std::size_t count) {
  switch (f) {
    case Activation::silu:
      for_each_vector(data, count, [](Vec<R> x) { return silu<R>(x); });
      break;
    case Activation::relu:
      // The comparison keeps a NaN.
      for_each_vector(data, count, [](Vec<R> x) { return x < R(0) ? Vec<R>{} : x; });
      break;
    case Activation::gelu:
      for_each_vector(data, count, [](Vec<R> x) { return gelu<R>(x); });
      break;
    case Activation::tanh:
      for_each_vector(data, count, [](Vec<R> x) { return tanh<R>(x); });
      break;
  }
}

template <class R>
ATHERIA_INLINE void scale_run(const R* from, R* to, std::size_t count, R factor) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    store_vector(to + i, load_vector(from + i) * factor);
  }
  for (; i < count; ++i) {
    to[i] = from[i] * factor;
  }
}

template <class R>
void scale(const R* from, R* to, std::size_t count, R factor) {
  scale_run(from, to, count, factor);
}

template <class R>
void load(const R* from, std::size_t rows, std::size_t width, R factor, R* to,
          std::size_t stride) {
  if (stride == width) {
    scale_run(from, to, rows * width, factor);
    return;
  }
  for (std::size_t row = 0; row < rows; ++row) {
    scale_run(from + row * width, to + row * stride, width, factor);
    for (std::size_t i = width; i < stride; ++i) {
      to[row * stride + i] = 0;
    }
  }
}

template <class R>
void copy(const R* from, std::size_t from_stride, std::size_t rows, std::size_t width, R* to,
          std::size_t to_stride) {
  if (from_stride == width && to_stride == width) {
    scale_run(from, to, rows * width, R(1));
    return;
  }
  for (std::size_t row = 0; row < rows; ++row) {
    scale_run(from + row * from_stride, to + row * to_stride, width, R(1));
  }
}

template <class R>
void add_rows(const R* from, std::size_t stride, std::size_t rows, std::size_t width, R* to) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  for (std::size_t row = 0; row < rows; ++row) {
    const R* const x = from + row * stride;
    R* const sum = to + row * width;
    std::size_t i = 0;
    for (; i + lanes <= width; i += lanes) {
      store_vector(sum + i, load_vector(sum + i) + load_vector(x + i));
    }
    for (; i < width; ++i) {
      sum[i] += x[i];
    }
  }
}

template <class R>
void split(const R* from, std::size_t from_stride, std::size_t rows, std::size_t count, R* to,
           std::size_t to_stride, std::size_t plane) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  for (std::size_t row = 0; row < rows; ++row) {
    const R* const z = from + row * from_stride;
    R* const real = to + row * to_stride;
    R* const imag = real + plane;
    R* const sum = imag + plane;
    for (std::size_t i = 0; i + lanes <= count; i += lanes) {
      const Vec<R> low = load_vector(z + 2 * i);
      const Vec<R> high = load_vector(z + 2 * i + lanes);
      const Vec<R> x = of_pairs<R, 0>(low, high);
      const Vec<R> y = of_pairs<R, 1>(low, high);
      store_vector(real + i, x);
      store_vector(imag + i, y);
      store_vector(sum + i, x + y);
    }
  }
  // What is left of each row comes apart: in the loop above it would take the registers.
  const std::size_t whole = count / lanes * lanes;
  for (std::size_t row = 0; whole < count && row < rows; ++row) {
    const R* const z = from + row * from_stride;
    R* const real = to + row * to_stride;
#pragma GCC unroll 1
    for (std::size_t i = whole; i < count; ++i) {
      real[i] = z[2 * i];
      real[i + plane] = z[2 * i + 1];
      real[i + 2 * plane] = z[2 * i] + z[2 * i + 1];
    }
  }
}

template <class R>
void join(const R* from, std::size_t from_stride, std::size_t plane, std::size_t rows,
          std::size_t count, R* to, std::size_t to_stride) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  for (std::size_t row = 0; row < rows; ++row) {
    const R* const a = from + row * from_stride;
    const R* const b = a + plane;
    const R* const c = b + plane;
    R* const z = to + row * to_stride;
    for (std::size_t i = 0; i + lanes <= count; i += lanes) {
      const Vec<R> p = load_vector(a + i);
      const Vec<R> q = load_vector(b + i);
      const Vec<R> x = p - q;
      const Vec<R> y = load_vector(c + i) - (p + q);
      store_vector(z + 2 * i, to_pairs<R, 0>(x, y));
      store_vector(z + 2 * i + lanes, to_pairs<R, 1>(x, y));
    }
  }
  const std::size_t whole = count / lanes * lanes;
  for (std::size_t row = 0; whole < count && row < rows; ++row) {
    const R* const a = from + row * from_stride;
    R* const z = to + row * to_stride;
#pragma GCC unroll 1
    for (std::size_t i = whole; i < count; ++i) {
      z[2 * i] = a[i] - a[i + plane];
      z[2 * i + 1] = a[i + 2 * plane] - (a[i] + a[i + plane]);
    }
  }
}

template <class R>
double blend(const R* x, const R* change, R* to, std::size_t rows, std::size_t stride, R keep,
             bool cell_norm) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  if (!cell_norm) {
    constexpr std::size_t sums = 4;  // one alone would wait for itself
    Vec<R> squares[sums] = {};
    const auto one = [&](std::size_t i, std::size_t sum) {
      const Vec<R> next = load_vector(x + i) * keep + load_vector(change + i);
      store_vector(to + i, next);
      squares[sum] += next * next;
    };
    const std::size_t count = rows * stride;
    std::size_t i = 0;
    for (; i + sums * lanes <= count; i += sums * lanes) {
#pragma GCC unroll 4
      for (std::size_t sum = 0; sum < sums; ++sum) {
        one(i + sum * lanes, sum);
      }
    }
    for (; i < count; i += lanes) {
      one(i, 0);
    }
    return static_cast<double>(
        sum_lanes<R>((squares[0] + squares[1]) + (squares[2] + squares[3])));
  }
  for (std::size_t row = 0; row < rows; ++row) {
    R* const cell = to + row * stride;
    Vec<R> squares{};
    for (std::size_t i = 0; i < stride; i += lanes) {
      const Vec<R> next =
          load_vector(x + row * stride + i) * keep + load_vector(change + row * stride + i);
      store_vector(cell + i, next);
      squares += next * next;
    }
    const R density = sum_lanes<R>(squares);
    const R least = static_cast<R>(kTinyDensity);
    scale_run(cell, cell, stride, R(1) / std::sqrt(density < least ? least : density));
  }
  return 0.0;
}

// Uniform numbers of one block of counters, as lanes of R.
template <class R>
ATHERIA_INLINE void uniform_lanes(const NoiseAt& at, std::uint64_t cell, std::size_t rows,
                                  std::uint32_t block, std::uint32_t stream,
                                  R (&out)[4][kPhiloxLanes]) {
  PhiloxLanes counters;
  for (std::size_t i = 0; i < kPhiloxLanes; ++i) {
    counters.word[0][i] = static_cast<std::uint32_t>(cell + (i < rows ? i : 0));
    counters.word[1][i] = block;
    counters.word[2][i] = static_cast<std::uint32_t>(at.step);
    counters.word[3][i] = stream | static_cast<std::uint32_t>(at.step >> 32U) << 8U;
  }
  philox_lanes(counters, static_cast<std::uint32_t>(at.seed),
               static_cast<std::uint32_t>(at.seed >> 32U));
  for (std::size_t channel = 0; channel < 4; ++channel) {
    for (std::size_t i = 0; i < kPhiloxLanes; ++i) {
      // 24 bits: exact in float, and a signed conversion is the one that has an instruction.
      out[channel][i] =
          static_cast<R>(static_cast<std::int32_t>(counters.word[channel][i] >> 8U)) * R(0x1p-24);
    }
  }
}

// The unit factors of kPhiloxLanes cells and 4 channels.
template <class R>
ATHERIA_INLINE void factors(const NoiseAt& at, std::uint64_t cell, std::size_t rows,
                            std::uint32_t block, R (&cosine)[4][kPhiloxLanes],
                            R (&sine)[4][kPhiloxLanes]) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  constexpr std::size_t count = 4 * kPhiloxLanes;
  static_assert(count % lanes == 0);
  if (at.phase > 0) {
    R angle[4][kPhiloxLanes];
    uniform_lanes<R>(at, cell, rows, block, 0, angle);
    const R twice = static_cast<R>(2 * at.phase);
    const R once = static_cast<R>(at.phase);
    for (std::size_t i = 0; i < count; i += lanes) {
      const Circle<R> turned = circle<R>(load_vector(&angle[0][0] + i) * twice - once);
      store_vector(&cosine[0][0] + i, turned.cosine);
      store_vector(&sine[0][0] + i, turned.sine);
    }
  } else {
    for (std::size_t i = 0; i < count; i += lanes) {
      store_vector(&cosine[0][0] + i, fill(R(1)));
      store_vector(&sine[0][0] + i, Vec<R>{});
    }
  }
  if (at.sign > 0) {
    R flip[4][kPhiloxLanes];
    uniform_lanes<R>(at, cell, rows, block, 1, flip);
    const R sign = static_cast<R>(at.sign);
    for (std::size_t i = 0; i < count; i += lanes) {
      const Vec<R> modulus = load_vector(&flip[0][0] + i) < sign ? fill(R(-1)) : fill(R(1));
      store_vector(&cosine[0][0] + i, load_vector(&cosine[0][0] + i) * modulus);
      store_vector(&sine[0][0] + i, load_vector(&sine[0][0] + i) * modulus);
    }
  }
}

template <class R>
void noise(const NoiseAt& at, std::uint64_t first_cell, R* psi, std::size_t rows,
           std::size_t d_state, std::size_t stride) {
  for (std::size_t row = 0; row < rows; row += kPhiloxLanes) {
    const std::size_t here = rows - row < kPhiloxLanes ? rows - row : kPhiloxLanes;
    for (std::size_t channel = 0; channel < d_state; channel += 4) {
      R cosine[4][kPhiloxLanes];
      R sine[4][kPhiloxLanes];
      factors<R>(at, first_cell + row, here, static_cast<std::uint32_t>(channel / 4), cosine,
                 sine);
      const std::size_t channels = d_state - channel < 4 ? d_state - channel : 4;
      for (std::size_t i = 0; i < here; ++i) {
        R* z = psi + (row + i) * stride + 2 * channel;
        for (std::size_t c = 0; c < channels; ++c) {
          const R real = z[2 * c];
          const R imag = z[2 * c + 1];
          const R turn = at.back ? -sine[c][i] : sine[c][i];
          z[2 * c] = real * cosine[c][i] - imag * turn;
          z[2 * c + 1] = real * turn + imag * cosine[c][i];
        }
      }
    }
  }
}

}  // namespace
}  // namespace atheria

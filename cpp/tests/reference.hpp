// The plain version of every step: loops over cells and channels, nothing packed, nothing fused.
#pragma once

#include <cmath>
#include <complex>
#include <numbers>
#include <span>
#include <vector>

#include "atheria/laws.hpp"
#include "atheria/philox.hpp"

namespace atheria::test {

inline double activate(Activation f, double x) {
  switch (f) {
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::relu: return x < 0 ? 0 : x;
    case Activation::gelu: return 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2));
    case Activation::tanh: break;
  }
  return std::tanh(x);
}

// All in double: what the kernels are measured against.
using State = std::vector<std::complex<double>>;

struct Cell {
  std::size_t batch, y, x;
};

inline std::size_t index(const Shape& s, const Cell& c) {
  return ((c.batch * s.height + c.y) * s.width + c.x) * s.d_state;
}

template <class Visit>
void each_cell(const Shape& s, Visit visit) {
  for (std::size_t batch = 0; batch < s.batch; ++batch) {
    for (std::size_t y = 0; y < s.height; ++y) {
      for (std::size_t x = 0; x < s.width; ++x) {
        visit(Cell{batch, y, x});
      }
    }
  }
}

// A law's channel c of a cell: real parts first, then imaginary.
inline double channel(const Shape& s, const State& psi, const Cell& cell, std::size_t c) {
  const std::complex<double> z = psi[index(s, cell) + c % s.d_state];
  return c < s.d_state ? z.real() : z.imag();
}

// keep * psi + M(psi), with a kernel of `reach` cells to each side (0: MLP, 1: Conv).
template <class R>
State network_update(const NetworkWeights<R>& w, const Shape& s, const State& psi, double keep,
                     std::size_t reach) {
  const std::size_t side = 2 * reach + 1;
  State next(psi.size());
  each_cell(s, [&](const Cell& cell) {
    std::vector<double> hidden(w.hidden);
    for (std::size_t h = 0; h < w.hidden; ++h) {
      double sum = static_cast<double>(w.inner_bias[h]);
      for (std::size_t c = 0; c < s.channels(); ++c) {
        for (std::size_t i = 0; i < side; ++i) {
          for (std::size_t j = 0; j < side; ++j) {
            const Cell from{cell.batch, (cell.y + i + s.height * reach - reach) % s.height,
                            (cell.x + j + s.width * reach - reach) % s.width};
            sum += static_cast<double>(w.inner[((h * s.channels() + c) * side + i) * side + j]) *
                   channel(s, psi, from, c);
          }
        }
      }
      hidden[h] = activate(w.activation, sum);
    }
    for (std::size_t c = 0; c < s.channels(); ++c) {
      double sum = static_cast<double>(w.outer_bias[c]) + keep * channel(s, psi, cell, c);
      for (std::size_t h = 0; h < w.hidden; ++h) {
        sum += static_cast<double>(w.outer[c * w.hidden + h]) * hidden[h];
      }
      next[index(s, cell) + c % s.d_state] +=
          c < s.d_state ? std::complex<double>(sum, 0) : std::complex<double>(0, sum);
    }
  });
  return next;
}

template <class R>
State brickwork_update(const R* unitaries, const Shape& s, State psi) {
  const std::size_t size = 4 * s.d_state;
  for (std::size_t layer = 0; layer < 2; ++layer) {
    State next(psi.size());
    each_cell(s, [&](const Cell& cell) {
      if (cell.y % 2 != 0 || cell.x % 2 != 0) {
        return;  // a block is named by its first cell, before the shift
      }
      const auto place = [&](std::size_t row) {
        const std::size_t k = row / s.d_state;
        const Cell at{cell.batch, (cell.y + k / 2 + layer) % s.height,
                      (cell.x + k % 2 + layer) % s.width};
        return index(s, at) + row % s.d_state;
      };
      for (std::size_t row = 0; row < size; ++row) {
        for (std::size_t column = 0; column < size; ++column) {
          const R* const u = unitaries + 2 * ((layer * size + row) * size + column);
          next[place(row)] += std::complex<double>(u[0], u[1]) * psi[place(column)];
        }
      }
    });
    psi = next;
  }
  return psi;
}

inline void normalise(const Shape& s, Norm norm, State& psi) {
  constexpr double tiny = 1e-30;
  std::vector<double> mean(s.batch);
  const auto density = [&](const Cell& cell) {
    double sum = 0;
    for (std::size_t c = 0; c < s.d_state; ++c) {
      sum += std::norm(psi[index(s, cell) + c]);
    }
    return sum;
  };
  each_cell(s, [&](const Cell& cell) {
    mean[cell.batch] += density(cell) / static_cast<double>(s.cells());
  });
  each_cell(s, [&](const Cell& cell) {
    const double rho = norm == Norm::lattice ? mean[cell.batch] : density(cell);
    for (std::size_t c = 0; c < s.d_state && norm != Norm::none; ++c) {
      psi[index(s, cell) + c] /= std::sqrt(rho < tiny ? tiny : rho);
    }
  });
}

inline void turn(const Shape& s, const Options& o, std::uint64_t step, State& psi) {
  std::vector<double> u(s.d_state);
  for (std::size_t cell = 0; cell < s.batch * s.cells(); ++cell) {
    if (o.phase > 0) {
      uniform_cell(o.seed, step, 0, cell, u);
      for (std::size_t c = 0; c < s.d_state; ++c) {
        psi[cell * s.d_state + c] *= std::polar(1.0, (2 * u[c] - 1) * o.phase);
      }
    }
    if (o.sign > 0) {
      uniform_cell(o.seed, step, 1, cell, u);
      for (std::size_t c = 0; c < s.d_state; ++c) {
        psi[cell * s.d_state + c] *= u[c] < o.sign ? -1.0 : 1.0;
      }
    }
  }
}

}  // namespace atheria::test

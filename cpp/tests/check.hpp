// What the tests share: checks that say what failed, random numbers, the instruction sets here.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "atheria/aligned.hpp"
#include "atheria/cpu.hpp"

namespace atheria::test {

inline void check(bool holds, const std::string& what) {
  if (!holds) {
    std::fprintf(stderr, "failed: %s\n", what.c_str());
    std::exit(EXIT_FAILURE);
  }
}

template <class R>
void check_close(R found, R expected, double tolerance, const std::string& what) {
  const double distance = std::abs(static_cast<double>(found) - static_cast<double>(expected));
  if (!(distance <= tolerance)) {
    std::fprintf(stderr, "failed: %s: found %.17g, expected %.17g\n", what.c_str(),
                 static_cast<double>(found), static_cast<double>(expected));
    std::exit(EXIT_FAILURE);
  }
}

inline std::vector<Isa> isas() {
  std::vector<Isa> found;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (supported(isa)) {
      found.push_back(isa);
    }
  }
  return found;
}

template <class R>
class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}

  R number() { return static_cast<R>(std::uniform_real_distribution<double>(-1, 1)(engine_)); }
  std::size_t whole(std::size_t least, std::size_t most) {
    return std::uniform_int_distribution<std::size_t>(least, most)(engine_);
  }
  std::vector<R> numbers(std::size_t count) {
    std::vector<R> out(count);
    for (R& x : out) {
      x = number();
    }
    return out;
  }

 private:
  std::mt19937_64 engine_;
};

template <class R>
constexpr double kEpsilon = sizeof(R) == 4 ? 0x1p-23 : 0x1p-52;

}  // namespace atheria::test

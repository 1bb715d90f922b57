// Known answers of Philox4x32-10 (Random123's kat_vectors), and the layout of a cell's numbers.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "atheria/philox.hpp"

namespace {

void check(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "failed: %s\n", what);
    std::exit(EXIT_FAILURE);
  }
}

}  // namespace

int main() {
  using atheria::PhiloxBlock;
  check(atheria::philox({0, 0, 0, 0}, {0, 0}) ==
            PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        "the answer to zeros");
  constexpr std::uint32_t ones = 0xffffffff;
  check(atheria::philox({ones, ones, ones, ones}, {ones, ones}) ==
            PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        "the answer to ones");

  std::vector<double> few(3);
  std::vector<double> many(8);
  atheria::uniform_cell(7, 5, 1, 2, few);
  atheria::uniform_cell(7, 5, 1, 2, many);
  for (std::size_t i = 0; i < few.size(); ++i) {
    check(few[i] == many[i], "a channel's number does not depend on how many there are");
  }
  for (const double u : many) {
    check(u >= 0.0 && u < 1.0, "numbers lie in [0, 1)");
  }
  std::puts("philox: ok");
  return EXIT_SUCCESS;
}

// Philox4x32-10 for several counters at once, written so that the compiler makes vectors of it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace atheria {
namespace {

inline constexpr std::size_t kPhiloxLanes = 8;

struct PhiloxLanes {
  std::uint32_t word[4][kPhiloxLanes];
};

inline void philox_lanes(PhiloxLanes& c, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    for (std::size_t i = 0; i < kPhiloxLanes; ++i) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c.word[0][i];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * c.word[2][i];
      c.word[0][i] = static_cast<std::uint32_t>(p1 >> 32U) ^ c.word[1][i] ^ key0;
      c.word[1][i] = static_cast<std::uint32_t>(p1);
      c.word[2][i] = static_cast<std::uint32_t>(p0 >> 32U) ^ c.word[3][i] ^ key1;
      c.word[3][i] = static_cast<std::uint32_t>(p0);
    }
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
}

}  // namespace
}  // namespace atheria

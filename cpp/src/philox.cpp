#include "atheria/philox.hpp"

namespace atheria {
namespace {

constexpr std::uint64_t kMultiplier0 = 0xD2511F53;
constexpr std::uint64_t kMultiplier1 = 0xCD9E8D57;
constexpr std::uint32_t kKeyStep0 = 0x9E3779B9;
constexpr std::uint32_t kKeyStep1 = 0xBB67AE85;
constexpr int kRounds = 10;

constexpr std::uint32_t low(std::uint64_t x) noexcept { return static_cast<std::uint32_t>(x); }
constexpr std::uint32_t high(std::uint64_t x) noexcept {
  return static_cast<std::uint32_t>(x >> 32);
}

}  // namespace

PhiloxBlock philox(PhiloxBlock counter, PhiloxKey key) noexcept {
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t p0 = kMultiplier0 * counter[0];
    const std::uint64_t p1 = kMultiplier1 * counter[2];
    counter = {high(p1) ^ counter[1] ^ key[0], low(p1), high(p0) ^ counter[3] ^ key[1], low(p0)};
    key[0] += kKeyStep0;
    key[1] += kKeyStep1;
  }
  return counter;
}

void uniform_cell(std::uint64_t seed, std::uint64_t step, std::uint32_t stream,
                  std::uint64_t cell, std::span<double> out) noexcept {
  const PhiloxKey key{low(seed), high(seed)};
  for (std::size_t channel = 0; channel < out.size(); channel += 4) {
    const PhiloxBlock words = philox(
        {low(cell), static_cast<std::uint32_t>(channel / 4), low(step),
         stream | low(high(step)) << 8U},
        key);
    for (std::size_t lane = 0; lane < 4 && channel + lane < out.size(); ++lane) {
      out[channel + lane] = static_cast<double>(words[lane] >> 8U) * 0x1p-24;
    }
  }
}

}  // namespace atheria

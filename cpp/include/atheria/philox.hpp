// Philox4x32-10, a counter-based generator: Salmon et al., "Parallel random numbers: as easy
// as 1, 2, 3", SC 2011. The Python side (atheria_lab/noise.py) makes the same numbers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace atheria {

using PhiloxBlock = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

// One block of four words.
[[nodiscard]] PhiloxBlock philox(PhiloxBlock counter, PhiloxKey key) noexcept;

// Uniform numbers in [0, 1), 24 bits each, for the channels of one cell. The counter is
// (cell, channel / 4, low word of the step, stream | high bits of the step << 8).
void uniform_cell(std::uint64_t seed, std::uint64_t step, std::uint32_t stream,
                  std::uint64_t cell, std::span<double> out) noexcept;

}  // namespace atheria

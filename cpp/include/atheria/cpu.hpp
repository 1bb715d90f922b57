// What this processor can do, asked at run time.
#pragma once

#include <string_view>

namespace atheria {

enum class Isa { baseline, avx2, avx512 };

// Whether the processor and its operating system have it.
[[nodiscard]] bool supported(Isa isa) noexcept;

// The widest instruction set that both the processor and its operating system support.
[[nodiscard]] Isa best_isa() noexcept;

[[nodiscard]] std::string_view name(Isa isa) noexcept;

}  // namespace atheria

// Numbers on whole cache lines, zero at first, freed when they go out of scope.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

#include "atheria/kernels.hpp"

namespace atheria {

inline constexpr std::size_t kCacheLine = 64;

template <class R>
class Aligned {
 public:
  static_assert(std::is_trivially_copyable_v<R>);

  Aligned() = default;
  explicit Aligned(std::size_t size)
      : data_(static_cast<R*>(
            std::aligned_alloc(kCacheLine, round_up(std::max(size, std::size_t{1}) * sizeof(R),
                                                    kCacheLine)))) {
    if (!data_) {
      throw std::bad_alloc();
    }
    std::fill_n(data_.get(), size, R{});
  }

  [[nodiscard]] R* data() noexcept { return data_.get(); }
  [[nodiscard]] const R* data() const noexcept { return data_.get(); }
  [[nodiscard]] R& operator[](std::size_t i) noexcept { return data_.get()[i]; }
  [[nodiscard]] const R& operator[](std::size_t i) const noexcept { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(R* data) const noexcept { std::free(data); }
  };
  std::unique_ptr<R, Free> data_;
};

}  // namespace atheria

// Sums over all cells. They are made in as many parts whatever the threads, and the parts are
// added in one order, in double precision: any number of threads gives the same bits.
#pragma once

#include <algorithm>
#include <vector>

#include "atheria/aligned.hpp"

namespace atheria {

template <class R>
class Totals {
 public:
  // Tasks are cut into runs, one a part; `size` numbers are summed, none if 0.
  Totals(std::size_t tasks, std::size_t size) : tasks_(tasks), parts_(std::min(kParts, tasks)) {
    for (std::size_t i = 0; size > 0 && i < parts_; ++i) {
      sums_.emplace_back(size);
    }
  }

  [[nodiscard]] std::size_t parts() const noexcept { return parts_; }
  [[nodiscard]] std::size_t begin(std::size_t part) const noexcept {
    return part * tasks_ / parts_;
  }
  // Where a part is summed; null if nothing is.
  [[nodiscard]] R* part(std::size_t i) noexcept { return sums_.empty() ? nullptr : sums_[i].data(); }

  [[nodiscard]] double at(std::size_t place) const noexcept {
    double all = 0.0;
    for (const auto& sum : sums_) {
      all += static_cast<double>(sum[place]);
    }
    return all;
  }

 private:
  static constexpr std::size_t kParts = 64;

  std::size_t tasks_;
  std::size_t parts_;
  std::vector<Aligned<R>> sums_;
};

}  // namespace atheria

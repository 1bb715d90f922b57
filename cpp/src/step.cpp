#include "atheria/step.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <utility>
#include <vector>

namespace atheria {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kTinyDensity = 1e-30;
constexpr auto kPulse = std::chrono::milliseconds(40);
// Numbers that one task of a plain copy moves.
constexpr std::size_t kCopy = 16384;

template <class R>
class Run final : public Work {
 public:
  Run(const PackedLaw<R>& law, const Shape& shape, const Options& options, R* psi, R* spare,
      R* saves, const Pulse& pulse)
      : law_(law), shape_(shape), options_(options), kernels_(kernels<R>(options.isa)), psi_(psi),
        saves_(saves), pulse_(pulse), now_(psi), next_state_(spare),
        pass_{psi, spare, nullptr, nullptr, options.first_step},
        scales_(shape.batch, R(1)), partials_(law.tasks(law.phases() - 1)),
        barrier_(options.threads), last_pulse_(Clock::now()) {
    pass_.scales = scales_.data();
    pass_.partials = partials_.data();
    for (std::size_t i = 0; i < options.threads; ++i) {
      scratch_.emplace_back(law.scratch());
    }
  }

  void member(std::size_t index) noexcept override {
    while (done_ < options_.steps && !stop_) {
      for (std::size_t phase = 0; phase < law_.phases(); ++phase) {
        const bool last = phase + 1 == law_.phases();
        share(index, law_.tasks(phase), [&](std::size_t task) {
          law_.task(phase, task, pass_, scratch_[index].data());
        });
        barrier_.arrive_and_wait([&] {
          next_ = 0;
          if (last && !asked_to_stop_) {
            finish_step();
          }
          stop_ = asked_to_stop_;
        });
        if (stop_) {
          break;
        }
      }
      if (!stop_ && options_.save_every > 0 && done_ % options_.save_every == 0) {
        copy(index, saves_ + (done_ / options_.save_every - 1) * shape_.size());
      }
    }
    // The state goes home, scaled: where it was not scaled and is at home, it stays.
    if (now_ != psi_ || options_.norm == Norm::lattice) {
      copy(index, psi_);
    }
  }

  [[nodiscard]] std::uint64_t done() const noexcept { return done_; }

 private:
  // The next task that nobody has taken, until there is none or the call is stopped.
  template <class Task>
  void share(std::size_t index, std::size_t tasks, Task task) noexcept {
    // Some at a time where there are many: less traffic between the processors.
    const std::size_t grab = std::clamp<std::size_t>(tasks / (64 * options_.threads), 1, 64);
    for (std::size_t first = next_.fetch_add(grab, std::memory_order_relaxed); first < tasks;
         first = next_.fetch_add(grab, std::memory_order_relaxed)) {
      for (std::size_t i = first; i < std::min(first + grab, tasks); ++i) {
        task(i);
      }
      if (index == 0) {
        ask();
      }
      if (asked_to_stop_.load(std::memory_order_relaxed)) {
        return;
      }
    }
  }

  // Every state is scale * from, rounded here as it is rounded when a tile is loaded: how often
  // a state is looked at changes nothing.
  void copy(std::size_t index, R* to) noexcept {
    const std::size_t lattice = shape_.cells() * shape_.channels();
    const std::size_t parts = (lattice + kCopy - 1) / kCopy;
    for (std::size_t i = next_copy_.fetch_add(1, std::memory_order_relaxed);
         i < parts * shape_.batch; i = next_copy_.fetch_add(1, std::memory_order_relaxed)) {
      const std::size_t batch = i / parts;
      const std::size_t first = i % parts * kCopy;
      kernels_.scale(pass_.from + batch * lattice + first, to + batch * lattice + first,
                     std::min(kCopy, lattice - first), scales_[batch]);
      if (index == 0) {
        ask();
      }
    }
    barrier_.arrive_and_wait([&] {
      next_copy_ = 0;
      stop_ = asked_to_stop_;
    });
  }

  void finish_step() noexcept {
    if (options_.norm == Norm::lattice) {
      const std::size_t parts = law_.tasks(law_.phases() - 1) / shape_.batch;
      for (std::size_t batch = 0; batch < shape_.batch; ++batch) {
        double sum = 0.0;
        for (std::size_t part = 0; part < parts; ++part) {
          sum += partials_[batch * parts + part];
        }
        const double mean = sum / static_cast<double>(shape_.cells());
        // A NaN stays one.
        scales_[batch] =
            static_cast<R>(1.0 / std::sqrt(mean < kTinyDensity ? kTinyDensity : mean));
      }
    }
    std::swap(now_, next_state_);
    pass_.from = now_;
    pass_.to = next_state_;
    ++pass_.step;
    ++done_;
  }

  void ask() noexcept {
    const Clock::time_point now = Clock::now();
    if (now - last_pulse_ >= kPulse) {
      last_pulse_ = now;
      if (!pulse_(done_)) {
        asked_to_stop_ = true;
      }
    }
  }

  const PackedLaw<R>& law_;
  const Shape& shape_;
  const Options& options_;
  const Kernels<R>& kernels_;
  R* psi_;
  R* saves_;
  const Pulse& pulse_;
  R* now_;         // holds the last whole step
  R* next_state_;  // the other buffer
  Pass<R> pass_;
  std::vector<R> scales_;
  Aligned<double> partials_;
  std::vector<Aligned<R>> scratch_;
  Barrier barrier_;
  Clock::time_point last_pulse_;  // of member 0
  // Written by whoever completes a barrier, read by all after it.
  std::uint64_t done_ = 0;
  bool stop_ = false;
  std::atomic<bool> asked_to_stop_{false};
  alignas(kCacheLine) std::atomic<std::size_t> next_{0};
  alignas(kCacheLine) std::atomic<std::size_t> next_copy_{0};
};

}  // namespace

template <class R>
std::uint64_t run(const PackedLaw<R>& law, const Shape& shape, const Options& options, R* psi,
                  R* spare, R* saves, const Pulse& pulse) {
  std::size_t tasks = 1;
  for (std::size_t phase = 0; phase < law.phases(); ++phase) {
    tasks = std::max(tasks, law.tasks(phase));
  }
  Options used = options;
  used.threads = std::min(options.threads, tasks);
  Run<R> work(law, shape, used, psi, spare, saves, pulse);
  TeamLease lease;
  lease.team().run(used.threads, work);
  return work.done();
}

template std::uint64_t run(const PackedLaw<float>&, const Shape&, const Options&, float*, float*,
                           float*, const Pulse&);
template std::uint64_t run(const PackedLaw<double>&, const Shape&, const Options&, double*,
                           double*, double*, const Pulse&);

}  // namespace atheria

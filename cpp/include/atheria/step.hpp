// Many steps of a lattice in one call: who does which tile, norms, saved states, interruption.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "atheria/aligned.hpp"
#include "atheria/kernels.hpp"
#include "atheria/team.hpp"

namespace atheria {

enum class Norm { lattice, cell, none };

// psi is [batch, height, width, d_state], complex numbers as pairs of R.
struct Shape {
  std::size_t batch;
  std::size_t height;
  std::size_t width;
  std::size_t d_state;

  [[nodiscard]] std::size_t cells() const noexcept { return height * width; }
  // Numbers of type R in a cell, and in the whole state.
  [[nodiscard]] std::size_t channels() const noexcept { return 2 * d_state; }
  [[nodiscard]] std::size_t size() const noexcept { return batch * cells() * channels(); }
};

struct Options {
  double keep = 1.0;  // 1 - gamma
  Norm norm = Norm::none;
  double phase = 0.0;
  double sign = 0.0;
  std::uint64_t seed = 0;
  std::uint64_t first_step = 0;
  std::uint64_t steps = 1;
  std::uint64_t save_every = 0;  // 0: save nothing
  std::size_t threads = 1;
  Isa isa = Isa::baseline;
};

// One step in progress: what a law's task reads and writes.
template <class R>
struct Pass {
  const R* from;
  R* to;
  const R* scales;   // [batch]: psi is scale * from
  double* partials;  // [tasks of the last phase]: density that a task wrote, with norm lattice
  std::uint64_t step;
};

// A law, packed for the kernels. A step is one or more phases, one after the other; the tasks of
// a phase are independent, and what a task computes does not depend on who does it.
template <class R>
class PackedLaw {
 public:
  virtual ~PackedLaw() = default;
  [[nodiscard]] virtual std::size_t phases() const noexcept { return 1; }
  [[nodiscard]] virtual std::size_t tasks(std::size_t phase) const noexcept = 0;
  // Numbers of scratch that a task needs.
  [[nodiscard]] virtual std::size_t scratch() const noexcept = 0;
  virtual void task(std::size_t phase, std::size_t index, const Pass<R>& pass,
                    R* scratch) const noexcept = 0;

 protected:
  PackedLaw() = default;
  PackedLaw(const PackedLaw&) = default;
  PackedLaw& operator=(const PackedLaw&) = default;
};

// Called now and then by the calling thread with the number of steps done; false stops.
using Pulse = std::function<bool(std::uint64_t)>;

// Steps `psi` in place, with `spare` as the second buffer, and writes every save_every-th state
// to `saves` ([steps / save_every] states). Returns the number of whole steps that were done:
// fewer than asked only if the pulse stopped it, and then psi is the state after those.
template <class R>
std::uint64_t run(const PackedLaw<R>& law, const Shape& shape, const Options& options, R* psi,
                  R* spare, R* saves, const Pulse& pulse);

}  // namespace atheria

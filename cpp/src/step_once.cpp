// A step that leaves its input as it is.
#include <cmath>
#include <vector>

#include "atheria/vjp.hpp"
#include "share.hpp"

namespace atheria {

template <class R>
void step_once(const PackedLaw<R>& law, const Shape& shape, const Options& options, const R* psi,
               R* next, R* scales) {
  constexpr double tiny = 1e-30;
  const std::vector<R> ones(shape.batch, R(1));
  const std::size_t last = law.tasks(law.phases() - 1);
  std::vector<double> partials(last);
  std::vector<Aligned<R>> scratch;
  for (std::size_t i = 0; i < options.threads; ++i) {
    scratch.emplace_back(law.scratch());
  }
  const Pass<R> pass{psi, next, ones.data(), partials.data(), options.first_step};
  for (std::size_t phase = 0; phase < law.phases(); ++phase) {
    share(options.threads, law.tasks(phase), [&](std::size_t task, std::size_t member) {
      law.task(phase, task, pass, scratch[member].data());
    });
  }
  std::fill_n(scales, shape.batch, R(1));
  if (options.norm != Norm::lattice) {
    return;
  }
  const std::size_t parts = last / shape.batch;
  for (std::size_t batch = 0; batch < shape.batch; ++batch) {
    double sum = 0.0;
    for (std::size_t part = 0; part < parts; ++part) {
      sum += partials[batch * parts + part];
    }
    const double mean = sum / static_cast<double>(shape.cells());
    scales[batch] = static_cast<R>(1.0 / std::sqrt(mean < tiny ? tiny : mean));
  }
  constexpr std::size_t run = 16384;
  const std::size_t lattice = shape.cells() * shape.channels();
  const std::size_t runs = (lattice + run - 1) / run;
  share(options.threads, runs * shape.batch, [&](std::size_t task, std::size_t) {
    const std::size_t batch = task / runs;
    const std::size_t first = task % runs * run;
    R* const part = next + batch * lattice + first;
    kernels<R>(options.isa).scale(part, part, std::min(run, lattice - first), scales[batch]);
  });
}

template void step_once(const PackedLaw<float>&, const Shape&, const Options&, const float*,
                        float*, float*);
template void step_once(const PackedLaw<double>&, const Shape&, const Options&, const double*,
                        double*, double*);

}  // namespace atheria

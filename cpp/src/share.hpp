// Tasks shared out among a team's threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>

#include "atheria/team.hpp"

namespace atheria {

// do_task(task, member) for each task, on as many threads; who does which is left open.
template <class Task>
void share(std::size_t threads, std::size_t tasks, const Task& do_task) {
  class Shared final : public Work {
   public:
    Shared(std::size_t tasks, const Task& do_task) : tasks_(tasks), do_task_(do_task) {}
    void member(std::size_t index) noexcept override {
      for (std::size_t i = next_.fetch_add(1); i < tasks_; i = next_.fetch_add(1)) {
        do_task_(i, index);
      }
    }

   private:
    std::size_t tasks_;
    const Task& do_task_;
    std::atomic<std::size_t> next_{0};
  };
  Shared work(tasks, do_task);
  parallel(std::max<std::size_t>(1, std::min(threads, tasks)), work);
}

}  // namespace atheria

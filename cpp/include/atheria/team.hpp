// Threads that wait for work, and a barrier for those that work together.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace atheria {

// A fixed number of members meets here again and again. The last to arrive runs `completion`
// while the others wait; they wait awake for some microseconds, then asleep.
class Barrier {
 public:
  explicit Barrier(std::size_t members) noexcept : members_(members) {}

  template <class Completion>
  void arrive_and_wait(Completion completion) noexcept {
    const std::uint32_t round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members_) {
      arrived_.store(0, std::memory_order_relaxed);
      completion();
      round_.store(round + 1, std::memory_order_release);
      if (members_ > 1) {
        round_.notify_all();
      }
      return;
    }
    wait(round);
  }

 private:
  void wait(std::uint32_t round) noexcept;

  std::size_t members_;
  alignas(64) std::atomic<std::size_t> arrived_{0};
  alignas(64) std::atomic<std::uint32_t> round_{0};
};

// What the members of a team do; it must not throw.
class Work {
 public:
  virtual ~Work() = default;
  virtual void member(std::size_t index) noexcept = 0;

 protected:
  Work() = default;
  Work(const Work&) = default;
  Work& operator=(const Work&) = default;
};

// Sleeping threads. Whoever has a team has it alone; member 0 is the calling thread.
class Team {
 public:
  Team() = default;
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  ~Team();

  // Runs work.member(i) for i in 0 ... size - 1, each on a thread of its own, and waits for all.
  void run(std::size_t size, Work& work);

 private:
  void serve(std::size_t index);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  Work* work_ = nullptr;
  std::size_t size_ = 0;
  std::size_t running_ = 0;
  std::uint64_t call_ = 0;
  bool stop_ = false;
  std::vector<std::jthread> threads_;
};

// Runs work.member(i) for i in 0 ... size - 1 at most, each once, and waits for all. Where a region
// is lent, its threads do the work, else a team's.
void parallel(std::size_t size, Work& work);

// A parallel region of another thread pool, called as libgomp's GOMP_parallel: function, its
// argument, threads (it may give fewer), flags. Two pools on the same cores hinder each other: a
// pool's threads wait awake for some milliseconds.
using Region = void (*)(void (*function)(void*), void* argument, unsigned threads, unsigned flags);
void lend_region(Region region) noexcept;

// A team for one call: an idle one of this process, or a new one; given back in the end. A
// process made by fork() starts with none, since threads do not survive a fork.
class TeamLease {
 public:
  TeamLease();
  TeamLease(const TeamLease&) = delete;
  TeamLease& operator=(const TeamLease&) = delete;
  ~TeamLease();

  [[nodiscard]] Team& team() noexcept { return *team_; }

 private:
  std::unique_ptr<Team> team_;
};

}  // namespace atheria

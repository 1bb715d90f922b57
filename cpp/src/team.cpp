#include "atheria/team.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#define ATHERIA_HAS_FORK 1
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <utility>

namespace atheria {
namespace {

constexpr int kSpins = 4096;

void pause_briefly() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

class IdleTeams {
 public:
  static IdleTeams& instance() {
    static IdleTeams teams;
    return teams;
  }

  std::unique_ptr<Team> take() {
    const std::lock_guard lock(mutex_);
    if (teams_.empty()) {
      return std::make_unique<Team>();
    }
    std::unique_ptr<Team> team = std::move(teams_.back());
    teams_.pop_back();
    return team;
  }

  void give(std::unique_ptr<Team> team) {
    const std::lock_guard lock(mutex_);
    teams_.push_back(std::move(team));
  }

 private:
  IdleTeams() {
#if defined(ATHERIA_HAS_FORK)
    // The lock is held over a fork, so that the child finds the list whole.
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] {
                     // The threads are not in the child: joining them would wait for ever. What
                     // is left of the teams is the child's copy of some hundred bytes.
                     for (std::unique_ptr<Team>& team : instance().teams_) {
                       static_cast<void>(team.release());
                     }
                     instance().teams_.clear();
                     instance().mutex_.unlock();
                   });
#endif
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Team>> teams_;
};

}  // namespace

void Barrier::wait(std::uint32_t round) noexcept {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (round_.load(std::memory_order_acquire) != round) {
      return;
    }
    pause_briefly();
  }
  while (round_.load(std::memory_order_acquire) == round) {
    round_.wait(round, std::memory_order_acquire);
  }
}

Team::~Team() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
}

void Team::run(std::size_t size, Work& work) {
  if (size > 1) {
    // Threads first: if one cannot be had, nothing has started yet.
    while (threads_.size() + 1 < size) {
      const std::size_t index = threads_.size() + 1;
      threads_.emplace_back([this, index] { serve(index); });
    }
    const std::lock_guard lock(mutex_);
    work_ = &work;
    size_ = size;
    running_ = size - 1;
    ++call_;
  }
  wake_.notify_all();
  work.member(0);
  if (size > 1) {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
    work_ = nullptr;
  }
}

void Team::serve(std::size_t index) {
  std::uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stop_ || (call_ != seen && work_ != nullptr); });
    if (stop_) {
      return;
    }
    seen = call_;
    if (index >= size_) {
      continue;
    }
    Work& work = *work_;
    lock.unlock();
    work.member(index);
    lock.lock();
    if (--running_ == 0) {
      done_.notify_one();
    }
  }
}

namespace {

std::atomic<Region> lent_region{nullptr};
std::atomic<long> lent_to{0};  // a process: threads do not survive a fork

long this_process() noexcept {
#if defined(_WIN32)
  return 1;
#else
  return static_cast<long>(getpid());
#endif
}

}  // namespace

void lend_region(Region region) noexcept {
  lent_to.store(this_process());
  lent_region.store(region);
}

void parallel(std::size_t size, Work& work) {
  const Region region = lent_region.load();
  if (size < 2) {
    work.member(0);
  } else if (region == nullptr || lent_to.load() != this_process()) {
    TeamLease lease;
    lease.team().run(size, work);
  } else {
    struct Members {
      Work& work;
      std::atomic<std::size_t> next{0};
    } members{work};
    region(
        [](void* argument) {
          auto& all = *static_cast<Members*>(argument);
          all.work.member(all.next.fetch_add(1));
        },
        &members, static_cast<unsigned>(size), 0);
  }
}

TeamLease::TeamLease() : team_(IdleTeams::instance().take()) {}

TeamLease::~TeamLease() { IdleTeams::instance().give(std::move(team_)); }

}  // namespace atheria

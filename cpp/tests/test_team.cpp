// Threads: every member once, meetings in order, calls at the same time, and a forked child.
#include <atomic>
#include <thread>

#include "atheria/team.hpp"
#include "check.hpp"

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace {

using atheria::Barrier;
using atheria::TeamLease;
using atheria::test::check;

class Meetings final : public atheria::Work {
 public:
  explicit Meetings(std::size_t members) : members_(members), barrier_(members) {}

  void member(std::size_t index) noexcept override {
    members_seen_ += index + 1;
    for (int i = 0; i < 200; ++i) {
      here_ += 1;
      barrier_.arrive_and_wait([&] {
        all_here_ = all_here_ && here_ == members_;
        here_ = 0;
        ++meetings_;
      });
    }
  }

  [[nodiscard]] bool well() const {
    return all_here_ && meetings_ == 200 && members_seen_ == members_ * (members_ + 1) / 2;
  }

 private:
  std::size_t members_;
  Barrier barrier_;
  std::atomic<std::size_t> members_seen_{0};
  std::atomic<std::size_t> here_{0};
  bool all_here_ = true;
  int meetings_ = 0;
};

void calls(int count) {
  for (int call = 0; call < count; ++call) {
    const std::size_t size = 1 + static_cast<std::size_t>(call) % 4;
    Meetings meetings(size);
    TeamLease lease;
    lease.team().run(size, meetings);
    check(meetings.well(), "every member at every meeting");
  }
}

}  // namespace

int main() {
  calls(40);
  {
    std::jthread one([] { calls(20); });
    std::jthread other([] { calls(20); });
  }
#if defined(__unix__) && !defined(__SANITIZE_THREAD__)
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    calls(8);
    std::quick_exit(EXIT_SUCCESS);
  }
  int status = 0;
  check(waitpid(child, &status, 0) == child && status == 0, "a forked child has threads too");
#endif
  calls(8);
  std::puts("teams: ok");
}

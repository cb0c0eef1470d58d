// runtime/pool.h: every index is run once, from any thread, and with any threads missing. Also meant for
// ThreadSanitizer (make tsan).
#include "runtime/pool.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <ctime>
#include <stdexcept>
#include <thread>
#include <vector>

#include "runtime/topology.h"
#include "support/check.h"

namespace {

using namespace test;

// How often each index of [0, n) was run.
std::vector<int> counts(sbk::ThreadPool& pool, int64_t n) {
  std::vector<int> seen(static_cast<size_t>(n));
  sbk::parallel_for(pool.parallel(), n, [&](int64_t i) { seen[static_cast<size_t>(i)]++; });
  return seen;
}

bool all_once(const std::vector<int>& seen) {
  return std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; });
}

double seconds(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

TEST(every_index_once) {
  for (const int64_t threads : {1, 2, 3, 4, 8}) {
    sbk::ThreadPool pool(threads);
    CHECK_EQ(pool.threads(), threads);
    CHECK_EQ(pool.parallel().threads, threads);
    CHECK_EQ(pool.pinned(), 0);
    for (const int64_t n : {0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 1000, 12345}) {
      const Context where([&] { return text("threads=", threads, " n=", n); });
      CHECK(all_once(counts(pool, n)));
    }
  }
}

TEST(ranges_cover_in_pieces) {
  sbk::ThreadPool pool(3);
  const sbk::Parallel parallel = pool.parallel();
  struct Seen {
    std::atomic<int64_t> calls{0}, sum{0};
    std::atomic<bool> bad{false};
  } seen;
  const auto task = [](void* arg, int64_t begin, int64_t end) {
    Seen& s = *static_cast<Seen*>(arg);
    s.calls++;
    s.sum += end - begin;
    if (begin < 0 || begin >= end || end > 1000) s.bad = true;
  };
  parallel.run(parallel.context, 1000, task, &seen);
  CHECK_EQ(seen.sum.load(), 1000);
  CHECK(!seen.bad);
  CHECK(seen.calls >= 3 && seen.calls <= 50);
  parallel.run(parallel.context, 0, task, &seen);
  CHECK_EQ(seen.sum.load(), 1000);
}

TEST(absurd_numbers_of_threads) {
  for (const int64_t threads : {int64_t{0}, int64_t{-5}, INT64_MIN}) {
    sbk::ThreadPool pool(threads);
    CHECK_EQ(pool.threads(), 1);
    CHECK(all_once(counts(pool, 100)));
  }
}

TEST(many_small_runs) {
  for (const int64_t threads : {2, 4}) {
    sbk::ThreadPool pool(threads);
    std::atomic<int64_t> sum{0};
    for (int run = 0; run < 5000; run++) {
      sbk::parallel_for(pool.parallel(), 2 + run % 7, [&](int64_t i) { sum += i + 1; });
    }
    int64_t want = 0;
    for (int run = 0; run < 5000; run++) want += (2 + run % 7) * (3 + run % 7) / 2;
    CHECK_EQ(sum.load(), want);
  }
}

TEST(runs_after_sleeping) {
  sbk::ThreadPool pool(3);
  for (int run = 0; run < 30; run++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    CHECK(all_once(counts(pool, 20)));
  }
}

// That several threads take part at all: tasks that wait for one another.
TEST(threads_run_at_the_same_time) {
  sbk::ThreadPool pool(3);
  for (int run = 0; run < 10; run++) {
    std::atomic<int> arrived{0};
    sbk::parallel_for(pool.parallel(), 3, [&](int64_t) {
      arrived++;
      while (arrived < 3) std::this_thread::yield();
    });
    CHECK_EQ(arrived.load(), 3);
  }
}

TEST(nested) {
  sbk::ThreadPool outer(3), other(2);
  std::atomic<int64_t> same{0}, different{0};
  sbk::parallel_for(outer.parallel(), 20, [&](int64_t) {
    sbk::parallel_for(outer.parallel(), 10, [&](int64_t) { same++; });
    sbk::parallel_for(other.parallel(), 10, [&](int64_t) { different++; });
  });
  CHECK_EQ(same.load(), 200);
  CHECK_EQ(different.load(), 200);
}

TEST(concurrent_callers_and_two_pools) {
  sbk::ThreadPool a(3), b(2);
  std::vector<int> wrong(4);
  std::vector<std::thread> callers;
  for (size_t caller = 0; caller < wrong.size(); caller++) {
    callers.emplace_back([&a, &b, &wrong, caller] {
      for (int run = 0; run < 200; run++) wrong[caller] += !all_once(counts(caller % 2 ? a : b, 1 + (run * 7) % 50));
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const int count : wrong) CHECK_EQ(count, 0);
}

TEST(exceptions_reach_the_caller) {
  sbk::ThreadPool pool(3);
  for (int run = 0; run < 20; run++) {
    std::string caught;
    try {
      sbk::parallel_for(pool.parallel(), 100, [&](int64_t i) {
        if (i % 10 == 3) throw std::runtime_error("task");
      });
    } catch (const std::runtime_error& e) {
      caught = e.what();
    }
    CHECK_EQ(caught, "task");
    CHECK(all_once(counts(pool, 50)));
  }
}

TEST(made_and_destroyed_often) {
  for (int i = 0; i < 50; i++) {
    sbk::ThreadPool pool(4);
    if (i % 2) CHECK(all_once(counts(pool, 10)));
  }
}

// EAGAIN at the first worker, and at the third.
int create_none(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*) { return EAGAIN; }
int left = 0;
int create_two(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* arg) {
  return left-- > 0 ? pthread_create(thread, attributes, start, arg) : EAGAIN;
}

TEST(threads_that_cannot_be_made) {
  sbk::ThreadPool none(4, {}, create_none);
  CHECK_EQ(none.threads(), 1);
  CHECK(all_once(counts(none, 100)));
  left = 2;
  sbk::ThreadPool two(8, {}, create_two);
  CHECK_EQ(two.threads(), 3);
  CHECK(all_once(counts(two, 100)));
}

TEST(pinning) {
  const std::vector<int> allowed = sbk::allowed_cpus();
  CHECK(!allowed.empty());
  // Asked in a thread of its own, so that the rest of this program may run anywhere.
  bool possible = false;
  std::thread([&] { possible = sbk::run_on({allowed.front()}); }).join();
  {
    sbk::ThreadPool pool(3, {allowed.front()});
    CHECK_EQ(pool.pinned(), possible ? 2 : 0);
    CHECK(all_once(counts(pool, 100)));
  }
  sbk::ThreadPool pool(3, {-1, 1 << 30});
  CHECK_EQ(pool.pinned(), 0);
  CHECK_EQ(pool.threads(), 3);
  CHECK(all_once(counts(pool, 100)));
}

TEST(idle_workers_sleep) {
  sbk::ThreadPool pool(4);
  CHECK(all_once(counts(pool, 100)));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = seconds(CLOCK_PROCESS_CPUTIME_ID);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const double used = seconds(CLOCK_PROCESS_CPUTIME_ID) - before;
  const Context where([&] { return text("CPU seconds while idle: ", used); });
  CHECK(used < 0.1);
}

// A signal of the process goes to threads of the program, never to a worker; a fault of a worker is told to its
// handler.
TEST(workers_block_signals) {
  sigset_t before, after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  sbk::ThreadPool pool(3);
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  std::vector<sigset_t> masks(3);
  std::atomic<int> arrived{0};
  const pthread_t caller = pthread_self();
  std::vector<int> is_worker(3);
  sbk::parallel_for(pool.parallel(), 3, [&](int64_t i) {
    arrived++;
    while (arrived < 3) std::this_thread::yield();
    pthread_sigmask(SIG_SETMASK, nullptr, &masks[static_cast<size_t>(i)]);
    is_worker[static_cast<size_t>(i)] = !pthread_equal(pthread_self(), caller);
  });
  CHECK_EQ(is_worker[0] + is_worker[1] + is_worker[2], 2);
  for (const int signal : {SIGINT, SIGTERM, SIGALRM, SIGCHLD, SIGUSR1, SIGHUP, SIGPIPE, SIGRTMIN}) {
    CHECK_EQ(sigismember(&before, signal), sigismember(&after, signal));
    for (size_t i = 0; i < 3; i++) CHECK_EQ(sigismember(&masks[i], signal), is_worker[i]);
  }
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    for (const sigset_t& mask : masks) CHECK_EQ(sigismember(&mask, fault), 0);
  }
}

TEST(the_pools_of_a_process) {
  const sbk::Parallel one = sbk::pool_of_this_process(1), two = sbk::pool_of_this_process(2);
  CHECK_EQ(one.threads, 1);
  CHECK_EQ(two.threads, 2);
  CHECK(sbk::pool_of_this_process(2).context == two.context);
  CHECK(sbk::pool_of_this_process(3).context != two.context);
  std::vector<const void*> found(4);
  std::vector<std::thread> callers;
  for (const void*& context : found) {
    callers.emplace_back([&context] { context = sbk::pool_of_this_process(5).context; });
  }
  for (std::thread& caller : callers) caller.join();
  for (const void* context : found) CHECK(context == found[0]);
}

#if !defined(SBK_NO_FORK)
TEST(works_in_a_forked_child) {
  sbk::ThreadPool* pool = new sbk::ThreadPool(3);
  CHECK(all_once(counts(*pool, 100)));
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const bool ok = all_once(counts(*pool, 100));
    delete pool;
    _exit(ok ? 7 : 1);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  delete pool;
}

// Threads of its own, where the parent's would be waited for in vain.
TEST(a_forked_child_has_pools_of_its_own) {
  CHECK_EQ(sbk::pool_of_this_process(2).threads, 2);
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    std::atomic<int> arrived{0};
    sbk::parallel_for(sbk::pool_of_this_process(2), 2, [&](int64_t) {
      arrived++;
      while (arrived < 2) std::this_thread::yield();
    });
    _exit(7);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}
#endif

}  // namespace

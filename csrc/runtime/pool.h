// Threads of our own, for frontends that have no thread pool to offer.
#pragma once
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/parallel.h"

namespace sbk {

// `threads` - 1 workers. The thread that calls run() is the last one. A thread that is free takes the next range of
// tasks: so a little core, or a core that another program wants, does less. Idle workers look for work for some 50 us,
// since ops follow one another closely, and then sleep.
//
// - One run at a time: a run that finds the pool busy, from another thread or from within a task, is done by its caller
//   alone. So nothing waits for anything but its own tasks, and nothing can deadlock.
// - A run waits for workers that have begun, never for ones that are yet to wake up.
// - An exception of a task ends the run early and is thrown again by run(), in the caller.
// - fork(): in the child the pool has the calling thread only, and works.
// - Workers block signals, but those of faults.
class ThreadPool {
 public:
  // How a worker is made; tests replace it.
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);

  // With `cpus`, workers run on these CPUs only (each on any of them), where the system lets them; the caller stays
  // where it is: run_on() in runtime/topology.h. Threads that cannot be made are done without. Throws std::bad_alloc.
  explicit ThreadPool(int64_t threads, const std::vector<int>& cpus = {}, Create create = pthread_create);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // How many there are, the caller included: at least 1, at most what was asked for.
  int64_t threads() const { return static_cast<int64_t>(workers_.size()) + 1; }
  // How many workers run on `cpus` only.
  int64_t pinned() const { return pinned_.load(); }

  // The hook of runtime/parallel.h; valid as long as the pool.
  Parallel parallel() { return {run, this, threads()}; }

 private:
  static void run(void* context, int64_t n, Parallel::Task task, void* arg);
  static void* worker(void* pool);
  void work();
  void serve();
  template <class Ready>
  bool spin(Ready ready) const;
  bool forked() const { return getpid() != process_; }

  std::vector<pthread_t> workers_;
  std::vector<int> cpus_;
  bool spins_ = false;
  pid_t process_;
  std::atomic<int64_t> pinned_{0};

  // The run, written while it is closed and no thread works on it.
  Parallel::Task task_ = nullptr;
  void* arg_ = nullptr;
  int64_t n_ = 0, step_ = 1;
  std::exception_ptr error_;
  std::atomic_flag failed_ = ATOMIC_FLAG_INIT;
  alignas(64) std::atomic<int64_t> next_{0};

  // number of the run << 32 | kOpen while it can be entered | workers in it
  alignas(64) std::atomic<uint64_t> state_{0};
  std::atomic<bool> busy_{false}, stop_{false};
  // Who sleeps. Raised before the last look at state_, read after its change: one of the two sides sees the other.
  std::atomic<int64_t> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
  // On its own, because a child of fork() must leave it alone: destroying a condition variable waits for the threads
  // that slept on it.
  struct Sleep {
    std::mutex mutex;
    std::condition_variable work, done;
    int64_t started = 0;  // under mutex
  };
  std::unique_ptr<Sleep> sleep_ = std::make_unique<Sleep>();
};

// A pool of this process, made at the first use and kept, for frontends whose own pool does not outlive fork(): the
// child of a fork() of this process gets another. Throws std::bad_alloc.
Parallel pool_of_this_process(int64_t threads);

}  // namespace sbk

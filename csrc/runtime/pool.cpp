#include "runtime/pool.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <new>
#include <utility>

#include "runtime/topology.h"

namespace sbk {
namespace {

constexpr uint64_t kOpen = uint64_t{1} << 31;
constexpr uint64_t kRun = uint64_t{1} << 32;
constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int64_t kMostThreads = 1024;
// musl gives threads 128 KB, too little to be sure of what a task's callers do.
constexpr size_t kStack = size_t{1} << 20;
// Ranges per thread: few enough to cost nothing, enough for a slow core not to be left with a large last one.
constexpr int64_t kRangesPerThread = 8;

uint64_t run_of(uint64_t state) { return state / kRun; }
bool is_open(uint64_t state) { return (state & kOpen) != 0; }
uint64_t inside(uint64_t state) { return state & (kOpen - 1); }

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// While it lives, threads that are made get no signals: those of the process then go to the program's own threads,
// which may wait for them or be woken by them. Not blocked is what tells of a fault in the thread itself.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) sigdelset(&blocked, fault);
    is_done_ = pthread_sigmask(SIG_SETMASK, &blocked, &before_) == 0;
  }
  ~BlockSignals() {
    if (is_done_) pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t before_;
  bool is_done_;
};

}  // namespace

ThreadPool::ThreadPool(int64_t threads, const std::vector<int>& cpus, Create create) : cpus_(cpus), process_(getpid()) {
  const int64_t count = std::clamp<int64_t>(threads, 1, kMostThreads) - 1;
  workers_.reserve(static_cast<size_t>(count));
  const size_t allowed = allowed_cpus().size(), usable = cpus.empty() ? allowed : std::min(allowed, cpus.size());
  spins_ = static_cast<size_t>(count) + 1 <= usable;
  pthread_attr_t attributes;
  if (count == 0 || pthread_attr_init(&attributes) != 0) return;
  pthread_attr_setstacksize(&attributes, kStack);
  {
    const BlockSignals block;
    for (int64_t i = 0; i < count; i++) {
      pthread_t thread;
      if (create(&thread, &attributes, worker, this) != 0) break;
      workers_.push_back(thread);
    }
  }
  pthread_attr_destroy(&attributes);
  // pinned() is to be true when it is asked.
  std::unique_lock lock(sleep_->mutex);
  sleep_->done.wait(lock, [this] { return sleep_->started == static_cast<int64_t>(workers_.size()); });
}

ThreadPool::~ThreadPool() {
  if (forked()) {
    (void)sleep_.release();
    return;
  }
  {
    const std::lock_guard lock(sleep_->mutex);
    stop_ = true;
  }
  sleep_->work.notify_all();
  for (const pthread_t thread : workers_) pthread_join(thread, nullptr);
}

// Whether ready() came true within kSpin; one look where there are more threads than CPUs.
template <class Ready>
bool ThreadPool::spin(Ready ready) const {
  if (ready()) return true;
  if (!spins_) return false;
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; i++) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

void ThreadPool::work() {
  try {
    for (int64_t begin = next_.fetch_add(step_); begin < n_; begin = next_.fetch_add(step_)) {
      task_(arg_, begin, std::min(n_, begin + step_));
    }
  } catch (...) {
    next_ = n_;
    if (!failed_.test_and_set()) error_ = std::current_exception();
  }
}

void* ThreadPool::worker(void* pool) {
  static_cast<ThreadPool*>(pool)->serve();
  return nullptr;
}

void ThreadPool::serve() {
  try {
    if (!cpus_.empty() && run_on(cpus_)) pinned_++;
  } catch (const std::bad_alloc&) {  // then it is not pinned
  }
  {
    const std::lock_guard lock(sleep_->mutex);
    sleep_->started++;
    sleep_->done.notify_all();
  }
  uint64_t seen = 0;  // the last run that this worker was in
  const auto ready = [this, &seen] {
    const uint64_t state = state_.load();
    return stop_.load() || (is_open(state) && run_of(state) != seen);
  };
  for (;;) {
    if (!spin(ready)) {
      std::unique_lock lock(sleep_->mutex);
      sleepers_++;
      sleep_->work.wait(lock, ready);
      sleepers_--;
    }
    if (stop_) return;
    uint64_t state = state_.load();
    bool entered = false;
    while (!entered && is_open(state) && run_of(state) != seen) {
      entered = state_.compare_exchange_weak(state, state + 1);
    }
    if (!entered) continue;
    seen = run_of(state);
    work();
    state = state_.fetch_sub(1);
    if (!is_open(state) && inside(state) == 1 && caller_sleeps_.load()) {
      const std::lock_guard lock(sleep_->mutex);
      sleep_->done.notify_all();
    }
  }
}

void ThreadPool::run(void* context, int64_t n, Parallel::Task task, void* arg) {
  ThreadPool& pool = *static_cast<ThreadPool*>(context);
  if (n <= 0) return;
  if (n == 1 || pool.workers_.empty() || pool.forked() || pool.busy_.exchange(true)) {
    task(arg, 0, n);
    return;
  }
  pool.task_ = task;
  pool.arg_ = arg;
  pool.n_ = n;
  pool.step_ = std::max<int64_t>(1, n / (pool.threads() * kRangesPerThread));
  pool.next_ = 0;
  // The run gets the next number and opens, with no worker in it. The state is exchanged, not stored, here and below:
  // the other side's wake-up depends on this write before the load that follows, and QEMU on x86 lets a load pass a
  // store, although both are sequentially consistent.
  pool.state_.exchange((run_of(pool.state_.load()) + 1) * kRun | kOpen);
  const int64_t wanted = std::min({n - 1, pool.threads() - 1, pool.sleepers_.load()});
  if (wanted > 0) {
    const std::lock_guard lock(pool.sleep_->mutex);
    for (int64_t i = 0; i < wanted; i++) pool.sleep_->work.notify_one();
  }
  pool.work();
  // Closed: workers that are in the run finish, and no other enters.
  pool.state_.fetch_and(~kOpen);
  const auto empty = [&pool] { return inside(pool.state_.load()) == 0; };
  if (!pool.spin(empty)) {
    std::unique_lock lock(pool.sleep_->mutex);
    pool.caller_sleeps_.exchange(true);
    pool.sleep_->done.wait(lock, empty);
    pool.caller_sleeps_ = false;
  }
  const std::exception_ptr error = std::move(pool.error_);
  pool.error_ = nullptr;
  pool.failed_.clear();
  pool.busy_ = false;
  if (error) std::rethrow_exception(error);
}

Parallel pool_of_this_process(int64_t threads) {
  // A list to which pools are only added, each by one exchange: a lock could be held by a thread that the child of a
  // fork() does not have.
  struct Entry {
    pid_t process;
    int64_t threads;
    ThreadPool pool;
    const Entry* next;
  };
  static std::atomic<const Entry*> first{nullptr};
  if (threads <= 1) return serial();
  const pid_t process = getpid();
  const auto find = [&](const Entry* entry) {
    while (entry != nullptr && (entry->process != process || entry->threads != threads)) entry = entry->next;
    return entry;
  };
  const Entry* known = first.load(std::memory_order_acquire);
  if (const Entry* entry = find(known)) return const_cast<Entry*>(entry)->pool.parallel();
  auto made = std::unique_ptr<Entry>(new Entry{process, threads, ThreadPool(threads), known});
  while (!first.compare_exchange_weak(made->next, made.get(), std::memory_order_acq_rel)) {
    if (const Entry* entry = find(made->next)) return const_cast<Entry*>(entry)->pool.parallel();
  }
  return made.release()->pool.parallel();
}

}  // namespace sbk

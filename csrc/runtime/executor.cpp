#include "runtime/executor.h"

#include <algorithm>
#include <thread>

namespace sbk {
namespace {

std::size_t round_up(std::size_t n) { return (n + kCacheLine - 1) / kCacheLine * kCacheLine; }

constexpr int kTask = static_cast<int>(Scope::task);

}  // namespace

std::size_t Demand::total(int64_t threads) const {
  std::size_t total = kCacheLine;  // of which some are lost to alignment
  for (int s = 0; s < kScopes; s++) {
    // The caller may run tasks too, beside `threads` others: 0 is its slot.
    total += round_up(bytes[s]) * (s == kTask ? static_cast<std::size_t>(threads) + 1 : 1);
  }
  return total;
}

void Demand::include(const Demand& other) {
  for (int s = 0; s < kScopes; s++) bytes[s] = std::max(bytes[s], other.bytes[s]);
}

Executor::Executor(int threads, const std::vector<int>& cpus)
    : pool_(threads > 1 ? std::make_unique<ThreadPool>(threads, cpus) : nullptr),
      inner_(pool_ ? pool_->parallel() : serial()) {
  threads_ = static_cast<int>(inner_.threads);
  slots_ = std::vector<Slot>(static_cast<std::size_t>(threads_) + 1);
}

Executor::Executor(int threads, void (*run)(void*, int64_t, Parallel::Task, void*), void* pool)
    : threads_(threads), inner_{run, pool, threads}, slots_(static_cast<std::size_t>(threads) + 1) {}

void Executor::lend(std::byte* bytes, std::size_t size) {
  const auto address = reinterpret_cast<uintptr_t>(bytes);
  const std::size_t lost = std::min(size, (kCacheLine - address % kCacheLine) % kCacheLine);
  memory_ = bytes + lost, size_ = size - lost, is_lent_ = true;
}

std::size_t Executor::missing(const Demand& demand) const {
  const std::size_t wanted = demand.total(threads_) - kCacheLine;
  return is_lent_ && wanted > size_ ? wanted - size_ : 0;
}

void Executor::cut(const Demand& demand) {
  const std::size_t wanted = demand.total(threads_) - kCacheLine;
  if (wanted > size_) {
    if (is_lent_) throw std::bad_alloc();
    own_.reset(), memory_ = nullptr, size_ = 0;
    own_.reset(new std::byte[wanted + kCacheLine]);
    const auto address = reinterpret_cast<uintptr_t>(own_.get());
    memory_ = own_.get() + (kCacheLine - address % kCacheLine) % kCacheLine, size_ = wanted;
  }
  std::byte* at = memory_;
  for (int s = 0; s < kScopes; s++) {
    for (Slot& slot : slots_) {
      slot.workspaces[s].lend(at, demand.bytes[s]);
      if (s != kTask) break;  // the caller's only
      at += round_up(demand.bytes[s]);
    }
    if (s != kTask) at += round_up(demand.bytes[s]);
  }
}

Parallel Executor::parallel() { return {run_tasks, this, threads_}; }

Executor::Slot& Executor::take_slot() {
  for (;;) {
    for (std::size_t i = 1; i < slots_.size(); i++) {
      if (!slots_[i].taken.exchange(true, std::memory_order_acquire)) return slots_[i];
    }
    std::this_thread::yield();  // a pool with more threads than it was said to have
  }
}

// Gives a slot back, whatever the tasks throw.
struct Executor::SlotLease {
  explicit SlotLease(Slot& taken) : slot(taken) {}
  ~SlotLease() { slot.taken.store(false, std::memory_order_release); }
  SlotLease(const SlotLease&) = delete;
  SlotLease& operator=(const SlotLease&) = delete;
  Slot& slot;
};

void Executor::run_tasks(void* context, int64_t n, Parallel::Task task, void* arg) {
  struct Range {
    Executor& executor;
    Parallel::Task task;
    void* arg;
  } range{*static_cast<Executor*>(context), task, arg};
  const auto run = [](void* p, int64_t begin, int64_t end) {
    const Range& r = *static_cast<Range*>(p);
    if (UseWorkspaces::current() == &r.executor.slots_[0].workspaces) return r.task(r.arg, begin, end);
    const SlotLease lease(r.executor.take_slot());
    const UseWorkspaces use(lease.slot.workspaces);
    r.task(r.arg, begin, end);
  };
  range.executor.inner_.run(range.executor.inner_.context, n, run, &range);
}

KernelTable without_kernels(const KernelTable& table) {
  KernelTable idle = table;
  const auto nothing = [](const auto&) {};
  for (LowPrecision* low : {&idle.bfloat16, &idle.int8, &idle.float16}) low->encode = nothing, low->conv = nothing;
  idle.conv = nothing, idle.layer_norm = nothing, idle.transpose = nothing, idle.attention = nothing;
  if (idle.low_attention.attention != nullptr) idle.low_attention.attention = nothing;
  if (idle.low_attention.stack_rows != nullptr) idle.low_attention.stack_rows = nothing;
  return idle;
}

}  // namespace sbk

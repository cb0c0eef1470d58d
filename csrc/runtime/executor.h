// The threads and the scratch memory of one caller, for frontends that bring neither: csrc/capi.
//
// A call is made twice: first with kernels that do nothing and workspaces that only measure, then with real ones in one
// buffer that was cut to measure. So a call allocates at most once, before it changes anything, and the caller may
// provide the buffer.
#pragma once
#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "kernels/table.h"
#include "runtime/parallel.h"
#include "runtime/pool.h"
#include "runtime/workspace.h"

namespace sbk {

// Bytes of scratch memory, by scope. Those of Scope::task are needed once for each thread.
struct Demand {
  std::array<std::size_t, kScopes> bytes{};

  // Of the buffer that holds it all.
  std::size_t total(int64_t threads) const;
  void include(const Demand& other);
};

// What `call`(table, parallel) cuts from workspaces on `threads` threads. The table has kernels that do nothing;
// nothing that the call passes to ops is read or written.
template <class F>
Demand measure(const KernelTable& table, int64_t threads, const F& call);

class Executor {
 public:
  // `threads` >= 1 wide; on `cpus` if there are any. Throws std::bad_alloc.
  Executor(int threads, const std::vector<int>& cpus);
  // On the caller's own pool: run as in runtime/parallel.h.
  Executor(int threads, void (*run)(void*, int64_t, Parallel::Task, void*), void* pool);

  int threads() const { return threads_; }

  // Memory of the caller's, in place of memory of its own.
  void lend(std::byte* bytes, std::size_t size);

  // How many bytes of that are missing for `demand`; 0 where memory is its own.
  std::size_t missing(const Demand& demand) const;

  // False if another call is in progress; then nothing is done. Otherwise cuts memory to `demand`, throwing
  // std::bad_alloc if it does not suffice, and runs call(parallel).
  template <class F>
  bool run(const Demand& demand, const F& call) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    const Release release{busy_};
    cut(demand);
    const UseWorkspaces use(slots_[0].workspaces);
    call(parallel());
    return true;
  }

 private:
  struct Release {
    std::atomic<bool>& busy;
    ~Release() { busy.store(false, std::memory_order_release); }
  };
  // Workspaces of a thread. Slot 0 is the caller's. A thread that runs a range of tasks takes one of the others.
  struct Slot {
    Workspaces workspaces;
    std::atomic<bool> taken = false;
  };

  struct SlotLease;

  Parallel parallel();
  void cut(const Demand& demand);
  Slot& take_slot();
  static void run_tasks(void* self, int64_t n, Parallel::Task task, void* arg);

  int threads_;
  std::unique_ptr<ThreadPool> pool_;
  Parallel inner_;
  std::vector<Slot> slots_;
  std::unique_ptr<std::byte[]> own_;
  std::byte* memory_ = nullptr;
  std::size_t size_ = 0;
  bool is_lent_ = false;
  std::atomic<bool> busy_ = false;
};

// The table with kernels that do nothing.
KernelTable without_kernels(const KernelTable& table);

template <class F>
Demand measure(const KernelTable& table, int64_t threads, const F& call) {
  Workspaces workspaces;
  for (Workspace& w : workspaces) w.measure();
  {
    const UseWorkspaces use(workspaces);
    const KernelTable idle = without_kernels(table);
    const auto one_range = [](void*, int64_t n, Parallel::Task task, void* arg) { task(arg, 0, n); };
    call(idle, Parallel{one_range, nullptr, threads});
  }
  Demand demand;
  for (int s = 0; s < kScopes; s++) demand.bytes[s] = workspaces[s].capacity();
  return demand;
}

}  // namespace sbk

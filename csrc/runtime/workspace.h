// Scratch memory of a thread: grows to the largest request and is kept, so that a call costs no page faults; or memory
// that somebody lends, of a size that was measured before.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "runtime/huge_pages.h"

namespace sbk {

inline constexpr std::size_t kCacheLine = 64;

// What scratch memory lives for: one task; an op, whose tasks share it; what one op of a block, or one block of a
// layer, or one layer of a model, leaves to the next.
enum class Scope { task, op, block, layer, model };
inline constexpr int kScopes = 5;

// A bump allocator over one buffer. reserve() first, then take(); everything taken before is void after the next
// reserve().
class Workspace {
 public:
  // Makes room for `floats` floats and rounding of `pieces` pieces. Throws std::bad_alloc.
  void reserve(int64_t floats, int pieces) {
    const std::size_t bytes = (static_cast<std::size_t>(floats) * sizeof(float)) + (pieces + 1) * kCacheLine;
    if (bytes > capacity_) grow(bytes);
    used_ = 0;
  }

  // `floats` floats at a 64-byte boundary, unspecified values.
  float* take(int64_t floats) {
    float* p = reinterpret_cast<float*>(base_ + used_);
    const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
    used_ += (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
    return p;
  }

  // From now on these bytes, 64-byte aligned: what needs more throws std::bad_alloc.
  void lend(std::byte* bytes, std::size_t size) {
    base_ = reinterpret_cast<uintptr_t>(bytes), capacity_ = size, mode_ = Mode::lent;
  }
  // From now on addresses that nobody may use, for finding out how much a call reserves.
  void measure() { base_ = kCacheLine, capacity_ = 0, mode_ = Mode::measured; }
  // The most that was reserved.
  std::size_t capacity() const { return capacity_; }

  // The calling thread's workspace for `scope`. Each is its own: a thread may run tasks of an op that it has started.
  template <Scope scope>
  static Workspace& of();

 private:
  enum class Mode { owned, lent, measured };

  void grow(std::size_t bytes) {
    if (mode_ == Mode::lent) throw std::bad_alloc();
    if (mode_ == Mode::owned) {
      buffer_.reset();
      capacity_ = 0;
      buffer_.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kCacheLine})));
      base_ = reinterpret_cast<uintptr_t>(buffer_.get());
      advise_huge_pages(buffer_.get(), static_cast<int64_t>(bytes));
    }
    capacity_ = bytes;
  }

  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{kCacheLine}); }
  };
  std::unique_ptr<std::byte, Free> buffer_;
  uintptr_t base_ = 0;
  std::size_t capacity_ = 0, used_ = 0;
  Mode mode_ = Mode::owned;
};

// Workspaces of one thread, one for each scope.
using Workspaces = std::array<Workspace, kScopes>;

// While it lives, the calling thread uses `workspaces` in place of its own.
class UseWorkspaces {
 public:
  explicit UseWorkspaces(Workspaces& workspaces) : before_(current()) { current() = &workspaces; }
  ~UseWorkspaces() { current() = before_; }
  UseWorkspaces(const UseWorkspaces&) = delete;
  UseWorkspaces& operator=(const UseWorkspaces&) = delete;

  // Those in use, null where they are the thread's own.
  static Workspaces*& current() {
    static thread_local Workspaces* current = nullptr;
    return current;
  }

 private:
  Workspaces* before_;
};

template <Scope scope>
Workspace& Workspace::of() {
  if (Workspaces* current = UseWorkspaces::current()) return (*current)[static_cast<int>(scope)];
  static thread_local Workspace own;
  return own;
}

}  // namespace sbk

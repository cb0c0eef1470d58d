// Scratch memory of a thread. It grows to the largest request and is kept, so that a call costs no page faults. Or it
// is memory that a caller lends, of a size that was measured before.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>

#include "runtime/huge_pages.h"

namespace sbk {

inline constexpr std::size_t kCacheLine = 64;

// What scratch memory lives for: one task; an op, whose tasks share it; what one op of a block, or one block of a
// layer, or one layer of a model, leaves to the next.
enum class Scope { task, op, block, layer, model };
inline constexpr int kScopes = 5;

// What Workspace::cut() cuts pieces from, one behind the other.
class Pieces {
 public:
  // `count` values, unspecified, at a 64-byte boundary. Throws std::bad_alloc where it is more than was counted.
  template <class T = float>
  T* take(int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    if (bytes > limit_ - used_) throw std::bad_alloc();
    T* piece = reinterpret_cast<T*>(base_ + used_);
    used_ += (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
    return piece;
  }

 private:
  friend class Workspace;
  Pieces(uintptr_t base, std::size_t limit) : base_(base), limit_(limit) {}

  uintptr_t base_;
  std::size_t limit_, used_ = 0;  // limit_: a multiple of kCacheLine
};

// One buffer, which every cut() cuts anew: pieces of the cut before are void then.
class Workspace {
 public:
  // Returns what `describe`(pieces) returns, usually a struct of the pieces that it takes. describe runs twice: first
  // to add up what it takes, with addresses that must not be used, and then with the memory. So it must take the same
  // both times. Throws std::bad_alloc.
  template <class F>
  auto cut(const F& describe) {
    constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max() / kCacheLine * kCacheLine;
    Pieces counted(kCacheLine, unlimited);
    describe(counted);
    if (counted.used_ > capacity_) grow(counted.used_);
    Pieces pieces(base_, counted.used_);
    return describe(pieces);
  }

  // One piece of `floats` floats.
  float* cut_one(int64_t floats) {
    return cut([floats](Pieces& pieces) { return pieces.take(floats); });
  }

  // From now on these bytes, 64-byte aligned: what needs more throws std::bad_alloc.
  void lend(std::byte* bytes, std::size_t size) {
    base_ = reinterpret_cast<uintptr_t>(bytes), capacity_ = size, mode_ = Mode::lent;
  }
  // From now on addresses that must not be used, for finding out how much a call cuts.
  void measure() { base_ = kCacheLine, capacity_ = 0, mode_ = Mode::measured; }
  // The most that was cut, in bytes.
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
  std::size_t capacity_ = 0;
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

// Scratch memory of a thread: grows to the largest request and is kept, so that a call costs no page faults.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace sbk {

inline constexpr std::size_t kCacheLine = 64;

// What scratch memory lives for: one task; an op, whose tasks share it; what one op of a block, or one block of a
// layer, leaves to the next.
enum class Scope { task, op, block, layer };

// A bump allocator over one buffer. reserve() first, then take(); everything taken before is void after the next
// reserve().
class Workspace {
 public:
  // Makes room for `floats` floats and rounding of `pieces` pieces. Throws std::bad_alloc.
  void reserve(int64_t floats, int pieces) {
    const std::size_t bytes = (static_cast<std::size_t>(floats) * sizeof(float)) + (pieces + 1) * kCacheLine;
    if (bytes > capacity_) {
      buffer_.reset();
      capacity_ = 0;
      buffer_.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kCacheLine})));
      capacity_ = bytes;
    }
    used_ = 0;
  }

  // `floats` floats at a 64-byte boundary, unspecified values.
  float* take(int64_t floats) {
    float* p = reinterpret_cast<float*>(buffer_.get() + used_);
    const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
    used_ += (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
    return p;
  }

  // The calling thread's workspace for `scope`. Each is its own: a thread may run tasks of an op that it has started.
  template <Scope scope>
  static Workspace& of() {
    static thread_local Workspace workspace;
    return workspace;
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{kCacheLine}); }
  };
  std::unique_ptr<std::byte, Free> buffer_;
  std::size_t capacity_ = 0, used_ = 0;
};

}  // namespace sbk

// Operands of benchmarks.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace sbk::bench {

// 64-byte aligned, zeroed, in huge pages where it is large, as the library's own packed weights are.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : size_(size) {
    const size_t page = size_t{1} << 21, bytes = static_cast<size_t>(std::max<int64_t>(size, 1)) * sizeof(T);
    const size_t alignment = bytes >= page ? page : 64, rounded = (bytes + alignment - 1) / alignment * alignment;
    data_ = static_cast<T*>(std::aligned_alloc(alignment, rounded));
    if (data_ == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (bytes >= page) madvise(data_, rounded, MADV_HUGEPAGE);
#endif
    std::fill_n(reinterpret_cast<char*>(data_), rounded, char{0});
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  int64_t size() const { return size_; }

 private:
  int64_t size_;
  T* data_;
};

class Random {
 public:
  // Uniform in [-scale, scale); splitmix64.
  void fill(Buffer<float>& buffer, float scale) {
    for (int64_t i = 0; i < buffer.size(); i++) {
      uint64_t z = state_ += 0x9e3779b97f4a7c15u;
      z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
      z = (z ^ z >> 27) * 0x94d049bb133111ebu;
      buffer[i] = scale * static_cast<float>(static_cast<int64_t>((z ^ z >> 31) >> 40) - (1 << 23)) * 0x1p-23f;
    }
  }

 private:
  uint64_t state_ = 1;
};

}  // namespace sbk::bench

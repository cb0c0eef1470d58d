// Buffers between two pages that may not be touched, and matrices in them.
//
//   | no access |  canaries ... data  | no access |   Flush::end: reading or writing past the end faults
//   | no access |  data ... canaries  | no access |   Flush::start: the same in front of the start
//
// A canary is a NaN of a known pattern: one that is read by mistake shows in the result, one that is overwritten is
// missing afterwards. The gaps between rows (stride > columns) are canaries, too.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cstdint>
#include <new>
#include <utility>

#include "random.h"

namespace test {

enum class Flush { start, end };

inline constexpr uint32_t kCanary = 0x7fc0dead;
inline bool is_canary(float x) { return std::bit_cast<uint32_t>(x) == kCanary; }

class Buffer {
 public:
  // `floats` floats, all canaries; the address is a multiple of `alignment` bytes, at Flush::end by up to that much
  // slack.
  Buffer(int64_t floats, Flush flush, int64_t alignment = sizeof(float)) : floats_(floats) {
    const int64_t page = sysconf(_SC_PAGESIZE), bytes = floats * static_cast<int64_t>(sizeof(float));
    inner_ = (bytes + page - 1) / page * page;
    mapped_ = inner_ + 2 * page;
    void* p = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(p);
    start_ = base_ + page;
    if (inner_ > 0 && mprotect(start_, inner_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    const int64_t offset = flush == Flush::start ? 0 : (inner_ - bytes) / alignment * alignment;
    data_ = reinterpret_cast<float*>(start_ + offset);
    for (float* f = reinterpret_cast<float*>(start_); f != last(); f++) *f = std::bit_cast<float>(kCanary);
  }
  ~Buffer() { munmap(base_, mapped_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  float* data() { return data_; }
  const float* data() const { return data_; }
  int64_t size() const { return floats_; }

  // Writing to it faults from now on: for inputs.
  void freeze() {
    if (inner_ > 0) mprotect(start_, inner_, PROT_READ);
  }

  // Every float that can be accessed is still a canary, but those with wanted(index) true; the data start at index 0.
  template <class Wanted>
  bool untouched_but(const Wanted& wanted) const {
    for (const float* f = first(); f != last(); f++) {
      const int64_t i = f - data_;
      if (!(i >= 0 && i < floats_ && wanted(i)) && !is_canary(*f)) return false;
    }
    return true;
  }

 private:
  const float* first() const { return reinterpret_cast<const float*>(start_); }
  const float* last() const { return reinterpret_cast<const float*>(start_ + inner_); }

  int64_t floats_, inner_ = 0, mapped_ = 0;
  char *base_ = nullptr, *start_ = nullptr;
  float* data_ = nullptr;
};

// [rows][cols] with `stride` floats between rows. Behind the last row's `cols` columns the buffer ends, or `padded`
// columns if given (where a kernel may read or write up to whole vectors).
class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols, int64_t stride, Flush flush, int64_t padded = 0)
      : rows_(rows),
        cols_(cols),
        padded_(padded > cols ? padded : cols),
        stride_(stride),
        buffer_(rows > 0 ? (rows - 1) * stride + padded_ : 0, flush) {}

  // Uniform in [-scale, scale).
  Matrix& fill(Random& random, float scale = 1.0f) {
    for (int64_t r = 0; r < rows_; r++) {
      for (int64_t c = 0; c < cols_; c++) at(r, c) = scale * random.uniform();
    }
    return *this;
  }
  Matrix& fill_from(const Matrix& other) {
    for (int64_t r = 0; r < rows_; r++) {
      for (int64_t c = 0; c < cols_; c++) at(r, c) = other.at(r, c);
    }
    return *this;
  }
  Matrix& freeze() { return buffer_.freeze(), *this; }

  float& at(int64_t r, int64_t c) { return buffer_.data()[r * stride_ + c]; }
  float at(int64_t r, int64_t c) const { return buffer_.data()[r * stride_ + c]; }
  float* data() { return buffer_.data(); }
  const float* data() const { return buffer_.data(); }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t stride() const { return stride_; }

  // Nothing was written but rows x padded columns.
  bool gaps_untouched() const {
    return buffer_.untouched_but([&](int64_t i) { return i % stride_ < padded_; });
  }

 private:
  int64_t rows_, cols_, padded_, stride_;
  Buffer buffer_;
};

}  // namespace test

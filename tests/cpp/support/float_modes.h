// The floating-point modes of a thread, as a careless caller leaves them.
#pragma once
#include <cfenv>
#include <cstdint>

namespace test {

// Rounds as it is told to and, with `flush`, takes denormals for 0, as -ffast-math and torch.set_flush_denormal do it.
class FloatModes {
 public:
  explicit FloatModes(int rounding, bool flush = false) : rounding_(std::fegetround()), before_(read()) {
    std::fesetround(rounding);
    if (flush) write(read() | kFlush);
  }
  ~FloatModes() {
    write(before_);
    std::fesetround(rounding_);
  }
  FloatModes(const FloatModes&) = delete;
  FloatModes& operator=(const FloatModes&) = delete;

 private:
#if defined(__x86_64__)
  using Register = unsigned;
  static constexpr Register kFlush = 0x8040;
  static Register read() { return __builtin_ia32_stmxcsr(); }
  static void write(Register value) { __builtin_ia32_ldmxcsr(value); }
#elif defined(__aarch64__)
  using Register = uint64_t;
  static constexpr Register kFlush = Register{1} << 24;
  static Register read() {
    Register value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(Register value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#else
  using Register = int;
  static constexpr Register kFlush = 0;
  static Register read() { return 0; }
  static void write(Register) {}
#endif
  int rounding_;
  Register before_;
};

}  // namespace test

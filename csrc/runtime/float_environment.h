// What the CPU's arithmetic does besides what instructions say: rounding, denormals, traps. It belongs to each thread.
#pragma once
#include <cstdint>

namespace sbk {

// While it lives, the calling thread rounds to nearest, keeps denormals and takes no traps; afterwards everything is as
// it was. So the caller's modes (fesetround, flush to zero, -ffast-math somewhere in the process) do not change
// results.
//
// Costs one read of a control register, and writes only where the caller has changed something. Every task has one
// (parallel.h), and every call of the C interface. What an op computes outside of tasks needs one of its own; numbers
// that it only passes through registers may be computed before: hold() them.
class FloatEnvironment {
 public:
  FloatEnvironment() : before_(read()) {
    if (is_changed()) write(kStandard);
  }
  ~FloatEnvironment() {
    if (is_changed()) write(before_);
  }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

  // Keeps the compiler from computing `value` before, or what follows from it after, this environment.
  template <class T>
  static void hold(T& value) {
    asm volatile("" : "+m"(value) : : "memory");
  }

 private:
#if defined(__x86_64__)
  // MXCSR. The lowest bits are flags of what has happened so far, and change nothing.
  using Register = uint32_t;
  static constexpr Register kStandard = 0x1f80, kFlags = 0x3f;
  static Register read() {
    Register value;
    asm volatile("stmxcsr %0" : "=m"(value));
    return value;
  }
  static void write(Register value) { asm volatile("ldmxcsr %0" : : "m"(value) : "memory"); }
#elif defined(__aarch64__)
  // FPCR
  using Register = uint64_t;
  static constexpr Register kStandard = 0, kFlags = 0;
  static Register read() {
    Register value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(Register value) { asm volatile("msr fpcr, %0" : : "r"(value) : "memory"); }
#else
  using Register = uint32_t;
  static constexpr Register kStandard = 0, kFlags = 0;
  static Register read() { return kStandard; }
  static void write(Register) {}
#endif

  bool is_changed() const { return (before_ & ~kFlags) != kStandard; }

  Register before_;
};

}  // namespace sbk

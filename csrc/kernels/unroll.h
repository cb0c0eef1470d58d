// Compile-time loops over registers. Bare loops over accumulator arrays end up on the stack in GCC 12; a fold does not.
#pragma once
#include <utility>

#define SBK_INLINE inline __attribute__((always_inline))
#define SBK_NOINLINE __attribute__((noinline))
// Every lambda inside an unroll must carry this: clang otherwise outlines it and the accumulators go through memory.
#define SBK_INLINE_LAMBDA __attribute__((always_inline))

namespace sbk {
namespace {

// f(integral_constant<int, 0>{}), ..., f(integral_constant<int, N - 1>{}), in this order.
template <int N, class F>
SBK_INLINE void unroll(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>)
      SBK_INLINE_LAMBDA { (f(std::integral_constant<int, I>{}), ...); }(std::make_integer_sequence<int, N>{});
}

}  // namespace
}  // namespace sbk

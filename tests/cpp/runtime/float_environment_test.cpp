// runtime/float_environment.h: the caller's rounding and flushing reach no task, and are as before afterwards.
#include "runtime/float_environment.h"

#include <bit>
#include <cfenv>
#include <vector>

#include "runtime/parallel.h"
#include "runtime/pool.h"
#include "support/check.h"
#include "support/float_modes.h"

namespace {

using namespace test;

constexpr int kRoundings[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};

// The bits of 1/3, of what is between 1 and the next float, and of a denormal: as they come out now.
std::vector<uint32_t> sample() {
  volatile float one = 1, three = 3, tiny = 0x1p-30f, least = 0x1p-126f;
  std::vector<uint32_t> bits;
  for (const float value : {one / three, -one / three, one + tiny, -(one + tiny), least / 4}) {
    bits.push_back(std::bit_cast<uint32_t>(value));
  }
  return bits;
}

TEST(tasks_do_not_see_the_modes_of_their_thread) {
  const std::vector<uint32_t> want = sample();
  sbk::ThreadPool pool(3);
  for (const int rounding : kRoundings) {
    for (const bool flush : {false, true}) {
      const Context where([&] { return text("rounding ", rounding, flush ? ", flushing" : ""); });
      std::vector<std::vector<uint32_t>> alone(1), shared(64);
      {
        const FloatModes modes(rounding, flush);
        const std::vector<uint32_t> before = sample();
        sbk::parallel_for(sbk::serial(), 1, [&](int64_t) { alone[0] = sample(); });
        sbk::parallel_for(pool.parallel(), 64, [&](int64_t i) { shared[static_cast<size_t>(i)] = sample(); });
        CHECK(sample() == before);
        CHECK((before == want) == (rounding == FE_TONEAREST && !flush));
        CHECK_EQ(std::fegetround(), rounding);
      }
      CHECK(alone[0] == want);
      for (const std::vector<uint32_t>& one : shared) CHECK(one == want);
    }
  }
}

TEST(flags_do_not_count_as_a_mode) {
  std::feclearexcept(FE_ALL_EXCEPT);
  std::feraiseexcept(FE_DIVBYZERO);
  {
    const sbk::FloatEnvironment standard;
    CHECK(std::fetestexcept(FE_DIVBYZERO) != 0);
  }
  CHECK(std::fetestexcept(FE_DIVBYZERO) != 0);
  std::feclearexcept(FE_ALL_EXCEPT);
}

}  // namespace

// runtime/workspace.h: pieces lie apart, what is counted is what is cut, and no piece reaches behind it.
#include "runtime/workspace.h"

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "support/check.h"

namespace {

using namespace test;
using sbk::Pieces;
using sbk::Scope;
using sbk::Workspace;

const std::vector<int64_t> kSizes = {0, 1, 15, 16, 17, 0, 100, 1000, 1};  // floats
constexpr std::size_t kBytes = (0 + 1 + 1 + 1 + 2 + 0 + 7 + 63 + 1) * sbk::kCacheLine;

std::vector<float*> cut(Workspace& workspace, const std::vector<int64_t>& sizes) {
  return workspace.cut([&](Pieces& pieces) {
    std::vector<float*> at;
    for (const int64_t n : sizes) at.push_back(pieces.take(n));
    return at;
  });
}

template <class F>
bool has_no_memory(const F& f) {
  try {
    f();
  } catch (const std::bad_alloc&) {
    return true;
  }
  return false;
}

TEST(pieces_lie_apart) {
  Workspace workspace;
  const std::vector<float*> at = cut(workspace, kSizes);
  for (std::size_t i = 0; i < at.size(); i++) {
    CHECK_EQ(reinterpret_cast<uintptr_t>(at[i]) % sbk::kCacheLine, 0u);
    for (int64_t j = 0; j < kSizes[i]; j++) at[i][j] = static_cast<float>(i);
  }
  for (std::size_t i = 0; i < at.size(); i++) {
    for (int64_t j = 0; j < kSizes[i]; j++) CHECK_EQ(at[i][j], static_cast<float>(i));
  }
  CHECK_EQ(workspace.capacity(), kBytes);
}

TEST(pieces_of_other_types) {
  Workspace workspace;
  struct Cut {
    char* bytes;
    int64_t* numbers;
  };
  const Cut at = workspace.cut(
      [](Pieces& pieces) { return Cut{.bytes = pieces.take<char>(65), .numbers = pieces.take<int64_t>(8)}; });
  CHECK_EQ(reinterpret_cast<char*>(at.numbers) - at.bytes, 128);
  CHECK_EQ(workspace.capacity(), std::size_t{192});
}

TEST(memory_is_kept) {
  Workspace workspace;
  float* first = workspace.cut_one(1000);
  CHECK(workspace.cut_one(10) == first);
  CHECK(workspace.cut_one(1000) == first);
  std::memset(workspace.cut_one(100000), 0, 100000 * sizeof(float));
  CHECK_EQ(workspace.capacity(), 100000 * sizeof(float));
}

TEST(what_is_measured_suffices_and_no_less) {
  Workspace measured;
  measured.measure();
  cut(measured, kSizes);
  cut(measured, {1});
  CHECK_EQ(measured.capacity(), kBytes);

  std::vector<std::byte> memory(kBytes + sbk::kCacheLine);
  auto* aligned = memory.data() + (-reinterpret_cast<uintptr_t>(memory.data())) % sbk::kCacheLine;
  Workspace lent;
  lent.lend(aligned, kBytes);
  const std::vector<float*> at = cut(lent, kSizes);
  CHECK(reinterpret_cast<std::byte*>(at.front()) == aligned);
  CHECK(reinterpret_cast<std::byte*>(at.back() + kSizes.back()) <= aligned + kBytes);
  lent.lend(aligned, kBytes - sbk::kCacheLine);
  CHECK(has_no_memory([&] { cut(lent, kSizes); }));
}

TEST(a_description_that_takes_more_than_it_did_has_no_memory) {
  Workspace workspace;
  workspace.cut_one(10000);  // there would be room
  int times = 0;
  const auto more = [&](Pieces& pieces) {
    pieces.take(16);
    pieces.take(times++ == 0 ? 16 : 17);
  };
  CHECK(has_no_memory([&] { workspace.cut(more); }));
  times = 0;
  const auto one_more = [&](Pieces& pieces) {
    pieces.take(16);
    if (times++ > 0) pieces.take(1);
  };
  CHECK(has_no_memory([&] { workspace.cut(one_more); }));
}

#ifndef SBK_NEW_NEVER_THROWS
TEST(sizes_beyond_all_memory) {
  Workspace workspace;
  CHECK(has_no_memory([&] { workspace.cut_one(int64_t{1} << 60); }));
  CHECK(has_no_memory([&] { cut(workspace, {int64_t{1} << 61, int64_t{1} << 61}); }));
  *workspace.cut_one(1) = 1.0f;  // and it goes on
}
#endif

TEST(each_scope_has_its_own) {
  CHECK(&Workspace::of<Scope::task>() != &Workspace::of<Scope::op>());
  CHECK(&Workspace::of<Scope::task>() == &Workspace::of<Scope::task>());
  sbk::Workspaces mine;
  {
    const sbk::UseWorkspaces use(mine);
    CHECK(&Workspace::of<Scope::task>() == &mine[static_cast<int>(Scope::task)]);
  }
  CHECK(&Workspace::of<Scope::task>() != &mine[static_cast<int>(Scope::task)]);
}

}  // namespace

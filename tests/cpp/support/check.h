// A test harness of one header; every test program is one source file that includes it, main() is at the end.
//
//   TEST(name) { ... }      a test; it finds the kernel table under test as `table`
//   CHECK(condition)        counts a failure and goes on
//   CHECK_EQ(a, b)          the same, and shows both values
//   const test::Context where([&] { return std::string(...); });
//                           says, when something fails in its scope, in which case of a sweep
//
// A program is called with the name of an ISA tier and runs all its tests on that tier's table, chosen explicitly. A
// tier that this CPU lacks ends in kSkipped, which ctest shows as "Skipped".
#pragma once
#include <unistd.h>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/table.h"
#include "runtime/cpu.h"

namespace test {

inline constexpr int kSkipped = 77, kMostShown = 20;

struct Test {
  const char* name;
  void (*run)(const sbk::KernelTable&);
};

// What the running program has found so far.
struct State {
  std::vector<Test> tests;
  std::vector<const std::function<std::string()>*> contexts;
  const char* running = "";
  int64_t checks = 0, failures = 0;
  double worst = 0;  // largest error seen, as a share of its tolerance
};

inline State& state() {
  static State s;
  return s;
}

// Evaluated only when something fails: sweeps have very many cases.
class Context {
 public:
  template <class F>
  explicit Context(F f) : describe_(f) {
    state().contexts.push_back(&describe_);
  }
  ~Context() { state().contexts.pop_back(); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

 private:
  std::function<std::string()> describe_;
};

inline std::string where() {
  std::string text = state().running;
  for (const auto* describe : state().contexts) text += ": " + (*describe)();
  return text;
}

inline void check(bool ok, const char* file, int line, const std::function<std::string()>& what) {
  state().checks++;
  if (ok || ++state().failures > kMostShown) return;
  std::printf("%s:%d: %s\n    in %s\n", file, line, what().c_str(), where().c_str());
}

// "rows=3 k=7" out of text("rows=", 3, " k=", 7).
template <class... Args>
std::string text(const Args&... args) {
  std::ostringstream out;
  out.precision(9);
  (out << ... << args);
  return out.str();
}

struct Registration {
  Registration(const char* name, void (*run)(const sbk::KernelTable&)) { state().tests.push_back({name, run}); }
};

// A read or write outside a buffer hits a guard page (guarded.h): say in which case before the program ends.
inline void on_fault(int) {
  std::printf("memory access outside a buffer\n    in %s\n", where().c_str());
  std::fflush(stdout);
  _exit(1);
}

}  // namespace test

#define TEST(name)                                              \
  static void name(const sbk::KernelTable& table);              \
  static const test::Registration register_##name(#name, name); \
  static void name([[maybe_unused]] const sbk::KernelTable& table)

#define CHECK(condition) \
  test::check(static_cast<bool>(condition), __FILE__, __LINE__, [&] { return std::string("CHECK(" #condition ")"); })

#define CHECK_EQ(a, b)                        \
  test::check((a) == (b), __FILE__, __LINE__, \
              [&] { return test::text("CHECK_EQ(" #a ", " #b "): ", (a), " is not ", (b)); })

int main(int argc, char** argv) {
  const sbk::KernelTable* table = nullptr;
  std::string possible;
  for (const sbk::KernelTable* candidate : sbk::available_tables()) {
    if (argc > 1 ? std::string(argv[1]) == candidate->isa : table == nullptr) table = candidate;
    possible += std::string(" ") + candidate->isa;
  }
  if (table == nullptr) {
    std::printf("SKIPPED: this CPU has no %s, only%s\n", argv[1], possible.c_str());
    return test::kSkipped;
  }
  std::signal(SIGSEGV, test::on_fault);
  std::signal(SIGBUS, test::on_fault);
  test::State& state = test::state();
  for (const test::Test& t : state.tests) {
    const int64_t checks = state.checks, failures = state.failures;
    state.running = t.name, state.worst = 0;
    t.run(*table);
    std::printf("%s.%s: %lld checks, %lld failures", t.name, table->isa, static_cast<long long>(state.checks - checks),
                static_cast<long long>(state.failures - failures));
    if (state.worst > 0) std::printf(", largest error %.0f %% of its tolerance", 100 * state.worst);
    std::printf("\n");
  }
  return state.failures == 0 ? 0 : 1;
}

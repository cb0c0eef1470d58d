// Fuzzes what reads packed weights: makes a good buffer, damages it as the input says, and uses what find_sections()
// lets pass, as csrc/torch does. Nothing may be read outside the buffer, and equal calls have equal results.
//
//   fuzz_packed [RUNS]      RUNS random inputs, always the same, on every tier of this machine
//
// With clang, libFuzzer takes the place of that main(); the sources are those of the library:
//
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -DSBK_LIBFUZZER -Icsrc -Itests/cpp -pthread
//     -o fuzz tests/cpp/ops/fuzz_packed.cpp csrc/{runtime,ops}/*.cpp csrc/isa/scalar.cpp
//   mkdir found && ./fuzz found
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "isa/layouts.h"
#include "ops/ops.h"
#include "runtime/cpu.h"
#include "support/random.h"

namespace {

using sbk::Compute;
using sbk::Weight;

constexpr std::align_val_t kLine{64};

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz_packed: %s\n", what);
  std::abort();
}

// The bytes of the input one behind the other, and zeros behind them.
struct Bytes {
  const uint8_t* data;
  std::size_t size;

  template <class T>
  T next() {
    T value{};
    const std::size_t n = size < sizeof value ? size : sizeof value;
    std::memcpy(&value, data, n);
    data += n, size -= n;
    return value;
  }
  int64_t below(int64_t n) { return next<uint8_t>() % n; }
};

// Memory that ends where it should, which AddressSanitizer watches.
struct Buffer {
  std::unique_ptr<std::byte[], void (*)(std::byte*)> memory;
  int64_t bytes;

  explicit Buffer(int64_t n)
      : memory(static_cast<std::byte*>(operator new(static_cast<std::size_t>(n), kLine)),
               [](std::byte* p) { operator delete(p, kLine); }),
        bytes(n) {}
};

const std::vector<float>& numbers() {
  static const std::vector<float> values = [] {
    std::vector<float> made(1 << 14);
    test::Random random(3);
    for (float& x : made) x = random.uniform();
    return made;
  }();
  return values;
}

Weight weight(int64_t n, int64_t in_channels, int64_t groups) {
  return {numbers().data(), sbk::WeightType::float32, n, in_channels / groups, groups};
}

struct Case {
  std::vector<Weight> weights;
  int64_t heads;
};

constexpr int64_t kChannels[] = {4, 24, 40}, kHidden[] = {8, 48, 56}, kGroups[] = {1, 2, 4};

Case make_case(Bytes& bytes, int64_t op) {
  const int64_t i = bytes.below(3), channels = kChannels[i], hidden = kHidden[i];
  const auto groups = [&] { return kGroups[bytes.below(3)]; };
  if (op == 0) return {{weight(hidden, channels, groups())}, 0};
  if (op == 2) {
    const int64_t post = groups(), up = groups(), down = groups();
    return {{weight(channels, channels, post), weight(hidden, channels, up), weight(channels, hidden, down)}, 0};
  }
  const int64_t heads = groups();
  const int64_t q = groups(), k = groups(), v = groups();
  return {{weight(channels, channels, q), weight(channels, channels, k), weight(channels, channels, v)}, heads};
}

// A good buffer, damaged.
Buffer make_buffer(Bytes& bytes, const sbk::KernelTable& table, const Case& made) {
  std::vector<Compute> computes;
  std::vector<int64_t> starts{0};
  const bool mixed = bytes.below(2) == 1;
  for (const Weight& w : made.weights) {
    const auto compute = static_cast<Compute>(bytes.below(4));
    computes.push_back(mixed || computes.empty() ? compute : computes[0]);
    starts.push_back(starts.back() + sbk::packed_bytes(table, w, made.heads, computes.back()));
  }
  Buffer good(starts.back());
  for (std::size_t i = 0; i < computes.size(); i++) {
    sbk::pack(table, made.weights[i], made.heads, good.memory.get() + starts[i], sbk::serial(), computes[i]);
  }
  const int64_t cut = bytes.below(4) == 3 ? bytes.next<uint16_t>() % (good.bytes + 1) : 0;
  Buffer damaged(good.bytes - cut);
  std::memcpy(damaged.memory.get(), good.memory.get(), static_cast<std::size_t>(damaged.bytes));
  while (bytes.size > 2) {
    const auto where = static_cast<int64_t>(bytes.next<uint16_t>());
    const int64_t width = int64_t{1} << bytes.below(4);
    const auto value = bytes.next<uint64_t>();
    // Most of it in headers, which are what is looked at.
    const auto section = static_cast<std::size_t>(where / 64) % computes.size();
    const int64_t at = where % 4 != 0 ? starts[section] + where % 64 : where;
    if (at + width <= damaged.bytes) std::memcpy(damaged.memory.get() + at, &value, static_cast<std::size_t>(width));
  }
  return damaged;
}

// f(y) computes `n` floats into y, from nothing else than its arguments.
template <class F>
void twice(int64_t n, const F& f) {
  std::vector<float> first(static_cast<std::size_t>(n), 1.0f), second(first.size(), -7.0f);
  f(first.data());
  f(second.data());
  const bool same = n == 0 || std::memcmp(first.data(), second.data(), first.size() * sizeof(float)) == 0;
  require(same, "equal calls, other results");
}

void use(const sbk::KernelTable& table, const Case& made, const std::vector<const sbk::PackedHeader*>& sections,
         int64_t op, int64_t rows) {
  const sbk::Parallel parallel = sbk::serial();
  const float* values = numbers().data();
  const auto conv = [&](std::size_t i) { return sbk::Conv{sections[i], values}; };
  const sbk::Norm norm{values, values + 64, 1e-5f};
  const sbk::Conv first = conv(0);
  const int64_t in = first.in_channels(), out = first.out_channels();
  const sbk::Input x{values, in};
  for (std::size_t i = 0; i < sections.size(); i++) {
    const auto size = static_cast<std::size_t>(made.weights[i].n * made.weights[i].k);
    std::vector<float> unpacked(size), scale(static_cast<std::size_t>(made.weights[i].n));
    sbk::unpack(*sections[i], unpacked.data(), scale.data(), parallel);
  }
  if (op == 0) {
    twice(rows * out, [&](float* y) {
      sbk::grouped_pointwise_conv(table, parallel, first, x, rows, sbk::Activation::gelu, {y, out});
    });
  } else if (op == 1) {
    const std::vector<int64_t> offsets{0, rows / 3, rows};
    const sbk::AttentionBlock block{conv(0), conv(1), conv(2), made.heads};
    twice(rows * out, [&](float* y) {
      sbk::attention_block(table, parallel, block, x, {2, offsets.data()}, {nullptr, {0, 0, 0}}, {y, out});
    });
  } else {
    const sbk::PostAttentionBlock block{conv(0), conv(1), conv(2), norm, norm, sbk::Activation::gelu};
    twice(rows * out, [&](float* y) { sbk::post_attention_block(table, parallel, block, x, x, rows, {y, out}); });
  }
}

// Shapes of any numbers: refused, or sizes that make sense, at once.
void check_sizes(Bytes& bytes) {
  const auto n = bytes.next<int64_t>(), k = bytes.next<int64_t>(), groups = bytes.next<int64_t>();
  const auto heads = bytes.next<int64_t>();
  if (!sbk::is_weight_shape(n, k, groups) || heads < 0 || (heads > 0 && n % heads != 0)) return;
  for (const sbk::TierLayout& tier : sbk::kTierLayouts) {
    for (const Compute compute : {Compute::float32, Compute::bfloat16, Compute::int8, Compute::float16}) {
      const Weight shape{nullptr, sbk::WeightType::float32, n, k, groups};
      const int64_t size = sbk::packed_bytes(tier, shape, heads, compute);
      require(size > n * k && size % 64 == 0 && size / 257 <= n * k + 64, "a size that makes no sense");
      require(n / groups % sbk::block_columns(shape, heads) == 0, "a block that crosses a group");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  static const std::vector<const sbk::KernelTable*> tables = sbk::available_tables();
  Bytes bytes{data, size};
  const int64_t op = bytes.below(4);
  if (op == 3) {
    check_sizes(bytes);
    return 0;
  }
  const sbk::KernelTable& table = *tables[static_cast<std::size_t>(bytes.below(static_cast<int64_t>(tables.size())))];
  const int64_t rows = bytes.below(20);
  const Case made = make_case(bytes, op);
  const Buffer packed = make_buffer(bytes, table, made);
  std::string error;
  const auto sections = sbk::find_sections(table, made.weights, made.heads, packed.memory.get(), packed.bytes, &error);
  require(sections.empty() != error.empty(), "neither sections nor a reason");
  if (!sections.empty()) use(table, made, sections, op, rows);
  return 0;
}

#ifndef SBK_LIBFUZZER
int main(int argc, char** argv) {
  const int64_t runs = argc > 1 ? std::atoll(argv[1]) : 20000;
  test::Random random(1);
  for (int64_t i = 0; i < runs; i++) {
    std::vector<uint8_t> input(static_cast<std::size_t>(12 + random.below(40)));
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random.bits());
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%lld inputs\n", static_cast<long long>(runs));
  return 0;
}
#endif

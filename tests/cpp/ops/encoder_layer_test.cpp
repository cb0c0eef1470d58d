// encoder_layer against the two ops that it is made of, bit for bit: the context on its way from one to the other is
// all that is new.
#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "ops_case.h"
#include "support/check.h"
#include "support/threads.h"

namespace {

using sbk::Activation;
using sbk::Compute;
using namespace test;

constexpr Compute kComputes[] = {Compute::float32, Compute::bfloat16, Compute::int8, Compute::float16};

bool same_bits(const Matrix& a, const Matrix& b, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r++) {
    if (std::memcmp(a.data() + r * a.stride(), b.data() + r * b.stride(), columns * sizeof(float)) != 0) return false;
  }
  return true;
}

// A layer of `in` channels with a context of `channels`.
class Layer {
 public:
  Layer(const sbk::KernelTable& table, std::vector<int64_t> lengths, int64_t in, int64_t channels, int64_t heads,
        Compute compute, Broadcast broadcast)
      : table_(table),
        random_(41),
        offsets_(1, 0),
        channels_(channels),
        batch_(static_cast<int64_t>(lengths.size())),
        // The mask is that of the padded batch.
        mask_(random_, broadcast, batch_, heads,
              lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end())),
        attention_(table, random_, {batch_, 0, in, channels, heads, 2, 2, 1}, sbk::WeightType::float32, compute),
        post_(table, random_, {0, channels, in, 3 * in, 1, 4, 4, Activation::gelu}, sbk::WeightType::float32, compute) {
    for (const int64_t length : lengths) offsets_.push_back(offsets_.back() + length);
  }

  int64_t rows() const { return offsets_.back(); }

  void two_ops(const sbk::Parallel& parallel, const Matrix& x, Matrix& y) const {
    Matrix context(rows(), channels_, channels_, Flush::end);
    sbk::attention_block(table_, parallel, attention_.block(), input(x), sequences(), mask_.mask, output(context));
    sbk::post_attention_block(table_, parallel, post_.block(), input(context), input(x), rows(), output(y));
  }
  void one_op(const sbk::Parallel& parallel, const Matrix& x, Matrix& y) const {
    sbk::encoder_layer(table_, parallel, attention_.block(), post_.block(), input(x), sequences(), mask_.mask,
                       output(y));
  }

 private:
  sbk::Sequences sequences() const { return {batch_, offsets_.data()}; }

  const sbk::KernelTable& table_;
  Random random_;
  std::vector<int64_t> offsets_;
  int64_t channels_, batch_;
  AttentionMaskCase mask_;
  RandomAttention attention_;
  RandomPostAttention post_;
};

const std::vector<int64_t> kLengths[] = {{1}, {5}, {65}, {40, 40, 40}, {9, 0, 70, 1, 33}, {200}, {0}, {}};

TEST(equals_the_two_ops) {
  // Masks by turns: all three meet every compute, every list of lengths and every width.
  constexpr Broadcast kMasks[] = {Broadcast::none, Broadcast::keys, Broadcast::heads};
  int turn = 0;
  for (const Compute compute : kComputes) {
    for (const std::vector<int64_t>& lengths : kLengths) {
      // As wide as the layer, and narrower and wider.
      for (const int64_t channels : {48, 24, 72}) {
        const Broadcast broadcast = kMasks[turn++ / 3 % 3];
        const Context where([&] {
          return text("compute=", static_cast<int>(compute), " sequences=", lengths.size(),
                      " first=", lengths.empty() ? 0 : lengths[0], " channels=", channels,
                      " mask=", static_cast<int>(broadcast));
        });
        const Layer layer(table, lengths, 48, channels, 6, compute, broadcast);
        Matrix x(layer.rows(), 48, 51, Flush::end), y(layer.rows(), 48, 50, Flush::end);
        Matrix want(layer.rows(), 48, 48, Flush::end);
        Random random(42);
        x.fill(random).freeze();
        layer.two_ops(sbk::serial(), x, want);
        layer.one_op(sbk::serial(), x, y);
        CHECK(same_bits(y, want, layer.rows(), 48));
        CHECK(y.gaps_untouched());
        Threads threads(2);
        Matrix by_two(layer.rows(), 48, 48, Flush::end);
        layer.one_op(threads.hook(), x, by_two);
        CHECK(same_bits(by_two, want, layer.rows(), 48));
      }
    }
  }
}

TEST(writes_over_its_input) {
  for (const Compute compute : kComputes) {
    const Layer layer(table, {9, 70, 33}, 48, 48, 6, compute, Broadcast::keys);
    Matrix x(layer.rows(), 48, 48, Flush::end), want(layer.rows(), 48, 48, Flush::end);
    Random random(43);
    x.fill(random);
    layer.two_ops(sbk::serial(), x, want);
    layer.one_op(sbk::serial(), x, x);
    CHECK(same_bits(x, want, layer.rows(), 48));
  }
}

// The context is a thread's own: other threads' layers, and larger and smaller ones before, leave no trace.
TEST(concurrent_calls) {
  const Layer large(table, {70, 33}, 48, 72, 6, Compute::bfloat16, Broadcast::none);
  const Layer small(table, {9}, 48, 24, 6, Compute::float32, Broadcast::keys);
  std::vector<int> wrong(4);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; caller++) {
    callers.emplace_back([&large, &small, &wrong, caller] {
      for (int i = 0; i < 6; i++) {
        const Layer& layer = (caller + i) % 2 ? large : small;
        Matrix x(layer.rows(), 48, 48, Flush::end), y(layer.rows(), 48, 48, Flush::end);
        Matrix want(layer.rows(), 48, 48, Flush::end);
        Random random(44);
        x.fill(random);
        Threads threads(2);
        const sbk::Parallel parallel = i % 3 ? threads.hook() : sbk::serial();
        layer.two_ops(parallel, x, want);
        layer.one_op(parallel, x, y);
        wrong[caller] += !same_bits(y, want, layer.rows(), 48);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const int count : wrong) CHECK_EQ(count, 0);
}

}  // namespace

// The ops of ops/ops.h on several threads: the same bits for any number of threads and any ranges, and safe to call
// from several threads at once on the same weights.
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "ops_case.h"
#include "support/check.h"
#include "support/shapes.h"
#include "support/threads.h"

namespace {

using sbk::Activation;
using namespace test;

// Every op of one network on one input, the results one after the other.
class Network {
 public:
  Network(const sbk::KernelTable& table, const AttentionShape& s, int64_t post_groups, int64_t hidden, int64_t up,
          int64_t down)
      : table_(table),
        random_(31),
        shape_(s),
        rows_(s.batch * s.length),
        attention_(table, random_, s),
        post_(table, random_, {rows_, s.channels, s.channels, hidden, post_groups, up, down, Activation::gelu}),
        mask_(random_, Broadcast::queries, s.batch, s.heads, s.length),
        x_(rows_, s.in, s.in, Flush::end),
        residual_(rows_, s.channels, s.channels, Flush::end) {
    x_.fill(random_).freeze(), residual_.fill(random_).freeze();
  }

  std::vector<float> run(const sbk::Parallel& parallel) const {
    const int64_t c = shape_.channels, hidden = post_.shape.hidden, size = rows_ * c;
    std::vector<float> result(3 * size + rows_ * hidden);
    const sbk::Output context{result.data(), c}, y{context.data + size, c}, norm{y.data + size, c};
    const sbk::Output up{norm.data + size, hidden};
    sbk::attention_block(table_, parallel, attention_.block(), input(x_),
                         Uniform(shape_.batch, shape_.length).sequences(), mask_.mask, context);
    const sbk::Input in{context.data, c};
    sbk::post_attention_block(table_, parallel, post_.block(), in, input(residual_), rows_, y);
    sbk::grouped_pointwise_conv_layer_norm(table_, parallel, post_.post.conv(), post_.post_norm.norm(), in,
                                           input(residual_), rows_, norm);
    sbk::grouped_pointwise_conv(table_, parallel, post_.up.conv(), {y.data, c}, rows_, Activation::gelu_tanh, up);
    return result;
  }

 private:
  const sbk::KernelTable& table_;
  Random random_;
  AttentionShape shape_;
  int64_t rows_;
  RandomAttention attention_;
  RandomPostAttention post_;
  AttentionMaskCase mask_;
  Matrix x_, residual_;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(any_number_of_threads_gives_the_same_bits) {
  for (const auto& [batch, length] : {std::pair{1, 1}, {1, 5}, {1, 65}, {2, 64}, {3, 43}, {1, 200}, {7, 19}, {0, 5}}) {
    const Context where([&, batch = batch, length = length] { return text("batch=", batch, " length=", length); });
    const Network aligned(table, {batch, length, 48, 48, 6, 4, 4, 4}, 1, 96, 4, 4);
    const Network unequal(table, {batch, length, 36, 36, 4, 2, 3, 1}, 3, 60, 4, 6);
    for (const Network* network : {&aligned, &unequal}) {
      const std::vector<float> serial = network->run(sbk::serial());
      CHECK(same_bits(network->run(sbk::serial()), serial));
      for (const int64_t count : {2, 3, 7}) {
        Threads threads(count);
        CHECK(same_bits(network->run(threads.hook()), serial));
      }
    }
  }
}

TEST(hook_covers_every_index_once) {
  for (const int64_t n : {0, 1, 2, 5, 100}) {
    Threads threads(3);
    std::vector<int> seen(n);
    sbk::parallel_for(threads.hook(), n, [&](int64_t i) { seen[i]++; });
    for (const int count : seen) CHECK_EQ(count, 1);
  }
}

TEST(concurrent_calls_on_the_same_weights) {
  const Network network(table, {2, 37, 48, 48, 6, 4, 2, 1}, 1, 96, 4, 4);
  const std::vector<float> want = network.run(sbk::serial());
  // Not CHECK in the threads: the harness belongs to the main one.
  std::vector<int> wrong(4);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; caller++) {
    callers.emplace_back([&network, &want, &wrong, caller] {
      for (int i = 0; i < 5; i++) {
        Threads threads(2);
        wrong[caller] += !same_bits(network.run(caller % 2 ? sbk::serial() : threads.hook()), want);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const int count : wrong) CHECK_EQ(count, 0);
}

}  // namespace

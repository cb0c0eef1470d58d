// The ops of ops/ops.h against the oracle, over random shapes and those of real networks.
#include <cmath>
#include <numeric>
#include <vector>

#include "ops_case.h"
#include "support/check.h"
#include "support/shapes.h"

namespace {

using sbk::Activation;
using sbk::WeightType;
using namespace test;

constexpr Activation kActivations[] = {Activation::none, Activation::gelu, Activation::gelu_tanh, Activation::relu};

Activation any_activation(Random& random) { return kActivations[random.below(4)]; }
WeightType any_type(Random& random) { return random.below(3) == 0 ? WeightType::bfloat16 : WeightType::float32; }
Flush any_end(Random& random) { return kBothEnds[random.below(2)]; }

// One row now and then, often around the 64 rows of a task, sometimes none.
int64_t any_rows(Random& random) {
  const int64_t around[] = {0, 1, 2, 63, 64, 65, 128, 131};
  return random.below(2) ? around[random.below(8)] : random.below(70);
}

void run_conv(const sbk::KernelTable& table, Random& random, int64_t rows, int64_t in, int64_t out, int64_t groups) {
  const Activation activation = any_activation(random);
  const Context where([&] {
    return text("rows=", rows, " in=", in, " out=", out, " groups=", groups,
                " activation=", static_cast<int>(activation));
  });
  const RandomConv conv(table, random, in, out, groups, 0, any_type(random), random.below(4) != 0);
  const Flush flush = any_end(random);
  Matrix x(rows, in, in + random.below(3) * 5, flush), y(rows, out, out + random.below(3) * 7, flush);
  x.fill(random).freeze();
  sbk::grouped_pointwise_conv(table, sbk::serial(), conv.conv(), input(x), rows, activation, output(y));
  check_close(y, conv.expected(Reals(x), activation));
}

TEST(grouped_pointwise_conv) {
  Random random(21);
  for (int i = 0; i < 150; i++) {
    const int64_t groups = 1 + random.below(6), rows = any_rows(random);
    run_conv(table, random, rows, groups * (1 + random.below(30)), groups * (1 + random.below(60)), groups);
  }
  run_conv(table, random, 130, 768, 768, 4);
  run_conv(table, random, 5, 768, 3072, 4);
  run_conv(table, random, 3, 7, 7, 7);  // depthwise
}

void run_conv_layer_norm(const sbk::KernelTable& table, Random& random, int64_t rows, int64_t in, int64_t out,
                         int64_t groups, bool aliased) {
  const Context where(
      [&] { return text("rows=", rows, " in=", in, " out=", out, " groups=", groups, " aliased=", aliased); });
  const RandomConv conv(table, random, in, out, groups, 0, any_type(random), random.below(4) != 0);
  const RandomNorm norm(random, out);
  const Flush flush = any_end(random);
  Matrix x(rows, in, in + 3, flush), residual(rows, out, out + 5, flush), separate(rows, out, out + 1, flush);
  x.fill(random).freeze(), residual.fill(random, 2);
  const Reals added(residual);
  if (!aliased) residual.freeze();
  Matrix& y = aliased ? residual : separate;
  sbk::grouped_pointwise_conv_layer_norm(table, sbk::serial(), conv.conv(), norm.norm(), input(x), input(residual),
                                         rows, output(y));
  check_close(y, norm.expected(conv.expected(Reals(x), Activation::none, &added), table.lanes));
}

TEST(grouped_pointwise_conv_layer_norm) {
  Random random(22);
  for (int i = 0; i < 120; i++) {
    const int64_t groups = 1 + random.below(5), rows = any_rows(random);
    run_conv_layer_norm(table, random, rows, groups * (1 + random.below(30)), groups * (3 + random.below(40)), groups,
                        i % 2);
  }
  run_conv_layer_norm(table, random, 66, 768, 768, 1, true);
  run_conv_layer_norm(table, random, 3, 3072, 768, 4, false);
}

void run_attention(const sbk::KernelTable& table, Random& random, const AttentionShape& s, Broadcast broadcast) {
  const Context where([&] { return s.describe() + text(" mask=", static_cast<int>(broadcast)); });
  const RandomAttention attention(table, random, s, any_type(random));
  const AttentionMaskCase mask(random, broadcast, s.batch, s.heads, s.length);
  const int64_t rows = s.batch * s.length;
  const Flush flush = any_end(random);
  Matrix x(rows, s.in, s.in + 3, flush), context(rows, s.channels, s.channels + random.below(2) * 9, flush);
  x.fill(random).freeze();
  sbk::attention_block(table, sbk::serial(), attention.block(), input(x), Uniform(s.batch, s.length).sequences(),
                       mask.mask, output(context));
  check_close(context, attention.expected(Reals(x), mask));
}

constexpr Broadcast kBroadcasts[] = {Broadcast::none, Broadcast::keys, Broadcast::queries, Broadcast::heads,
                                     Broadcast::batch};

TEST(attention_block) {
  Random random(23);
  for (int i = 0; i < 120; i++) {
    const int64_t heads = 1 + random.below(6), channels = heads * (1 + random.below(20));
    const int64_t in = random.below(2) ? channels : 12 * (1 + random.below(3));
    const auto groups = [&] { return common_divisor(random, in, channels); };
    const AttentionShape s{
        random.below(4), random.below(5) ? random.below(40) : 70, in, channels, heads, groups(), groups(), groups()};
    run_attention(table, random, s, kBroadcasts[i % 5]);
  }
}

// Groups and heads may lie across each other: a block is then a part of a head (ops/packed.h).
TEST(attention_block_with_heads_across_groups) {
  Random random(24);
  for (const Broadcast broadcast : kBroadcasts) {
    for (const auto& [channels, heads, q, k, v] : {std::tuple{24, 4, 6, 3, 2},
                                                   {24, 3, 4, 2, 8},
                                                   {60, 4, 5, 10, 6},
                                                   {60, 5, 4, 12, 60},
                                                   {48, 6, 4, 8, 16},
                                                   {32, 4, 2, 2, 2}}) {
      run_attention(table, random, {2, 9, channels, channels, heads, q, k, v}, broadcast);
    }
  }
}

TEST(attention_block_of_real_networks) {
  Random random(25);
  run_attention(table, random, {1, 40, 768, 768, 12, 4, 4, 4}, Broadcast::keys);     // SqueezeBERT
  run_attention(table, random, {2, 17, 384, 384, 12, 1, 1, 1}, Broadcast::queries);  // MiniLM
  run_attention(table, random, {1, 530, 32, 32, 2, 2, 1, 1}, Broadcast::heads);      // more than one block of keys
}

enum class Alias { none, residual, context };

// The same out of three un-fused ops.
void compose(const sbk::KernelTable& table, const RandomPostAttention& post, const Matrix& context,
             const Matrix& residual, Matrix& y) {
  const PostAttentionShape& s = post.shape;
  Matrix h(s.rows, s.channels, s.channels, Flush::end), hidden(s.rows, s.hidden, s.hidden, Flush::end);
  sbk::grouped_pointwise_conv_layer_norm(table, sbk::serial(), post.post.conv(), post.post_norm.norm(), input(context),
                                         input(residual), s.rows, output(h));
  sbk::grouped_pointwise_conv(table, sbk::serial(), post.up.conv(), input(h), s.rows, s.activation, output(hidden));
  sbk::grouped_pointwise_conv_layer_norm(table, sbk::serial(), post.down.conv(), post.output_norm.norm(), input(hidden),
                                         input(h), s.rows, output(y));
}

// Bounds of errors through three wide layers, each the worst case of the last, say nothing any more (reference.h);
// there the un-fused ops are the oracle, which are compared at that width above. All shapes must agree with those bit
// for bit.
enum class Oracle { float64_and_unfused, unfused };

void run_post_attention(const sbk::KernelTable& table, Random& random, const PostAttentionShape& s, Alias alias,
                        Oracle oracle = Oracle::float64_and_unfused) {
  const Context where([&] { return s.describe() + text(" alias=", static_cast<int>(alias)); });
  const RandomPostAttention post(table, random, s, any_type(random));
  const Flush flush = any_end(random);
  Matrix context(s.rows, s.in, s.in + 3, flush), residual(s.rows, s.channels, s.channels + 2, flush);
  Matrix separate(s.rows, s.channels, s.channels + 4, flush);
  context.fill(random), residual.fill(random, 2);
  Matrix unfused(s.rows, s.channels, s.channels, flush);
  compose(table, post, context, residual, unfused);
  const Reals before_context(context), before_residual(residual);
  if (alias != Alias::context) context.freeze();
  if (alias != Alias::residual) residual.freeze();
  Matrix& y = alias == Alias::none ? separate : alias == Alias::residual ? residual : context;
  sbk::post_attention_block(table, sbk::serial(), post.block(), input(context), input(residual), s.rows, output(y));
  bool equal = true;
  for (int64_t r = 0; r < s.rows; r++) {
    for (int64_t c = 0; c < s.channels; c++) equal = equal && y.at(r, c) == unfused.at(r, c);
  }
  CHECK(equal);
  CHECK(y.gaps_untouched());
  if (oracle == Oracle::unfused) return;
  check_close(y, post.expected(before_context, before_residual, table.lanes));
}

TEST(post_attention_block) {
  Random random(26);
  for (int i = 0; i < 120; i++) {
    // Every other one with groups that line up, which is another path.
    const int64_t up = 1 + random.below(4), channels = up * (4 + random.below(12)),
                  hidden = up * (1 + random.below(40));
    const int64_t in = i % 3 == 2 ? 12 : channels;  // to be aliased with the context they must be equal
    const PostAttentionShape s{any_rows(random),
                               in,
                               channels,
                               hidden,
                               common_divisor(random, in, channels),
                               up,
                               i % 2 ? up : common_divisor(random, hidden, channels),
                               any_activation(random)};
    run_post_attention(table, random, s, i % 3 == 0 ? Alias::context : i % 3 == 1 ? Alias::residual : Alias::none);
  }
}

TEST(post_attention_block_of_real_networks) {
  Random random(27);
  const PostAttentionShape squeezebert{67, 768, 768, 3072, 1, 4, 4, Activation::gelu};
  const PostAttentionShape minilm{67, 384, 384, 1536, 1, 1, 1, Activation::gelu};
  for (const Alias alias : {Alias::none, Alias::residual, Alias::context}) {
    run_post_attention(table, random, squeezebert, alias, Oracle::unfused);
    run_post_attention(table, random, minilm, alias, Oracle::unfused);
  }
  // The smallest configuration of transformers' own tests: unequal groups.
  run_post_attention(table, random, {70, 32, 32, 64, 2, 4, 1, Activation::gelu}, Alias::residual);
  run_attention(table, random, {3, 7, 32, 32, 4, 2, 2, 2}, Broadcast::keys);
}

// One NaN in x: its row in conv and post-attention, its sequence in attention; nothing else, whatever the tasks.
TEST(nan_stays_in_its_row_and_sequence) {
  Random random(28);
  const int64_t rows = 70, channels = 24;
  const RandomPostAttention post(table, random, {rows, channels, channels, 48, 2, 4, 4, Activation::gelu});
  const RandomAttention attention(table, random, {7, 10, channels, channels, 4, 2, 1, 4});
  const AttentionMaskCase mask(random, Broadcast::keys, 7, 4, 10);
  for (const int64_t bad : {0, 9, 10, 63, 64, 69}) {
    Matrix x(rows, channels, channels, Flush::end), residual(rows, channels, channels, Flush::end);
    Matrix y(rows, channels, channels, Flush::end), context(rows, channels, channels, Flush::end);
    x.fill(random), residual.fill(random);
    x.at(bad, bad % channels) = std::numeric_limits<float>::quiet_NaN();
    sbk::post_attention_block(table, sbk::serial(), post.block(), input(x), input(residual), rows, output(y));
    sbk::attention_block(table, sbk::serial(), attention.block(), input(x), Uniform(7, 10).sequences(), mask.mask,
                         output(context));
    for (int64_t r = 0; r < rows; r++) {
      bool others_finite = true, row_nan = true;
      for (int64_t c = 0; c < channels; c++) {
        row_nan = row_nan && std::isnan(y.at(r, c));
        if (r != bad) others_finite = others_finite && std::isfinite(y.at(r, c));
        if (r / 10 != bad / 10) others_finite = others_finite && std::isfinite(context.at(r, c));
      }
      CHECK(others_finite);
      CHECK_EQ(row_nan, r == bad);
    }
    CHECK(std::isnan(context.at(bad, 0)) || std::isnan(context.at(bad, channels - 1)));
  }
}

}  // namespace

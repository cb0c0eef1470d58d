// The C interface at work: scratch memory of exactly the promised size, pools of the caller's, calls at the same time;
// and the single ops beside the reference. For ThreadSanitizer too.
#include <algorithm>
#include <atomic>
#include <thread>

#include "capi_case.h"
#include "include/squeezebert_kernels.h"
#include "support/reference.h"

using namespace test;

namespace {

// A pool of `real` threads, whatever a context was told.
struct Pool {
  int real;
  std::atomic<int> runs{0};

  static void run(void* self, int64_t n, sbk_task task, void* arg) {
    Pool& pool = *static_cast<Pool*>(self);
    pool.runs++;
    std::atomic<int64_t> next{0};
    std::vector<std::thread> threads;
    const auto work = [&] {
      for (int64_t i; (i = next++) < n;) task(arg, i, i + 1);
    };
    for (int t = 1; t < pool.real; t++) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
  }
};

ContextHandle context_with(int32_t threads, sbk_parallel_for hook, void* pool, void* workspace = nullptr,
                           std::size_t bytes = 0) {
  ContextHandle context;
  sbk_context_options options{};
  options.size = sizeof options, options.threads = threads, options.parallel_for = hook, options.pool = pool;
  options.workspace = workspace, options.workspace_bytes = bytes;
  expect(sbk_context_create(&options, context.out()), SBK_OK);
  return context;
}

std::size_t workspace_bytes(const sbk_model* model, int32_t batch, int32_t length, int32_t threads) {
  std::size_t bytes = 0;
  expect(sbk_workspace_bytes(model, batch, length, threads, &bytes), SBK_OK);
  return bytes;
}

constexpr sbk_dtype kDtypes[] = {SBK_FLOAT32, SBK_BFLOAT16, SBK_INT8, SBK_FLOAT16};
constexpr Padding kPaddings[] = {Padding::none, Padding::lengths, Padding::mask, Padding::holes};
constexpr const char* kArchitectures[] = {"SqueezeBertModel", "SqueezeBertForMaskedLM",
                                          "SqueezeBertForSequenceClassification", "SqueezeBertForTokenClassification"};

}  // namespace

TEST(the_tier_is_chosen) { choose_tier(table); }

TEST(the_promised_workspace_suffices) {
  Random random(11);
  for (const char* architecture : kArchitectures) {
    TinyModel tiny;
    tiny.architecture = architecture, tiny.positions = 40, tiny.layers = 1;
    Folder folder{tiny};
    for (const sbk_dtype dtype : kDtypes) {
      const ModelHandle model = load(folder.path(), dtype);
      const sbk_model_info info = info_of(model);
      for (int i = 0; i < 24; i++) {
        const auto threads = static_cast<int32_t>(1 + random.below(5));
        const auto batch = static_cast<int32_t>(1 + random.below(i % 8 == 0 ? 24 : 5));
        const auto length = static_cast<int32_t>(1 + random.below(40));
        const Padding padding = kPaddings[random.below(4)];
        const Context where([&] {
          return text(architecture, " dtype=", dtype, " threads=", threads, " batch=", batch, " length=", length,
                      " padding=", static_cast<int>(padding));
        });
        Batch in(random, info, batch, length, padding);
        if (has_token_logits(info.head) && random.below(2) == 0) {
          for (int64_t k = random.below(int64_t{batch} * length + 1); k > 0; k--) {
            in.logit_tokens.push_back(static_cast<int32_t>(random.below(int64_t{batch} * length)));
          }
        }
        const std::size_t bytes = workspace_bytes(model, batch, length, threads);
        // At any address: the promise has room for alignment.
        const auto shift = static_cast<std::size_t>(random.below(64));
        const std::vector<char> memory(bytes + shift);
        const ContextHandle context =
            context_with(threads, nullptr, nullptr, const_cast<char*>(memory.data()) + shift, bytes);
        const ContextHandle plain = make_context(1 + static_cast<int32_t>(random.below(3)));
        CHECK(run(model, context, in) == run(model, plain, in));
      }
    }
  }
}

TEST(too_small_a_workspace_is_refused_before_anything_is_written) {
  Folder folder{TinyModel{}};
  const ModelHandle model = load(folder.path());
  const sbk_model_info info = info_of(model);
  Random random(12);
  for (const int32_t threads : {1, 3}) {
    Batch batch(random, info, 3, 16, Padding::none);  // what takes most: long, with a hole
    batch.mask.assign(3 * 16, 1), batch.mask[20] = 0;
    const std::size_t promised = workspace_bytes(model, 3, 16, threads);
    std::vector<char> memory(promised + 64);
    char* aligned = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    const auto status = [&](std::size_t bytes) {
      const ContextHandle context = context_with(threads, nullptr, nullptr, aligned, bytes);
      Outputs outputs(info, batch);
      const sbk_input in = batch.input();
      const sbk_output out = outputs.output();
      const sbk_status got = sbk_run(model, context, &in, &out);
      CHECK(got == SBK_OK ? outputs.finite() : outputs.untouched());
      return got;
    };
    // Somewhere below the promise is the least that suffices: there it changes, once and for all.
    std::size_t low = 0, high = promised;
    CHECK_EQ(status(high), SBK_OK);
    while (high - low > 1) {
      const std::size_t middle = low + (high - low) / 2;
      const sbk_status got = status(middle);
      CHECK(got == SBK_OK || got == SBK_OUT_OF_MEMORY);
      (got == SBK_OK ? high : low) = middle;
    }
    CHECK_EQ(status(high), SBK_OK);
    CHECK_EQ(status(high - 1), SBK_OUT_OF_MEMORY);
    expect(status(0), SBK_OUT_OF_MEMORY, "too small");
    // Nothing but room for alignment is promised in vain.
    CHECK(promised - high <= 64);
  }
}

TEST(pools_of_the_caller) {
  Folder folder{TinyModel{}};
  for (const sbk_dtype dtype : kDtypes) {
    const ModelHandle model = load(folder.path(), dtype);
    Random random(13);
    const Batch batch(random, info_of(model), 4, 16, Padding::lengths);
    const Outputs want = run(model, make_context(1), batch);
    // As wide as it says, narrower, and wider.
    for (const int real : {3, 1, 8}) {
      const Context where([&] { return text("dtype=", dtype, " real threads=", real); });
      Pool pool{real};
      std::vector<char> memory(workspace_bytes(model, 4, 16, 3));
      const ContextHandle context = context_with(3, Pool::run, &pool, memory.data(), memory.size());
      CHECK_EQ(sbk_context_threads(context), 3);
      for (int i = 0; i < 5; i++) CHECK(run(model, context, batch) == want);
      CHECK(pool.runs > 0);
    }
  }
}

TEST(a_context_in_use_is_busy) {
  Folder folder{TinyModel{}};
  const ModelHandle model = load(folder.path());
  Random random(14);
  struct Intruder {
    const sbk_model* model;
    sbk_context* context;
    const Batch* batch;
    sbk_status seen = SBK_OK;

    // While a run is in progress, another thread begins one in the same context.
    static void run(void* self, int64_t n, sbk_task task, void* arg) {
      auto& me = *static_cast<Intruder*>(self);
      std::thread([&] {
        Outputs outputs(info_of(me.model), *me.batch);
        const sbk_input in = me.batch->input();
        const sbk_output out = outputs.output();
        me.seen = sbk_run(me.model, me.context, &in, &out);
        CHECK(outputs.untouched());
        CHECK(std::string(sbk_last_error()).find("in use by another thread") != std::string::npos);
      }).join();
      task(arg, 0, n);
    }
  };
  const Batch batch(random, info_of(model), 2, 8, Padding::none);
  Intruder intruder{model, nullptr, &batch};
  const ContextHandle context = context_with(2, Intruder::run, &intruder);
  intruder.context = context;
  const Outputs got = run(model, context, batch);
  CHECK_EQ(intruder.seen, SBK_BUSY);
  CHECK(got == run(model, make_context(1), batch));
  CHECK(got == run(model, context, batch));  // and is free again
}

TEST(one_model_serves_threads_at_once) {
  Folder folder{TinyModel{}};
  for (const sbk_dtype dtype : {SBK_FLOAT32, SBK_INT8}) {
    const ModelHandle model = load(folder.path(), dtype);
    std::vector<Batch> batches;
    std::vector<Outputs> want;
    Random random(15);
    for (int i = 0; i < 4; i++) {
      batches.emplace_back(random, info_of(model), 1 + i, 5 + 3 * i, kPaddings[i]);
      want.push_back(run(model, make_context(1), batches.back()));
    }
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) {
      threads.emplace_back([&, t] {
        sbk_context_options options{};
        options.size = sizeof options, options.threads = 1 + t % 2;
        ContextHandle context;
        if (sbk_context_create(&options, context.out()) != SBK_OK) return void(wrong++);
        for (int i = 0; i < 20; i++) {
          const std::size_t which = static_cast<std::size_t>(t + i) % 4;
          sbk_model_info info{};
          info.size = sizeof info;
          sbk_model_get_info(model, &info);
          Outputs outputs(info, batches[which]);
          const sbk_input in = batches[which].input();
          const sbk_output out = outputs.output();
          if (sbk_run(model, context, &in, &out) != SBK_OK || !(outputs == want[which])) wrong++;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(wrong.load(), 0);
  }
}

TEST(threads_and_padding_do_not_change_bits) {
  TinyModel tiny;
  tiny.positions = 64, tiny.hidden = 96, tiny.heads = 4, tiny.intermediate = 192;
  Folder folder{tiny};
  for (const sbk_dtype dtype : kDtypes) {
    const ModelHandle model = load(folder.path(), dtype);
    Random random(16);
    for (const int32_t length : {1, 7, 64}) {
      const Batch batch(random, info_of(model), 3, length, Padding::lengths);
      Batch masked = batch;
      masked.lengths.clear();
      for (int32_t b = 0; b < 3; b++) {
        for (int32_t i = 0; i < length; i++) masked.mask.push_back(i < batch.lengths[static_cast<std::size_t>(b)]);
      }
      const Outputs want = run(model, make_context(1), batch);
      for (const int32_t threads : {2, 4, 7}) CHECK(run(model, make_context(threads), batch) == want);
      CHECK(run(model, make_context(2), masked) == want);
    }
  }
}

// --- single ops -----------------------------------------------------------------------------------------------------

namespace {

// A convolution with random weights, as the interface takes it and as the reference does.
struct OpConv {
  std::vector<float> w, bias;
  int64_t n, k, groups;
  WeightHandle packed;

  OpConv(Random& random, int32_t in, int32_t out, int32_t g, int32_t heads, sbk_dtype dtype = SBK_FLOAT32)
      : w(static_cast<std::size_t>(out) * in / g), bias(static_cast<std::size_t>(out)), n(out), k(in / g), groups(g) {
    for (float& v : w) v = random.uniform() * 1.7f / std::sqrt(static_cast<float>(k));
    for (float& v : bias) v = random.uniform() * 0.5f;
    expect(sbk_weight_create(w.data(), out, in, g, heads, dtype, packed.out()), SBK_OK);
  }
  sbk_conv conv() const { return {packed, bias.data()}; }
  Reals expected(const Reals& x, sbk::Activation activation = sbk::Activation::none,
                 const Reals* residual = nullptr) const {
    return ConvReference{w.data(), n, k, groups, bias.data(), activation}(x, residual);
  }
};

struct OpNorm {
  std::vector<float> gamma, beta;

  OpNorm(Random& random, std::size_t n) : gamma(n), beta(n) {
    for (float& v : gamma) v = 1 + 0.3f * random.uniform();
    for (float& v : beta) v = random.uniform();
  }
  sbk_norm norm() const { return {gamma.data(), beta.data(), 1e-12f}; }
  Reals expected(const Reals& x, int64_t lanes) const { return layer_norm(x, gamma.data(), beta.data(), 1e-12, lanes); }
};

struct Values : Matrix {
  Values(Random& random, int64_t rows, int64_t columns) : Matrix(rows, columns, columns, Flush::end) { fill(random); }
};

}  // namespace

TEST(convolutions_beside_the_reference) {
  Random random(17);
  const ContextHandle context = make_context(3);
  for (const int64_t tokens : {1, 5, 67}) {
    for (const int32_t groups : {1, 2, 6}) {
      const OpConv conv(random, 36, 48, groups, 0);
      const OpNorm norm(random, 48);
      const sbk_conv c = conv.conv();
      const sbk_norm n = norm.norm();
      Values x(random, tokens, 36), residual(random, tokens, 48);
      Matrix y(tokens, 48, 48, Flush::end);
      x.freeze();
      for (const sbk_activation a :
           {SBK_ACTIVATION_NONE, SBK_ACTIVATION_GELU, SBK_ACTIVATION_GELU_TANH, SBK_ACTIVATION_RELU}) {
        expect(sbk_grouped_pointwise_conv(context, &c, a, x.data(), tokens, y.data()), SBK_OK);
        check_close(y, conv.expected(Reals(x), static_cast<sbk::Activation>(a)));
      }
      const Reals rows(residual);
      const Reals want =
          norm.expected(conv.expected(Reals(x), sbk::Activation::none, &rows), table.layout.float32.lanes);
      // y may be the residual.
      expect(sbk_grouped_pointwise_conv_layer_norm(context, &c, &n, x.data(), residual.data(), tokens, residual.data()),
             SBK_OK);
      check_close(residual, want);
    }
  }
}

TEST(attention_blocks_beside_the_reference) {
  Random random(18);
  const ContextHandle context = make_context(3);
  constexpr int32_t kChannels = 48, kHeads = 4, kHead = kChannels / kHeads;
  const OpConv q(random, 36, kChannels, 2, kHeads), k(random, 36, kChannels, 1, kHeads),
      v(random, 36, kChannels, 6, kHeads);
  for (const int32_t length : {1, 13, 70}) {
    const Values x(random, 2 * length, 36);
    Matrix y(2 * length, kChannels, kChannels, Flush::end);
    std::vector<float> mask(static_cast<std::size_t>(2 * length));
    for (float& m : mask) m = random.uniform();
    sbk_attention attention{};
    attention.size = sizeof attention, attention.query = q.conv(), attention.key = k.conv(), attention.value = v.conv();
    attention.num_heads = kHeads, attention.batch = 2, attention.length = length, attention.mask = mask.data();
    expect(sbk_attention_block(context, &attention, x.data(), y.data()), SBK_OK);
    const Reals in(x), queries = q.expected(in), keys = k.expected(in), vs = v.expected(in);
    Reals want(2 * length, kChannels);
    for (int64_t b = 0; b < 2; b++) {
      for (int64_t h = 0; h < kHeads; h++) {
        const auto head = [&](const Reals& m) { return m.part(b * length, length, h * kHead, kHead); };
        const auto add = [&](int64_t, int64_t j) { return double{mask[static_cast<std::size_t>(b * length + j)]}; };
        want.put(b * length, h * kHead,
                 test::attention(head(queries), head(keys), head(vs), 1 / std::sqrt(double{kHead}), add));
      }
    }
    check_close(y, want);
  }
}

TEST(post_attention_blocks_beside_the_reference) {
  Random random(19);
  const ContextHandle context = make_context(3);
  const OpConv post(random, 24, 48, 1, 0), up(random, 48, 96, 4, 0), down(random, 96, 48, 2, 0);
  const OpNorm first(random, 48), second(random, 48);
  for (const int64_t tokens : {1, 9, 100}) {
    const Values x(random, tokens, 24), residual(random, tokens, 48);
    Matrix y(tokens, 48, 48, Flush::end);
    sbk_post_attention block{};
    block.size = sizeof block, block.post = post.conv(), block.intermediate = up.conv(), block.output = down.conv();
    block.post_norm = first.norm(), block.output_norm = second.norm(), block.activation = SBK_ACTIVATION_GELU;
    expect(sbk_post_attention_block(context, &block, x.data(), residual.data(), tokens, y.data()), SBK_OK);
    const int64_t lanes = table.layout.float32.lanes;
    const Reals rows(residual), h = first.expected(post.expected(Reals(x), sbk::Activation::none, &rows), lanes);
    check_close(
        y, second.expected(down.expected(up.expected(h, sbk::Activation::gelu), sbk::Activation::none, &h), lanes));
  }
}

TEST(ops_refuse) {
  Random random(20);
  const ContextHandle context = make_context(2);
  const OpConv conv(random, 24, 24, 2, 0), wide(random, 24, 48, 2, 0), head(random, 24, 24, 2, 2),
      int8_head(random, 24, 24, 2, 2, SBK_INT8), wide_head(random, 24, 48, 2, 2);
  const OpNorm norm(random, 24);
  const std::vector<float> x(240, 1.0f);
  std::vector<float> y(480);
  const sbk_conv c = conv.conv(), none{nullptr, nullptr}, h = head.conv();
  WeightHandle made;
  const auto create = [&](int32_t out, int32_t in, int32_t groups, int32_t heads, int dtype) {
    return sbk_weight_create(x.data(), out, in, groups, heads, static_cast<sbk_dtype>(dtype), made.out());
  };
  expect(create(0, 4, 1, 0, 1), SBK_INVALID_ARGUMENT, "out_channels=0");
  expect(create(4, -4, 1, 0, 1), SBK_INVALID_ARGUMENT, "in_channels=-4");
  expect(create(4, 4, 0, 0, 1), SBK_INVALID_ARGUMENT, "groups=0");
  expect(create(4, 4, 3, 0, 1), SBK_INVALID_ARGUMENT, "groups=3 does not divide");
  expect(create(4, 4, 1, 3, 1), SBK_INVALID_ARGUMENT, "num_heads=3 does not divide");
  expect(create(4, 4, 1, 0, 9), SBK_INVALID_ARGUMENT, "dtype=9");
  expect(sbk_weight_create(nullptr, 4, 4, 1, 0, SBK_FLOAT32, made.out()), SBK_INVALID_ARGUMENT, "weight is NULL");
  expect(sbk_weight_create(x.data(), 4, 4, 1, 0, SBK_FLOAT32, nullptr), SBK_INVALID_ARGUMENT, "packed is NULL");
  CHECK(made == nullptr);

  const auto plain = [&](const sbk_conv* w, int activation, const float* in, int64_t tokens, float* out) {
    return sbk_grouped_pointwise_conv(context, w, static_cast<sbk_activation>(activation), in, tokens, out);
  };
  expect(plain(nullptr, 0, x.data(), 1, y.data()), SBK_INVALID_ARGUMENT, "conv is NULL");
  expect(plain(&none, 0, x.data(), 1, y.data()), SBK_INVALID_ARGUMENT, "conv.weight is NULL");
  expect(plain(&h, 0, x.data(), 1, y.data()), SBK_INVALID_ARGUMENT, "num_heads=2");
  expect(plain(&c, 4, x.data(), 1, y.data()), SBK_INVALID_ARGUMENT, "activation=4");
  expect(plain(&c, 0, x.data(), -1, y.data()), SBK_INVALID_ARGUMENT, "tokens=-1");
  expect(plain(&c, 0, x.data(), int64_t{1} << 47, y.data()), SBK_INVALID_ARGUMENT,
         "tokens=140737488355328 is not from");
  expect(plain(&c, 0, nullptr, 1, y.data()), SBK_INVALID_ARGUMENT, "x is NULL");
  expect(plain(&c, 0, x.data(), 1, nullptr), SBK_INVALID_ARGUMENT, "y is NULL");
  expect(plain(&c, 0, nullptr, 0, nullptr), SBK_OK);
  expect(sbk_grouped_pointwise_conv(nullptr, &c, SBK_ACTIVATION_NONE, x.data(), 1, y.data()), SBK_INVALID_ARGUMENT,
         "context is NULL");
  sbk_norm bad = norm.norm();
  bad.eps = NAN;
  expect(sbk_grouped_pointwise_conv_layer_norm(context, &c, &bad, x.data(), x.data(), 1, y.data()),
         SBK_INVALID_ARGUMENT, "eps");
  bad.eps = INFINITY;
  expect(sbk_grouped_pointwise_conv_layer_norm(context, &c, &bad, x.data(), x.data(), 1, y.data()),
         SBK_INVALID_ARGUMENT, "eps=inf");

  sbk_attention good{};
  good.size = sizeof good, good.query = good.key = good.value = h, good.num_heads = 2, good.batch = 1, good.length = 3;
  const auto attend = [&](const auto& spoil) {
    sbk_attention a = good;
    spoil(a);
    return sbk_attention_block(context, &a, x.data(), y.data());
  };
  expect(attend([](auto&) {}), SBK_OK);
  expect(attend([](auto& a) { a.num_heads = 4; }), SBK_INVALID_ARGUMENT, "num_heads=2, not 4");
  expect(attend([](auto& a) { a.batch = -1; }), SBK_INVALID_ARGUMENT, "attention->batch=-1");
  expect(attend([&](auto& a) { a.key = c; }), SBK_INVALID_ARGUMENT, "attention->key");
  expect(attend([&](auto& a) { a.value = wide_head.conv(); }), SBK_INVALID_ARGUMENT, "48 channels");
  expect(attend([&](auto& a) { a.key = int8_head.conv(); }), SBK_INVALID_ARGUMENT, "dtype");
  expect(attend([](auto& a) { a.size = 8; }), SBK_INVALID_ARGUMENT, "num_heads=0");

  sbk_post_attention post{};
  post.size = sizeof post, post.post = post.output = c, post.intermediate = c;
  post.post_norm = post.output_norm = norm.norm();
  const auto after = [&](const auto& spoil) {
    sbk_post_attention p = post;
    spoil(p);
    return sbk_post_attention_block(context, &p, x.data(), x.data(), 3, y.data());
  };
  expect(after([](auto&) {}), SBK_OK);
  expect(after([&](auto& p) { p.intermediate = wide.conv(); }), SBK_INVALID_ARGUMENT, "input of block->output");
  expect(after([](auto& p) { p.output_norm.bias = nullptr; }), SBK_INVALID_ARGUMENT, "block->output_norm");
  expect(after([](auto& p) { p.activation = static_cast<sbk_activation>(7); }), SBK_INVALID_ARGUMENT,
         "block->activation");
}

TEST(dtypes_may_differ_between_convolutions) {
  Random random(21);
  const ContextHandle context = make_context(2);
  constexpr int64_t kTokens = 33;
  const Values x(random, kTokens, 48);
  Matrix y(kTokens, 48, 48, Flush::end);
  const OpNorm norm(random, 48);
  for (const sbk_dtype first : kDtypes) {
    for (const sbk_dtype second : kDtypes) {
      for (const sbk_dtype third : kDtypes) {
        const Context where([&] { return text("dtypes ", first, ",", second, ",", third); });
        const OpConv post(random, 48, 48, 1, 0, first), up(random, 48, 96, 4, 0, second),
            down(random, 96, 48, 4, 0, third);
        sbk_post_attention block{};
        block.size = sizeof block, block.post = post.conv(), block.intermediate = up.conv(), block.output = down.conv();
        block.post_norm = block.output_norm = norm.norm(), block.activation = SBK_ACTIVATION_GELU;
        expect(sbk_post_attention_block(context, &block, x.data(), x.data(), kTokens, y.data()), SBK_OK);
        const int64_t lanes = table.layout.float32.lanes;
        const Reals rows(x), h = norm.expected(post.expected(rows, sbk::Activation::none, &rows), lanes);
        const Reals want =
            norm.expected(down.expected(up.expected(h, sbk::Activation::gelu), sbk::Activation::none, &h), lanes);
        double most = 0;
        for (int64_t r = 0; r < kTokens; r++) {
          for (int64_t i = 0; i < 48; i++) most = std::max(most, std::fabs(y.at(r, i) - want.at(r, i).value));
        }
        CHECK(most < 0.1);  // int8 and bfloat16 round to some 2^-8 of sums that are of order 1, three times
      }
    }
  }
}

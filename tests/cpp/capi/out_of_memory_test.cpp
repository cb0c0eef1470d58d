// Every allocation of a call fails once, one after the other: the call says SBK_OUT_OF_MEMORY, leaks nothing, damages
// no file, and works afterwards.
#include <atomic>
#include <cstdlib>
#include <new>

#include "capi_case.h"
#include "sbk_file.h"

namespace {

std::atomic<int64_t> left{-1};  // allocations until one fails; negative: none does
std::atomic<int64_t> alive{0};  // memory that was taken and not given back
std::atomic<bool> failed{false};

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (left.load() >= 0 && left.fetch_sub(1) == 0) {
    failed = true;
    throw std::bad_alloc();
  }
  void* memory = nullptr;
  if (posix_memalign(&memory, std::max(alignment, sizeof(void*)), std::max<std::size_t>(bytes, 1)) != 0) {
    throw std::bad_alloc();
  }
  alive++;
  return memory;
}

void release(void* memory) noexcept {
  if (memory != nullptr) alive--;
  std::free(memory);
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t a) { return allocate(bytes, static_cast<std::size_t>(a)); }
void* operator new[](std::size_t bytes, std::align_val_t a) { return allocate(bytes, static_cast<std::size_t>(a)); }
void operator delete(void* p) noexcept { release(p); }
void operator delete[](void* p) noexcept { release(p); }
void operator delete(void* p, std::size_t) noexcept { release(p); }
void operator delete[](void* p, std::size_t) noexcept { release(p); }
void operator delete(void* p, std::align_val_t) noexcept { release(p); }
void operator delete[](void* p, std::align_val_t) noexcept { release(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { release(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { release(p); }

using namespace test;

namespace {

// call() with every allocation failing once; undo() gives back what a call made that went well. Returns how many
// allocations there are.
template <class Call, class Undo>
int64_t sweep(const char* what, const Call& call, const Undo& undo) {
  const auto attempt = [&](int64_t fail_at) {
    failed = false, left = fail_at;
    const sbk_status status = call();
    left = -1;
    return status;
  };
  // Once without: what is made at the first use and kept is no leak.
  expect(attempt(-1), SBK_OK);
  undo();
  for (int64_t n = 0;; n++) {
    const Context where([&] { return text(what, ", allocation ", n); });
    const int64_t before = alive;
    const sbk_status status = attempt(n);
    if (!failed) {
      expect(status, SBK_OK);
      undo();
      CHECK_EQ(alive.load(), before);
      return n;
    }
    // What can be done without memory may go well all the same.
    if (status != SBK_OK) expect(status, SBK_OUT_OF_MEMORY, "out of memory");
    if (status == SBK_OK) undo();
    CHECK_EQ(alive.load(), before);
  }
}

}  // namespace

TEST(the_tier_is_chosen) { choose_tier(table); }

TEST(loading) {
  TinyModel tiny;
  tiny.layers = 1;
  Folder folder{tiny, true};
  const std::string file = folder.file("model.sbk"), foreign = folder.file("foreign.sbk");
  sbk_load_options options{};
  options.size = sizeof options, options.verify = 1;
  for (const sbk_dtype dtype : {SBK_FLOAT32, SBK_INT8}) {
    expect(sbk_model_save(load(folder.path(), dtype), file.c_str()), SBK_OK);
    expect(sbk_model_save(load(folder.path(), dtype, SBK_HEAD_DEFAULT, "scalar"), foreign.c_str()), SBK_OK);
    for (const std::string& path : {folder.path(), file, foreign}) {
      sbk_model* model = nullptr;
      options.dtype = dtype;
      const int64_t allocations = sweep(
          path.c_str(), [&] { return sbk_model_load(path.c_str(), &options, &model); },
          [&] { sbk_model_free(std::exchange(model, nullptr)); });
      CHECK(allocations > 10);
      CHECK(model == nullptr);
    }
  }
}

TEST(running) {
  TinyModel tiny;
  tiny.architecture = "SqueezeBertForMaskedLM", tiny.layers = 1;
  Folder folder{tiny, true};
  for (const sbk_dtype dtype : {SBK_FLOAT32, SBK_BFLOAT16, SBK_INT8, SBK_FLOAT16}) {
    const ModelHandle model = load(folder.path(), dtype);
    Random random(8);
    const Batch batch(random, info_of(model), 3, 9, Padding::holes);
    sbk_context_options options{};
    options.size = sizeof options, options.threads = 2, options.pin = 1;
    sbk_context* context = nullptr;
    sweep(
        "sbk_context_create", [&] { return sbk_context_create(&options, &context); },
        [&] { sbk_context_free(std::exchange(context, nullptr)); });
    const Outputs want = run(model, make_context(2), batch);
    Outputs got(info_of(model), batch);
    const sbk_input in = batch.input();
    const sbk_output out = got.output();
    // A new context for each attempt, because its memory grows once.
    ContextHandle fresh = make_context(2);
    const int64_t allocations = sweep(
        "sbk_run", [&] { return sbk_run(model, fresh, &in, &out); },
        [&] {
          CHECK(got == want);
          fresh = make_context(2);
        });
    CHECK(allocations > 0);
    CHECK(run(model, fresh, batch) == want);  // one that has failed works too
  }
}

TEST(text) {
  Folder folder{TinyModel{}, true};
  const ModelHandle model = load(folder.path());
  sbk_text words{};
  words.size = sizeof words, words.text = "abc [MASK] ab a", words.text_bytes = 15, words.pair = "a",
  words.pair_bytes = 1;
  int32_t ids[16], count = 0;
  sbk_tokens tokens{};
  tokens.size = sizeof tokens, tokens.capacity = 16, tokens.token_ids = ids;
  CHECK(sweep("sbk_tokenize", [&] { return sbk_tokenize(model, &words, &tokens, &count); }, [] {}) > 0);
  char decoded[64];
  std::size_t bytes = 0;
  sweep("sbk_decode", [&] { return sbk_decode(model, ids, count, decoded, sizeof decoded, &bytes); }, [] {});
}

TEST(saving) {
  TinyModel tiny;
  tiny.layers = 1;
  Folder folder{tiny, true};
  const ModelHandle model = load(folder.path());
  const std::string file = folder.file("model.sbk");
  expect(sbk_model_save(model, file.c_str()), SBK_OK);
  const std::string whole = read_file(file);
  // An old file is there at some attempts, none at others. What is left is the old one, the new one, or nothing.
  for (const bool exists : {true, false}) {
    const std::string old = "an old file";
    const auto reset = [&] {
      unlink(file.c_str());
      if (exists) write_file(file, old);
    };
    reset();
    const int64_t allocations = sweep(
        "sbk_model_save",
        [&] {
          const sbk_status status = sbk_model_save(model, file.c_str());
          const int64_t later = left.exchange(-1);
          if (status == SBK_OK) CHECK(read_file(file) == whole);
          if (status != SBK_OK && exists) CHECK(read_file(file) == old);
          if (status != SBK_OK && !exists) CHECK(access(file.c_str(), F_OK) != 0);
          left = later;
          return status;
        },
        reset);
    CHECK(allocations > 3);
  }
  unlink(file.c_str());
  // The folder's destructor removes what it knows of. Nothing else may be in it: no unfinished file.
  const std::string other = folder.path();
  CHECK(unlink((other + "/config.json").c_str()) == 0 && unlink((other + "/model.safetensors").c_str()) == 0);
  CHECK(unlink((other + "/tokenizer.sbk").c_str()) == 0);
  CHECK(rmdir(other.c_str()) == 0);
}

TEST(single_ops) {
  const std::vector<float> weight(64, 0.5f), x(3 * 8, 1.0f);
  std::vector<float> y(3 * 8);
  sbk_weight* packed = nullptr;
  for (const sbk_dtype dtype : {SBK_FLOAT32, SBK_INT8}) {
    sweep(
        "sbk_weight_create", [&] { return sbk_weight_create(weight.data(), 8, 8, 1, 0, dtype, &packed); },
        [&] { sbk_weight_free(std::exchange(packed, nullptr)); });
    expect(sbk_weight_create(weight.data(), 8, 8, 1, 0, dtype, &packed), SBK_OK);
    const sbk_conv conv{packed, nullptr};
    ContextHandle context = make_context(2);
    sweep(
        "sbk_grouped_pointwise_conv",
        [&] { return sbk_grouped_pointwise_conv(context, &conv, SBK_ACTIVATION_GELU, x.data(), 3, y.data()); },
        [&] { context = make_context(2); });
    sbk_weight_free(std::exchange(packed, nullptr));
  }
}

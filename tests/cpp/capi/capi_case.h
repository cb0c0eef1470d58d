// What the tests of the C interface share: handles that free themselves, statuses with messages, a batch and its
// outputs.
#pragma once
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "include/squeezebert_kernels.h"
#include "support/check.h"
#include "support/random.h"
#include "tiny_model.h"

namespace test {

// The kernels of `table` for the whole program: SBK_ISA is read once, at the first use.
inline void choose_tier(const sbk::KernelTable& table) {
  setenv("SBK_ISA", table.isa, 1);
  CHECK_EQ(std::string(sbk_active_isa() != nullptr ? sbk_active_isa() : ""), table.isa);
}

// The status, and on failure a message that has `words` in it.
inline void expect(sbk_status got, sbk_status want, const std::string& words = "") {
  const std::string message = sbk_last_error();
  check(got == want && (want == SBK_OK || (!message.empty() && message.find(words) != std::string::npos)), __FILE__,
        __LINE__, [&] {
          return text("status ", sbk_status_name(got), ", should be ", sbk_status_name(want), " with '", words,
                      "'; message: ", message);
        });
}

template <class T, void (*release)(T*)>
class Handle {
 public:
  Handle() = default;
  ~Handle() { release(handle_); }
  Handle(Handle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept { return std::swap(handle_, other.handle_), *this; }
  operator T*() const { return handle_; }
  // Empty again.
  T** out() {
    release(std::exchange(handle_, nullptr));
    return &handle_;
  }

 private:
  T* handle_ = nullptr;
};
using ModelHandle = Handle<sbk_model, sbk_model_free>;
using ContextHandle = Handle<sbk_context, sbk_context_free>;
using WeightHandle = Handle<sbk_weight, sbk_weight_free>;

inline ModelHandle load(const std::string& path, sbk_dtype dtype = SBK_DTYPE_DEFAULT, sbk_head head = SBK_HEAD_DEFAULT,
                        const char* isa = nullptr) {
  ModelHandle model;
  sbk_load_options options{};
  options.size = sizeof options, options.dtype = dtype, options.head = head, options.isa = isa, options.verify = 1;
  expect(sbk_model_load(path.c_str(), &options, model.out()), SBK_OK);
  return model;
}

inline ContextHandle make_context(int32_t threads) {
  ContextHandle context;
  sbk_context_options options{};
  options.size = sizeof options, options.threads = threads;
  expect(sbk_context_create(&options, context.out()), SBK_OK);
  return context;
}

inline sbk_model_info info_of(const sbk_model* model) {
  sbk_model_info info{};
  info.size = sizeof info;
  expect(sbk_model_get_info(model, &info), SBK_OK);
  return info;
}

inline bool has_token_logits(sbk_head head) {
  return head == SBK_HEAD_MASKED_LM || head == SBK_HEAD_TOKEN_CLASSIFICATION || head == SBK_HEAD_QUESTION_ANSWERING;
}

enum class Padding { none, lengths, mask, holes };

// A random batch for a model.
struct Batch {
  int32_t batch, length;
  std::vector<int32_t> ids, types, lengths, mask, logit_tokens;

  Batch(Random& random, const sbk_model_info& info, int32_t batch_size, int32_t tokens, Padding padding)
      : batch(batch_size), length(tokens) {
    for (int32_t b = 0; b < batch; b++) {
      const auto real = static_cast<int32_t>(1 + random.below(length));
      if (padding == Padding::lengths) lengths.push_back(real);
      for (int32_t i = 0; i < length; i++) {
        ids.push_back(static_cast<int32_t>(random.below(info.vocab_size)));
        types.push_back(static_cast<int32_t>(random.below(2)));
        const bool hole = padding == Padding::holes && i != real - 1 && random.below(3) == 0;
        if (padding == Padding::mask || padding == Padding::holes) mask.push_back(i < real && !hole ? 1 : 0);
      }
    }
  }

  sbk_input input() const {
    sbk_input in{};
    in.size = sizeof in, in.batch = batch, in.length = length, in.token_ids = ids.data(),
    in.token_type_ids = types.data();
    if (!lengths.empty()) in.lengths = lengths.data();
    if (!mask.empty()) in.attention_mask = mask.data();
    if (!logit_tokens.empty()) {
      in.logit_tokens = logit_tokens.data(), in.num_logit_tokens = static_cast<int32_t>(logit_tokens.size());
    }
    return in;
  }
};

// Every output that a model has, canaries at first.
struct Outputs {
  static constexpr float kUntouched = 12345.0f;
  std::vector<float> hidden, pooled, logits;

  Outputs(const sbk_model_info& info, const Batch& b) {
    const std::size_t tokens = static_cast<std::size_t>(b.batch) * b.length;
    const std::size_t rows = !has_token_logits(info.head) ? b.batch
                             : b.logit_tokens.empty()     ? tokens
                                                          : b.logit_tokens.size();
    hidden.assign(tokens * info.hidden_size, kUntouched);
    if (info.has_pooler) pooled.assign(static_cast<std::size_t>(b.batch) * info.hidden_size, kUntouched);
    logits.assign(rows * info.num_labels, kUntouched);
  }
  sbk_output output() {
    sbk_output out{};
    out.size = sizeof out, out.hidden_states = hidden.data(), out.hidden_states_size = hidden.size();
    if (!pooled.empty()) out.pooled = pooled.data(), out.pooled_size = pooled.size();
    if (!logits.empty()) out.logits = logits.data(), out.logits_size = logits.size();
    return out;
  }
  bool untouched() const {
    for (const auto* values : {&hidden, &pooled, &logits}) {
      for (const float v : *values) {
        if (v != kUntouched) return false;
      }
    }
    return true;
  }
  bool finite() const {
    for (const auto* values : {&hidden, &pooled, &logits}) {
      for (const float v : *values) {
        if (!std::isfinite(v) || v == kUntouched) return false;
      }
    }
    return true;
  }
  // Bit for bit.
  bool operator==(const Outputs& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
    };
    return same(hidden, other.hidden) && same(pooled, other.pooled) && same(logits, other.logits);
  }
};

inline Outputs run(const sbk_model* model, sbk_context* context, const Batch& batch) {
  Outputs outputs(info_of(model), batch);
  const sbk_input in = batch.input();
  const sbk_output out = outputs.output();
  expect(sbk_run(model, context, &in, &out), SBK_OK);
  return outputs;
}

}  // namespace test

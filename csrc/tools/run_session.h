// sbk-run: a model with its threads and options, texts as tokens, and calls of the model.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/command.h"

namespace sbk::tools {

struct RunOptions {
  int64_t top = 0;  // 0: not given
  int64_t window = 384, stride = 128, max_answer = 15;
  bool json = false, tokens = false, embedding = false, multi_label = false;
};

struct Tokens {
  std::vector<int32_t> ids, types;
  std::vector<int64_t> begin, end;  // bytes of the text or, where the type is 1, of the pair; 0, 0 for special tokens
  bool truncated = false;

  int32_t size() const { return static_cast<int32_t>(ids.size()); }
  bool special(size_t i) const { return begin[i] == 0 && end[i] == 0; }
};

class Session {
 public:
  Session(ModelHandle model, ContextHandle context, const RunOptions& options);

  const sbk_model* model() const { return model_.get(); }
  const sbk_model_info& info() const { return info_; }
  const RunOptions& options() const { return options_; }

  // Truncated to `max_length` tokens (0: the model's), which Tokens::truncated then tells.
  Tokens tokenize(std::string_view text, const std::string_view* pair = nullptr, int32_t max_length = 0) const;
  // The same, with a note on stderr if a text is truncated.
  Tokens tokenize_noting(std::string_view text, const std::string_view* pair = nullptr, int32_t max_length = 0) const;

  // "##ing", "[MASK]", "word": as the vocabulary writes it where the library tells.
  std::string token_text(int32_t id) const;
  // Whether a token goes on with the word of the token before it.
  bool continues(int32_t id) const { return token_text(id).starts_with("##"); }
  // Its id; throws if the vocabulary has none.
  int32_t require_token(const char* token) const;

  std::string label(int64_t i) const;

  // Rows of one batch, padded to the longest. `logit_tokens`: empty for all.
  std::vector<float> logits(const std::vector<Tokens>& rows, const std::vector<int32_t>& logit_tokens = {}) const;
  // [tokens][hidden_size]
  std::vector<float> hidden_states(const Tokens& tokens) const;
  // [hidden_size]
  std::vector<float> pooled(const Tokens& tokens) const;

 private:
  void run(const std::vector<Tokens>& rows, const std::vector<int32_t>& logit_tokens, sbk_output output) const;

  ModelHandle model_;
  ContextHandle context_;
  sbk_model_info info_;
  RunOptions options_;
};

// softmax of values[0, n).
std::vector<double> softmax(const float* values, size_t n);
// Indices of the `k` largest, largest first; the first of equals first.
std::vector<size_t> largest(const std::vector<double>& values, size_t k);

}  // namespace sbk::tools

#include "tools/run_session.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

namespace sbk::tools {

Session::Session(ModelHandle model, ContextHandle context, const RunOptions& options)
    : model_(std::move(model)), context_(std::move(context)), info_(info_of(model_.get())), options_(options) {}

Tokens Session::tokenize(std::string_view text, const std::string_view* pair, int32_t max_length) const {
  const int32_t most = max_length > 0 ? max_length : info_.max_length;
  const auto capacity = static_cast<size_t>(most);
  Tokens t;
  t.ids.resize(capacity), t.types.resize(capacity), t.begin.resize(capacity), t.end.resize(capacity);
  sbk_text in{};
  in.size = sizeof in;
  in.text = text.data(), in.text_bytes = static_cast<int64_t>(text.size());
  if (pair != nullptr) {
    in.pair = pair->data() != nullptr ? pair->data() : "";
    in.pair_bytes = static_cast<int64_t>(pair->size());
  }
  in.max_length = max_length, in.no_truncation = 1;
  sbk_tokens out{};
  out.size = sizeof out, out.capacity = most;
  out.token_ids = t.ids.data(), out.token_type_ids = t.types.data();
  out.begin = t.begin.data(), out.end = t.end.data();
  int32_t count = 0;
  sbk_status status = sbk_tokenize(model_.get(), &in, &out, &count);
  if (status == SBK_INVALID_ARGUMENT) {
    in.no_truncation = 0, t.truncated = true;
    status = sbk_tokenize(model_.get(), &in, &out, &count);
  }
  check(status);
  const auto n = static_cast<size_t>(count);
  t.ids.resize(n), t.types.resize(n), t.begin.resize(n), t.end.resize(n);
  return t;
}

Tokens Session::tokenize_noting(std::string_view text, const std::string_view* pair, int32_t max_length) const {
  Tokens t = tokenize(text, pair, max_length);
  if (t.truncated) {
    std::fprintf(stderr, "sbk-run: note: the text is longer than the model takes: cut to %d tokens\n", t.size());
  }
  return t;
}

std::string Session::token_text(int32_t id) const {
  size_t bytes = 0;
  check(sbk_decode(model_.get(), &id, 1, nullptr, 0, &bytes));
  std::string text(bytes + 1, '\0');
  check(sbk_decode(model_.get(), &id, 1, text.data(), text.size(), &bytes));
  text.resize(bytes);
  if (!text.empty()) return text;
  for (const char* name : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    if (sbk_token_id(model_.get(), name) == id) return name;
  }
  return std::string("#").append(std::to_string(id));
}

int32_t Session::require_token(const char* token) const {
  const int32_t id = sbk_token_id(model_.get(), token);
  if (id < 0) throw std::runtime_error(std::string("the model's vocabulary has no ") + token);
  return id;
}

std::string Session::label(int64_t i) const {
  const char* name = sbk_model_label(model_.get(), static_cast<int32_t>(i));
  return name != nullptr ? name : "LABEL_" + std::to_string(i);
}

void Session::run(const std::vector<Tokens>& rows, const std::vector<int32_t>& logit_tokens, sbk_output output) const {
  size_t length = 0;
  for (const Tokens& row : rows) length = std::max(length, row.ids.size());
  std::vector<int32_t> ids(rows.size() * length), types(ids.size()), lengths;
  for (size_t r = 0; r < rows.size(); r++) {
    std::copy(rows[r].ids.begin(), rows[r].ids.end(), ids.begin() + static_cast<int64_t>(r * length));
    std::copy(rows[r].types.begin(), rows[r].types.end(), types.begin() + static_cast<int64_t>(r * length));
    lengths.push_back(rows[r].size());
  }
  sbk_input input{};
  input.size = sizeof input;
  input.batch = static_cast<int32_t>(rows.size()), input.length = static_cast<int32_t>(length);
  input.token_ids = ids.data(), input.token_type_ids = types.data(), input.lengths = lengths.data();
  if (!logit_tokens.empty()) {
    input.logit_tokens = logit_tokens.data();
    input.num_logit_tokens = static_cast<int32_t>(logit_tokens.size());
  }
  output.size = sizeof output;
  check(sbk_run(model_.get(), context_.get(), &input, &output));
}

std::vector<float> Session::logits(const std::vector<Tokens>& rows, const std::vector<int32_t>& logit_tokens) const {
  size_t length = 0;
  for (const Tokens& row : rows) length = std::max(length, row.ids.size());
  const bool per_row = info_.head == SBK_HEAD_SEQUENCE_CLASSIFICATION || info_.head == SBK_HEAD_MULTIPLE_CHOICE;
  const size_t n = per_row ? rows.size() : logit_tokens.empty() ? rows.size() * length : logit_tokens.size();
  std::vector<float> values(n * static_cast<size_t>(info_.num_labels));
  sbk_output output{};
  output.logits = values.data(), output.logits_size = values.size();
  run(rows, logit_tokens, output);
  return values;
}

std::vector<float> Session::hidden_states(const Tokens& tokens) const {
  std::vector<float> values(tokens.ids.size() * static_cast<size_t>(info_.hidden_size));
  sbk_output output{};
  output.hidden_states = values.data(), output.hidden_states_size = values.size();
  run({tokens}, {}, output);
  return values;
}

std::vector<float> Session::pooled(const Tokens& tokens) const {
  std::vector<float> values(static_cast<size_t>(info_.hidden_size));
  sbk_output output{};
  output.pooled = values.data(), output.pooled_size = values.size();
  run({tokens}, {}, output);
  return values;
}

std::vector<double> softmax(const float* values, size_t n) {
  const double most = n > 0 ? *std::max_element(values, values + n) : 0;
  std::vector<double> p(n);
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += p[i] = std::exp(values[i] - most);
  for (double& value : p) value /= sum;
  return p;
}

std::vector<size_t> largest(const std::vector<double>& values, size_t k) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  k = std::min(k, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(k), order.end(),
                    [&](size_t a, size_t b) { return values[a] != values[b] ? values[a] > values[b] : a < b; });
  order.resize(k);
  return order;
}

}  // namespace sbk::tools

// Text: tokens and back.
#include "capi/capi.h"
#include "model/limits.h"

using namespace sbk;
using namespace sbk::capi;

namespace {

const Tokenizer& tokenizer_of(const sbk_model* model) {
  const Tokenizer* tokenizer = require(model, "model").model->tokenizer();
  if (tokenizer == nullptr) {
    fail(SBK_UNSUPPORTED, "the model has no tokenizer: export it together with one (`squeezebert-kernels export`)");
  }
  return *tokenizer;
}

std::string_view view_of(const char* text, int64_t bytes, const char* name) {
  require_range(bytes, 0, static_cast<int64_t>(limits::kTextBytes), name);
  if (text == nullptr && bytes > 0) fail(SBK_INVALID_ARGUMENT, name, "=", bytes, " of a text that is NULL");
  return {text, static_cast<std::size_t>(bytes)};
}

}  // namespace

sbk_status sbk_tokenize(const sbk_model* model, const sbk_text* text, const sbk_tokens* tokens, int32_t* count) {
  return guarded([&] {
    const Tokenizer& tokenizer = tokenizer_of(model);
    const sbk_text in = versioned(text, "text");
    const sbk_tokens out = versioned(tokens, "tokens");
    require(count, "count");
    require_range(out.capacity, 0, INT32_MAX, "tokens->capacity");
    const int64_t most = model->model->config.max_positions;
    require_range(in.max_length, 0, most, "text->max_length");
    const std::string_view first = view_of(in.text, in.text_bytes, "text->text_bytes");
    const std::string_view second = view_of(in.pair, in.pair_bytes, "text->pair_bytes");
    Encoding encoding;
    std::string error;
    if (!tokenizer.encode(first, in.pair != nullptr ? &second : nullptr, in.max_length > 0 ? in.max_length : most,
                          in.no_truncation != 0 ? Truncation::none : Truncation::longest_first, &encoding, &error)) {
      fail(SBK_INVALID_ARGUMENT, error);
    }
    const std::size_t n = encoding.ids.size();
    *count = static_cast<int32_t>(n);
    if (out.capacity < *count) {
      fail(SBK_INVALID_ARGUMENT, "tokens->capacity=", out.capacity, " is less than the ", n, " tokens of the text");
    }
    for (std::size_t i = 0; i < n; i++) {
      if (out.token_ids != nullptr) out.token_ids[i] = encoding.ids[i];
      if (out.token_type_ids != nullptr) out.token_type_ids[i] = encoding.type_ids[i];
      if (out.begin != nullptr) out.begin[i] = encoding.spans[i].begin;
      if (out.end != nullptr) out.end[i] = encoding.spans[i].end;
    }
  });
}

int32_t sbk_token_id(const sbk_model* model, const char* token) {
  int32_t id = -1;
  guarded([&] {
    require(token, "token");
    id = tokenizer_of(model).id(token).value_or(-1);
  });
  return id;
}

sbk_status sbk_decode(const sbk_model* model, const int32_t* token_ids, int32_t count, char* text, std::size_t capacity,
                      std::size_t* bytes) {
  return guarded([&] {
    const Tokenizer& tokenizer = tokenizer_of(model);
    require_range(count, 0, INT32_MAX, "count");
    if (count > 0) require(token_ids, "token_ids");
    if (capacity > 0) require(text, "text");
    require(bytes, "bytes");
    const std::string decoded = tokenizer.decode(token_ids, static_cast<std::size_t>(count));
    *bytes = decoded.size();
    if (capacity == 0) return;
    const std::size_t n = std::min(decoded.size(), capacity - 1);
    decoded.copy(text, n);
    text[n] = '\0';
  });
}

// .sbk files as bytes, to be damaged: their parts, and checksums that are right again afterwards, so that a reader gets
// to see the damage itself.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "include/squeezebert_kernels.h"
#include "model/container.h"
#include "ops/checksum.h"
#include "tiny_model.h"

namespace test {

template <class T>
T get(const std::string& bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}
template <class T>
void put(std::string& bytes, std::size_t at, const T& value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

inline std::size_t entry_at(std::size_t i) { return sizeof(sbk::FileHeader) + i * sizeof(sbk::SectionEntry); }
inline sbk::SectionEntry entry(const std::string& file, std::size_t i) {
  return get<sbk::SectionEntry>(file, entry_at(i));
}

// Entries that are inside of the file, whatever its header says.
inline std::size_t entry_count(const std::string& file) {
  if (file.size() < sizeof(sbk::FileHeader)) return 0;
  const uint64_t most = (file.size() - sizeof(sbk::FileHeader)) / sizeof(sbk::SectionEntry);
  return static_cast<std::size_t>(std::min(get<sbk::FileHeader>(file, 0).sections, most));
}

// The checksums that the file should have; `length` sets its size in the header, too.
inline void correct(std::string& file, bool length = false) {
  if (file.size() < sizeof(sbk::FileHeader)) return;
  const std::size_t count = entry_count(file);
  for (std::size_t i = 0; i < count; i++) {
    sbk::SectionEntry e = entry(file, i);
    if (e.offset > file.size() || e.bytes > file.size() - e.offset) continue;
    e.checksum = sbk::checksum(file.data() + e.offset, e.bytes);
    put(file, entry_at(i), e);
  }
  auto header = get<sbk::FileHeader>(file, 0);
  if (length) header.file_bytes = file.size();
  header.checksum = 0;
  // As container.cpp chains the two.
  const uint64_t head = sbk::checksum(&header, sizeof header);
  const uint64_t entries = sbk::checksum(file.data() + sizeof header, count * sizeof(sbk::SectionEntry));
  header.checksum = sbk::mix(head, entries);
  put(file, 0, header);
}

// A model of some kilobytes with everything that a file can have.
inline TinyModel smallest_model() {
  TinyModel tiny;
  tiny.hidden = 8, tiny.layers = 1, tiny.heads = 2, tiny.intermediate = 8, tiny.vocabulary = 9, tiny.positions = 4;
  tiny.architecture = "SqueezeBertForMaskedLM";
  return tiny;
}

inline std::string sbk_file(const TinyModel& tiny, sbk_dtype dtype, const char* isa, bool with_tokenizer = false) {
  Folder folder(tiny, with_tokenizer);
  sbk_load_options options{};
  options.size = sizeof options, options.dtype = dtype, options.isa = isa;
  sbk_model* model = nullptr;
  const std::string path = folder.file("model.sbk");
  if (sbk_model_load(folder.path().c_str(), &options, &model) != SBK_OK ||
      sbk_model_save(model, path.c_str()) != SBK_OK) {
    throw std::runtime_error(sbk_last_error());
  }
  sbk_model_free(model);
  return read_file(path);
}

// Loads what is at `path` and, if that works, uses it: every byte of it has to be safe then. Returns load's status.
inline sbk_status load_and_use(const std::string& path, bool verify = false) {
  sbk_load_options options{};
  options.size = sizeof options, options.verify = verify;
  sbk_model* model = nullptr;
  const sbk_status status = sbk_model_load(path.c_str(), &options, &model);
  if (status != SBK_OK) {
    if (model != nullptr || sbk_last_error()[0] == '\0') std::abort();
    return status;
  }
  sbk_model_info info{};
  info.size = sizeof info;
  if (sbk_model_get_info(model, &info) != SBK_OK) std::abort();
  const int32_t length = std::min(info.max_length, 6), batch = 2;
  constexpr int64_t kMost = 1 << 22;  // floats: a model of that size has come by an accident of sizes
  if (int64_t{info.hidden_size} * length < kMost && int64_t{info.num_labels} * length < kMost) {
    std::vector<int32_t> ids(static_cast<std::size_t>(batch * length)), mask(ids.size(), 1);
    for (std::size_t i = 0; i < ids.size(); i++) ids[i] = static_cast<int32_t>(i) % info.vocab_size;
    mask[0] = length > 1 ? 0 : 1;
    const auto floats = [&](int64_t per_token) {
      return std::vector<float>(static_cast<std::size_t>(batch * length * per_token));
    };
    std::vector<float> hidden = floats(info.hidden_size), pooled = hidden, logits = floats(info.num_labels);
    sbk_input in{};
    in.size = sizeof in, in.batch = batch, in.length = length, in.token_ids = ids.data(),
    in.attention_mask = mask.data();
    sbk_output out{};
    out.size = sizeof out, out.hidden_states = hidden.data(), out.hidden_states_size = hidden.size();
    if (info.has_pooler) out.pooled = pooled.data(), out.pooled_size = pooled.size();
    if (info.num_labels > 0) out.logits = logits.data(), out.logits_size = logits.size();
    sbk_context_options one{};
    one.size = sizeof one, one.threads = 1;
    sbk_context* context = nullptr;
    if (sbk_context_create(&one, &context) != SBK_OK) std::abort();
    const sbk_status ran = sbk_run(model, context, &in, &out);
    if (ran != SBK_OK && ran != SBK_UNSUPPORTED && ran != SBK_OUT_OF_MEMORY) std::abort();
    sbk_context_free(context);
  }
  if (info.has_tokenizer) {
    sbk_text text{};
    text.size = sizeof text, text.text = "abc [MASK] ab\xff d", text.text_bytes = 16, text.pair = "a",
    text.pair_bytes = 1;
    int32_t ids[64], count = 0;
    sbk_tokens tokens{};
    tokens.size = sizeof tokens, tokens.capacity = 64, tokens.token_ids = ids;
    if (sbk_tokenize(model, &text, &tokens, &count) == SBK_OK) {
      char decoded[64];
      std::size_t bytes = 0;
      sbk_decode(model, ids, count, decoded, sizeof decoded, &bytes);
      sbk_token_id(model, "##c");
    }
  }
  sbk_model_free(model);
  return SBK_OK;
}

}  // namespace test

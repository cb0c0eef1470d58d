// BERT's WordPiece tokenizer over tokenizer data (tokenizer_data.h): the ids that the Hugging Face tokenizer gives from
// which the data was made.
//
// Text is UTF-8. What is no UTF-8 counts as U+FFFD, one for every maximal part that could have begun a character, as
// browsers and Python's errors="replace" have it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/token_finder.h"
#include "model/tokenizer_data.h"

namespace sbk {

// What encode does with a text that does not fit, token by token from the end.
enum class Truncation {
  none,           // refuses it
  longest_first,  // both of a pair, the longer one first
  only_first,
  only_second,
};

// Bytes [begin, end) of a text.
struct Span {
  uint32_t begin, end;
  bool operator==(const Span&) const = default;
};

// [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]; all vectors have one element per token.
struct Encoding {
  std::vector<int32_t> ids;
  std::vector<int32_t> type_ids;  // 1 from the first token of the pair on
  std::vector<uint8_t> special;   // 1 for the [CLS] and [SEP] put in here
  std::vector<Span> spans;        // of the token's own text; 0, 0 for those
};

// A view: the data must outlive it. All const methods may run at once on any threads.
class Tokenizer {
 public:
  // Opens `bytes` at `data`, 8-byte aligned, and checks all of it: whatever passes is safe to use, even if it makes no
  // sense. Otherwise false, with a message in `error`.
  bool open(const void* data, size_t bytes, std::string* error);

  // The tokens of `text`, or of `text` and `*pair`, at most `max_length` in all (0: no limit). False, with a message in
  // `error`, if they do not fit and may not be truncated to fit. Time is linear in the text, and memory in the tokens
  // that are kept. It stops where the rest of the text cannot change the result.
  bool encode(std::string_view text, const std::string_view* pair, int64_t max_length, Truncation truncation,
              Encoding* out, std::string* error) const;

  // The text of `count` ids. Those that are no token are left out, and with `skip_special` the special tokens.
  std::string decode(const int32_t* ids, size_t count, bool skip_special = true) const;

  // The token of an id, and the other way around.
  std::optional<std::string_view> token(int64_t id) const;
  std::optional<int32_t> id(std::string_view token) const;

  // Ids are below size().
  int64_t size() const { return header_->token_offsets.count - 1; }
  int32_t cls() const { return static_cast<int32_t>(header_->cls); }
  int32_t sep() const { return static_cast<int32_t>(header_->sep); }
  int32_t unknown() const { return static_cast<int32_t>(header_->unknown); }
  int32_t pad() const { return static_cast<int32_t>(header_->pad); }    // -1: there is none
  int32_t mask() const { return static_cast<int32_t>(header_->mask); }  // -1: there is none

 private:
  friend class TextEncoder;

  template <class T>
  const T* at(Section<T> section) const {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(header_) + section.offset);
  }
  std::string_view text(uint32_t begin, uint32_t bytes) const {
    return {reinterpret_cast<const char*>(text_) + begin, bytes};
  }
  std::string_view text(Section<uint8_t> part) const { return text(part.offset, part.count); }
  const Record& record(uint32_t code_point) const {
    if (code_point >= kCodePoints) return records_[0];
    return records_[pages_[kPage * page_index_[code_point / kPage] + code_point % kPage]];
  }
  const Added* added(uint32_t id) const;

  const TokenizerHeader* header_ = nullptr;
  const uint16_t* page_index_ = nullptr;
  const uint16_t* pages_ = nullptr;
  const Record* records_ = nullptr;
  const uint32_t* elements_ = nullptr;
  const uint32_t* token_offsets_ = nullptr;
  const uint8_t* text_ = nullptr;
  const Added* added_ = nullptr;
  TrieView vocabulary_;
  LinkedTrie raw_, normalized_;
  bool strips_left_ = false;     // a token of raw_ takes white space before it
  uint32_t continuing_ = kNone;  // the node of the vocabulary at which pieces inside of a word begin
};

}  // namespace sbk

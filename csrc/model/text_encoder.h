// The way of one text to its tokens, in the steps of the tokenizers library; used by tokenizer.cpp only. Characters
// pass through all steps one after the other, so that memory depends on the tokenizer and on the tokens that are kept,
// and not on the length of the text.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "model/limits.h"
#include "model/token_finder.h"
#include "model/tokenizer.h"

namespace sbk {

inline constexpr uint32_t kReplacement = 0xfffd;

// A code point and the bytes of the text that it comes from.
struct Char {
  uint32_t code_point;
  Span span;
};
using Chars = std::vector<Char>;

// The code point that begins at text[at], and the offset behind it.
inline Char decode_utf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0u; };
  const auto part = [&](size_t end, uint32_t code_point) {
    return Char{code_point, {static_cast<uint32_t>(at), static_cast<uint32_t>(end)}};
  };
  const uint32_t lead = byte(at);
  if (lead < 0x80) return part(at + 1, lead);
  if (lead < 0xc2 || lead > 0xf4) return part(at + 1, kReplacement);
  const uint32_t more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
  // The second byte has a narrower range where the first would allow surrogates, overlong forms or too large values.
  uint32_t low = 0x80, high = 0xbf;
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  uint32_t code_point = lead & (0x3f >> more);
  for (uint32_t i = 1; i <= more; i++) {
    const uint32_t next = byte(at + i);
    if (next < low || next > high) return part(at + i, kReplacement);
    code_point = code_point << 6 | (next & 0x3f);
    low = 0x80, high = 0xbf;
  }
  return part(at + more + 1, code_point);
}

// Writes a code point below 2^21 and returns its size.
inline uint32_t encode_utf8(uint32_t c, uint8_t out[4]) {
  if (c < 0x80) {
    out[0] = static_cast<uint8_t>(c);
    return 1;
  }
  const uint32_t bytes = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  for (uint32_t i = bytes; i-- > 1; c >>= 6) out[i] = static_cast<uint8_t>(0x80 | (c & 0x3f));
  out[0] = static_cast<uint8_t>((0xf00u >> bytes & 0xff) | c);
  return bytes;
}

// One text. Raw text is split at the tokens that are looked for there; what is between them is normalized; that is
// split at the tokens that are looked for in normalized text; and what is between them into words, and words into
// pieces.
class TextEncoder {
 public:
  // Keeps the first `keep` tokens, and stops when there is one more. With `count_all` it goes on to count them.
  TextEncoder(const Tokenizer& tokenizer, size_t keep, bool count_all)
      : t_(tokenizer), keep_(keep), count_all_(count_all), raw_(tokenizer.raw_), finder_(tokenizer.normalized_) {}

  void run(std::string_view text) {
    text_ = text;
    for (size_t at = 0; at < text.size() && !full();) {
      const Char c = decode_utf8(text, at);
      at = c.span.end;
      if (t_.raw_.empty()) {
        normalize(c);
        continue;
      }
      uint8_t bytes[4];
      const uint32_t n = encode_utf8(c.code_point, bytes);
      if (raw_.skip(bytes[0])) {
        settle(c);
      } else {
        raw_.push(bytes, n, [&](uint32_t token, uint64_t begin, uint64_t end) { raw_token(token, begin, end); });
        settle_before(raw_.settled());
      }
      if (!t_.strips_left_ && done_ == c.span.begin && settled_ == c.span.end) {  // without decoding it again
        normalize(c);
        done_ = c.span.end;
      } else {
        release();
      }
    }
    raw_.finish([&](uint32_t token, uint64_t begin, uint64_t end) { raw_token(token, begin, end); });
    if (!t_.raw_.empty()) gap(static_cast<uint32_t>(text.size()));
    end_normalization();
  }

  size_t count = 0;  // of tokens, at most `keep` + 1 without count_all
  std::vector<int32_t> ids;
  std::vector<Span> spans;

 private:
  struct Piece {
    uint32_t id;
    Span span;
  };
  struct Mark {
    uint32_t element;
    bool first;  // of what its character became
  };
  static constexpr uint32_t kNowhere = 0xffffffffu;

  bool full() const { return count > keep_ && !count_all_; }

  void put(uint32_t id, Span span) {
    if (full() || count++ >= keep_) return;
    ids.push_back(static_cast<int32_t>(id));
    spans.push_back(span);
  }

  bool has(const Char& c, RecordFlags flag) const { return (t_.record(c.code_point).flags & flag) != 0; }

  // Raw text. Places are bytes of it; what is behind `settled_` is looked at again when it is settled.

  // The next character is in a token that was found, or in none.
  void settle(const Char& c) {
    if (!has(c, kSpace)) {
      spaces_ = kNowhere;
    } else if (spaces_ == kNowhere) {
      spaces_ = settled_;
    }
    behind_word_ = has(c, kWord);
    settled_ = c.span.end;
    settled_characters_++;
  }

  void settle_before(uint64_t character) {
    while (settled_characters_ < character) settle(decode_utf8(text_, settled_));
  }

  // White space that a token may take stays back.
  void release() {
    const bool keeps = t_.strips_left_ && spaces_ != kNowhere;
    gap(keeps ? spaces_ : settled_);
  }

  // What is up to `end` is no token.
  void gap(uint32_t end) {
    while (done_ < end && !full()) {
      const Char c = decode_utf8(text_, done_);
      normalize(c);
      done_ = c.span.end;
    }
  }

  uint32_t behind_spaces(uint32_t at) {
    if (at >= known_spaces_.begin && at < known_spaces_.end) return known_spaces_.end;
    uint32_t end = at;
    while (end < text_.size()) {
      const Char c = decode_utf8(text_, end);
      if (!has(c, kSpace)) break;
      end = c.span.end;
    }
    known_spaces_ = {at, end};
    return end;
  }

  void raw_token(uint32_t index, uint64_t first, uint64_t last) {
    if (full()) return;
    const Added& token = t_.added_[index];
    settle_before(first);
    const uint32_t found = settled_, spaces = spaces_;
    const bool behind_word = behind_word_;
    settle_before(last);
    uint32_t begin = found, end = settled_;
    if ((token.flags & kSingleWord) != 0 &&
        (behind_word || (end < text_.size() && has(decode_utf8(text_, end), kWord)))) {
      return;
    }
    if ((token.flags & kStripLeft) != 0) begin = std::max(std::min(begin, spaces), done_);
    if ((token.flags & kStripRight) != 0) end = behind_spaces(std::max(end, done_));  // or further, if done
    end = std::max(end, begin);
    gap(begin);
    end_normalization();
    put(token.id, {begin, end});
    done_ = end;
  }

  // Normalization

  void normalize(const Char& c) {
    const Record& record = t_.record(c.code_point);
    if (record.kind == Kind::removed) return;
    if ((record.flags & kSpaced) != 0) element(' ', &c.span);
    become(c, record);
    if ((record.flags & kSpaced) != 0) element(' ', &c.span);
  }

  void end_normalization() {
    order_marks();
    span_ = {};
    end_normalized();
  }

  void become(const Char& c, const Record& record) {
    const uint32_t combining = uint32_t{record.combining} << 24;
    switch (record.kind) {
      case Kind::removed:
        break;
      case Kind::shift:
        element(((c.code_point + static_cast<uint32_t>(record.operand)) & kCodePointMask) | combining, &c.span);
        break;
      case Kind::dropped:
        element(kDropped | combining, &c.span);
        break;
      case Kind::list:
        for (uint32_t i = 0; i < record.count; i++) {
          element(t_.elements_[static_cast<uint32_t>(record.operand) + i], i == 0 ? &c.span : nullptr);
        }
        break;
      case Kind::hangul: {
        const uint32_t index = (c.code_point - 0xac00) & 0xffff;
        element(0x1100 + index / 588, &c.span);
        element(0x1161 + index % 588 / 28, nullptr);
        if (index % 28 != 0) element(0x11a7 + index % 28, nullptr);
        break;
      }
    }
  }

  // `from`: the bytes of the character of which this is the first element. Those of other elements are the bytes of the
  // element before, after marks were ordered: the library has it so.
  void element(uint32_t e, const Span* from) {
    if (e >> 24 != 0) {
      if (marks_.size() == limits::kMarksInARow) order_marks();
      marks_.push_back({e, from != nullptr});
      if (from != nullptr) mark_spans_.push_back(*from);
      return;
    }
    order_marks();
    if (from != nullptr) span_ = *from;
    yield(e);
  }

  void yield(uint32_t e) {
    if ((e & kDropped) == 0) normalized({e & kCodePointMask, span_});
  }

  void order_marks() {
    if (marks_.empty()) return;
    const auto before = [](const Mark& a, const Mark& b) { return a.element >> 24 < b.element >> 24; };
    if (!std::is_sorted(marks_.begin(), marks_.end(), before)) std::stable_sort(marks_.begin(), marks_.end(), before);
    size_t next = 0;
    for (const Mark& mark : marks_) {
      if (mark.first) span_ = mark_spans_[next++];
      yield(mark.element);
    }
    marks_.clear(), mark_spans_.clear();
  }

  // Normalized text. What is not settled waits in `window_`, which begins with the character number `window_begin_`.

  void normalized(const Char& c) {
    if (t_.normalized_.empty()) return split(c);
    window_.push_back(c);
    uint8_t bytes[4];
    const uint32_t n = encode_utf8(c.code_point, bytes);
    finder_.push(bytes, n, [&](uint32_t token, uint64_t begin, uint64_t end) { normalized_token(token, begin, end); });
    pass(finder_.settled());
  }

  void end_normalized() {
    if (!t_.normalized_.empty()) {
      finder_.finish([&](uint32_t token, uint64_t begin, uint64_t end) { normalized_token(token, begin, end); });
      pass(finder_.settled());
      end_stripping();
      finder_.reset();
      window_.clear(), window_first_ = 0, window_begin_ = 0;
      gap_spaces_ = kNowhere, behind_normalized_word_ = false;
    }
    end_word();
  }

  const Char& at(uint64_t character) const { return window_[window_first_ + (character - window_begin_)]; }

  // Lets what is before a character out of the window: it is no token. White space separates words, whether a token
  // takes it or not.
  void pass(uint64_t character) {
    for (; window_begin_ < character; drop()) {
      const Char& c = at(window_begin_);
      const bool is_space = has(c, kSpace);
      if (strip_ && is_space) {
        waiting_.span.end = c.span.end;
        continue;
      }
      end_stripping();
      if (!is_space) {
        gap_spaces_ = kNowhere;
      } else if (gap_spaces_ == kNowhere) {
        gap_spaces_ = c.span.begin;
      }
      split(c);
    }
  }

  void drop() {
    behind_normalized_word_ = has(window_[window_first_], kWord);
    window_begin_++;
    if (++window_first_ == window_.size()) window_.clear(), window_first_ = 0;
    if (window_first_ >= 64 && 2 * window_first_ >= window_.size()) {
      window_.erase(window_.begin(), window_.begin() + static_cast<int64_t>(window_first_));
      window_first_ = 0;
    }
  }

  // The token that takes white space behind it has all of it.
  void end_stripping() {
    if (strip_) put(waiting_.id, waiting_.span);
    strip_ = false;
  }

  void normalized_token(uint32_t index, uint64_t first, uint64_t last) {
    const Added& token = t_.added_[index];
    pass(first);
    const bool behind_word = behind_normalized_word_;
    const bool before_word = last < window_begin_ + (window_.size() - window_first_) && has(at(last), kWord);
    if ((token.flags & kSingleWord) != 0 && (behind_word || before_word)) return;
    Span span{at(first).span.begin, at(last - 1).span.end};
    if ((token.flags & kStripLeft) != 0 && gap_spaces_ != kNowhere) span.begin = gap_spaces_;
    end_stripping();
    end_word();
    while (window_begin_ < last) drop();
    gap_spaces_ = kNowhere;
    waiting_ = {token.id, span};
    strip_ = true;
    if ((token.flags & kStripRight) == 0) end_stripping();
  }

  // Words

  void split(const Char& c) {
    const uint8_t flags = t_.record(c.code_point).flags;
    if ((flags & (kSpace | kPunctuation)) == 0) {
      // Of a word that is too long only the end is looked at.
      if (word_.size() <= t_.header_->max_word) word_.push_back(c);
      word_end_ = c.span.end;
      return;
    }
    end_word();
    if ((flags & kSpace) != 0) return;
    word_.assign(1, c);
    word_end_ = c.span.end;
    end_word();
  }

  // The longest token from the left, again and again; all is unknown if one of them is.
  void end_word() {
    if (word_.empty()) return;
    const uint32_t unknown = t_.header_->unknown;
    const Span whole{word_[0].span.begin, word_end_};
    if (!cut_word()) pieces_.assign(1, {unknown, whole});
    for (const Piece& piece : pieces_) put(piece.id, piece.span);
    word_.clear();
  }

  bool cut_word() {
    if (word_.size() > t_.header_->max_word) return false;
    bytes_.clear(), char_of_.clear(), pieces_.clear();
    for (size_t i = 0; i < word_.size(); i++) {
      uint8_t bytes[4];
      const uint32_t n = encode_utf8(word_[i].code_point, bytes);
      bytes_.insert(bytes_.end(), bytes, bytes + n);
      char_of_.insert(char_of_.end(), n, i);
    }
    for (size_t at = 0; at < bytes_.size();) {
      uint32_t node = at == 0 ? 0 : t_.continuing_, found = kNone;
      size_t stop = at;
      for (size_t i = at; i < bytes_.size() && node != kNone; i++) {
        node = t_.vocabulary_.child(node, bytes_[i]);
        if (node != kNone && t_.vocabulary_.value[node] != kNone) found = t_.vocabulary_.value[node], stop = i + 1;
      }
      if (found == kNone) return false;
      pieces_.push_back({found, {word_[char_of_[at]].span.begin, word_[char_of_[stop - 1]].span.end}});
      at = stop;
    }
    return true;
  }

  const Tokenizer& t_;
  const size_t keep_;
  const bool count_all_;

  // Of raw text
  std::string_view text_;
  TokenFinder raw_;
  uint32_t done_ = 0;     // what is before it was normalized, or is a token
  uint32_t settled_ = 0;  // in bytes
  uint64_t settled_characters_ = 0;
  uint32_t spaces_ = kNowhere;  // where the white space before `settled_` begins
  bool behind_word_ = false;
  Span known_spaces_{};

  // Of normalization
  Span span_{};  // of the last element yielded
  std::vector<Mark> marks_;
  std::vector<Span> mark_spans_;

  // Of normalized text, between two tokens of the raw text
  TokenFinder finder_;
  Chars window_;
  size_t window_first_ = 0;
  uint64_t window_begin_ = 0;
  uint32_t gap_spaces_ = kNowhere;  // where the white space before the window begins in the text
  bool behind_normalized_word_ = false;
  bool strip_ = false;  // `waiting_` takes what white space comes
  Piece waiting_{};

  // Of a word
  Chars word_;  // at most one character more than it may have
  uint32_t word_end_ = 0;
  std::vector<uint8_t> bytes_;
  std::vector<size_t> char_of_;
  std::vector<Piece> pieces_;
};

}  // namespace sbk

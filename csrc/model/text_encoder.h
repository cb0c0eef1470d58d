// The way of one text to its tokens, step by step as in the tokenizers library; used by tokenizer.cpp only.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

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

// The steps of the tokenizers library, each on all that the one before left: tokens in the raw text, normalization,
// tokens in the normalized text, words, pieces.
class TextEncoder {
 public:
  // Keeps the first `keep` tokens and counts all.
  TextEncoder(const Tokenizer& tokenizer, size_t keep) : t_(tokenizer), keep_(keep) {}

  void run(std::string_view text) {
    Chars raw;
    raw.reserve(text.size());
    for (size_t at = 0; at < text.size(); at = raw.back().span.end) raw.push_back(decode_utf8(text, at));
    split(raw, t_.raw_, [&](size_t begin, size_t end) {
      normalize(raw, begin, end);
      split(normal_, t_.normalized_, [&](size_t b, size_t e) { words(normal_, b, e); });
    });
  }

  size_t count = 0;
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

  void put(uint32_t id, Span span) {
    if (count++ >= keep_) return;
    ids.push_back(static_cast<int32_t>(id));
    spans.push_back(span);
  }

  bool has(const Char& c, RecordFlags flag) const { return (t_.record(c.code_point).flags & flag) != 0; }

  // Finds the longest of the trie's tokens from the left and calls `gap` for what lies between them.
  template <class Gap>
  void split(const Chars& chars, const TrieView& trie, Gap gap) {
    const size_t size = chars.size();
    size_t done = 0;
    for (size_t i = 0; i < size && trie.first[1] > 1;) {
      uint32_t node = 0, found = kNone;
      size_t stop = i;
      for (size_t j = i; j < size; j++) {
        uint8_t bytes[4];
        const uint32_t n = encode_utf8(chars[j].code_point, bytes);
        node = trie.walk(node, {reinterpret_cast<const char*>(bytes), n});
        if (node == kNone) break;
        if (trie.value[node] != kNone) found = trie.value[node], stop = j + 1;
      }
      if (found == kNone) {
        i++;
        continue;
      }
      size_t start = i;
      i = stop;
      const Added& token = t_.added_[found];
      if ((token.flags & kSingleWord) != 0 &&
          ((start > 0 && has(chars[start - 1], kWord)) || (stop < size && has(chars[stop], kWord)))) {
        continue;
      }
      if ((token.flags & kStripLeft) != 0) {
        while (start > done && has(chars[start - 1], kSpace)) start--;
        start = std::max(start, done);
      }
      if ((token.flags & kStripRight) != 0) {
        stop = std::max(stop, done);  // white space up to there, if that is further
        while (stop < size && has(chars[stop], kSpace)) stop++;
      }
      stop = std::max(stop, start);
      if (done < start) gap(done, start);
      put(token.id, {chars[start].span.begin, chars[stop - 1].span.end});
      done = stop;
    }
    if (done < size) gap(done, size);
  }

  // Fills normal_.
  void normalize(const Chars& raw, size_t begin, size_t end) {
    normal_.clear();
    span_ = {};
    for (size_t i = begin; i < end; i++) {
      const Char& c = raw[i];
      const Record& record = t_.record(c.code_point);
      if (record.kind == Kind::removed) continue;
      if ((record.flags & kSpaced) != 0) element(' ', &c.span);
      become(c, record);
      if ((record.flags & kSpaced) != 0) element(' ', &c.span);
    }
    order_marks();
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
      marks_.push_back({e, from != nullptr});
      if (from != nullptr) mark_spans_.push_back(*from);
      return;
    }
    order_marks();
    if (from != nullptr) span_ = *from;
    yield(e);
  }

  void yield(uint32_t e) {
    if ((e & kDropped) == 0) normal_.push_back({e & kCodePointMask, span_});
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

  void words(const Chars& chars, size_t begin, size_t end) {
    size_t start = begin;
    for (size_t i = begin; i < end; i++) {
      const uint8_t flags = t_.record(chars[i].code_point).flags;
      if ((flags & (kSpace | kPunctuation)) == 0) continue;
      if (start < i) word(chars, start, i);
      if ((flags & kSpace) == 0) word(chars, i, i + 1);
      start = i + 1;
    }
    if (start < end) word(chars, start, end);
  }

  // The longest token from the left, again and again; all is unknown if one of them is.
  void word(const Chars& chars, size_t begin, size_t end) {
    const uint32_t unknown = t_.header_->unknown;
    const Span whole{chars[begin].span.begin, chars[end - 1].span.end};
    if (end - begin > t_.header_->max_word) return put(unknown, whole);
    bytes_.clear(), char_of_.clear(), pieces_.clear();
    for (size_t i = begin; i < end; i++) {
      uint8_t bytes[4];
      const uint32_t n = encode_utf8(chars[i].code_point, bytes);
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
      if (found == kNone) return put(unknown, whole);
      pieces_.push_back({found, {chars[char_of_[at]].span.begin, chars[char_of_[stop - 1]].span.end}});
      at = stop;
    }
    for (const Piece& piece : pieces_) put(piece.id, piece.span);
  }

  const Tokenizer& t_;
  const size_t keep_;
  Chars normal_;
  Span span_{};  // of the last element yielded
  std::vector<Mark> marks_;
  std::vector<Span> mark_spans_;
  std::vector<uint8_t> bytes_;  // of a word
  std::vector<size_t> char_of_;
  std::vector<Piece> pieces_;
};

}  // namespace sbk

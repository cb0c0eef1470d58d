#include "model/tokenizer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "model/limits.h"
#include "model/text_encoder.h"

namespace sbk {
namespace {

static_assert(std::endian::native == std::endian::little, "tokenizer data is little-endian");

constexpr char kMagic[4] = {'S', 'B', 'K', 'T'};
constexpr uint32_t kVersion = 1;

void replace_all(std::string* text, std::string_view from, std::string_view to) {
  size_t found = text->find(from);
  if (found == std::string::npos) return;
  std::string out;
  size_t done = 0;
  for (; found != std::string::npos; found = text->find(from, done)) {
    out.append(*text, done, found - done).append(to);
    done = found + from.size();
  }
  *text = out.append(*text, done);
}

// Takes spaces before English punctuation away, `do_not` as the decoder of the tokenizers library does.
void clean_up(std::string* text, bool do_not) {
  for (const char* mark : {".", "?", "!", ","}) replace_all(text, std::string(" ") + mark, mark);
  replace_all(text, " ' ", "'");
  for (const char* ending : {"n't", "'m"}) replace_all(text, std::string(" ") + ending, ending);
  if (do_not) replace_all(text, " do not", " don't");
  for (const char* ending : {"'s", "'ve", "'re"}) replace_all(text, std::string(" ") + ending, ending);
}

}  // namespace

// Opening

namespace {

// Collects what is wrong with tokenizer data; only the first finding counts.
class Checks {
 public:
  Checks(const void* data, const TokenizerHeader& header, std::string* error)
      : data_(static_cast<const char*>(data)), header_(header), error_(error) {}

  void that(bool condition, const char* what) {
    if (ok_ && !condition) fail(what);
  }

  // Sections are asked for in their order: each begins where the one before ends, rounded up, and zeros are between.
  template <class T>
  const T* section(Section<T> s, uint64_t least, const char* name) {
    if (!ok_) return nullptr;
    const uint64_t end = s.offset + uint64_t{s.count} * sizeof(T);
    if (s.offset != (end_ + 7) / 8 * 8 || s.count < least || end > header_.bytes) {
      fail(name);
    } else {
      zeros(s.offset, name);
      end_ = end;
    }
    return reinterpret_cast<const T*>(data_ + (ok_ ? s.offset : 0));
  }

  // Whether all `count` elements of an array satisfy a condition.
  template <class T, class Condition>
  void each(const T* array, uint64_t count, const char* name, Condition condition) {
    if (ok_ && !std::all_of(array, array + count, condition)) fail(name);
  }

  // Nothing is behind the last section.
  void end() {
    that(header_.bytes >= end_ && header_.bytes <= (end_ + 7) / 8 * 8, "something is behind its end");
    zeros(header_.bytes, "something is behind its end");
  }

  TrieView trie(const TrieSections& s, uint32_t values, const char* name) {
    TrieView view;
    view.first = section(s.first, 2, name);
    view.value = section(s.value, 1, name);
    view.label = section(s.label, 1, name);
    const uint32_t nodes = view.nodes = s.value.count;
    that(s.first.count == uint64_t{nodes} + 1 && s.label.count == nodes, name);
    // A node's children come behind it, and behind those of all nodes before it.
    for (uint32_t i = 0; ok_ && i < nodes; i++) {
      that(view.first[i] > i && view.first[i] <= view.first[i + 1], name);
      that(view.value[i] == kNone || view.value[i] < values, name);
    }
    that(ok_ && view.first[nodes] <= nodes, name);
    return view;
  }

  bool ok() const { return ok_; }

 private:
  // Between the last section and `begin`.
  void zeros(uint64_t begin, const char* name) {
    if (ok_ && !std::all_of(data_ + end_, data_ + begin, [](char c) { return c == 0; })) fail(name);
  }

  void fail(const char* what) {
    ok_ = false;
    *error_ = std::string("tokenizer data is damaged: ") + what;
  }

  const char* data_;
  const TokenizerHeader& header_;
  std::string* error_;
  uint64_t end_ = sizeof(TokenizerHeader);  // of the last section
  bool ok_ = true;
};

bool within(uint64_t begin, uint64_t count, uint64_t size) { return begin <= size && count <= size - begin; }

}  // namespace

bool Tokenizer::open(const void* data, size_t bytes, std::string* error) {
  *this = Tokenizer();
  const auto refuse = [&](std::string why) {
    *error = "tokenizer data: " + why;
    return false;
  };
  if (data == nullptr || reinterpret_cast<uintptr_t>(data) % 8 != 0) return refuse("it must be 8-byte aligned");
  if (bytes < sizeof(TokenizerHeader)) return refuse("it has only " + std::to_string(bytes) + " bytes");
  const auto& h = *static_cast<const TokenizerHeader*>(data);
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0) return refuse("it does not begin with SBKT");
  if (h.version != kVersion) {
    return refuse("version " + std::to_string(h.version) + ", this library reads " + std::to_string(kVersion));
  }
  if (h.bytes != bytes) {
    return refuse(std::to_string(h.bytes) + " bytes long, but " + (bytes < h.bytes ? "cut to " : "followed by more: ") +
                  std::to_string(bytes));
  }
  if (h.reserved != 0 || (h.flags & ~(kCleanTokens | kCleanText)) != 0) return refuse("a reserved field is not 0");
  if (h.max_word > limits::kWordCharacters) {
    return refuse("words of up to " + std::to_string(h.max_word) + " characters, more than " +
                  std::to_string(limits::kWordCharacters));
  }
  if (h.added.count > limits::kAddedTokens) {
    return refuse(std::to_string(h.added.count) + " added tokens, more than " + std::to_string(limits::kAddedTokens));
  }
  for (const TrieSections* trie : {&h.raw, &h.normalized}) {
    if (trie->value.count > limits::kAddedTokenNodes) {
      return refuse("the added tokens are longer than " + std::to_string(limits::kAddedTokenNodes) + " bytes in all");
    }
  }

  Tokenizer t;
  Checks checks(data, h, error);
  t.header_ = &h;
  t.page_index_ = checks.section(h.page_index, kCodePoints / kPage, "page_index");
  t.pages_ = checks.section(h.pages, 0, "pages");
  t.records_ = checks.section(h.records, 1, "records");
  t.elements_ = checks.section(h.elements, 0, "elements");
  t.token_offsets_ = checks.section(h.token_offsets, 2, "token_offsets");
  t.text_ = checks.section(h.text, 0, "text");
  if (!checks.ok()) return false;

  const uint32_t text_bytes = h.text.count, tokens = h.token_offsets.count - 1;
  checks.each(t.page_index_, kCodePoints / kPage, "page_index",
              [&](uint16_t page) { return (page + uint64_t{1}) * kPage <= h.pages.count; });
  checks.each(t.pages_, h.pages.count, "pages", [&](uint16_t record) { return record < h.records.count; });
  checks.each(t.records_, h.records.count, "records", [&](const Record& r) {
    constexpr uint8_t known = kSpace | kPunctuation | kWord | kSpaced;
    return r.kind <= Kind::hangul && (r.flags & ~known) == 0 &&
           (r.kind != Kind::list ||
            (r.operand >= 0 && within(static_cast<uint32_t>(r.operand), r.count, h.elements.count)));
  });
  checks.that(tokens <= uint32_t{std::numeric_limits<int32_t>::max()}, "token_offsets");
  uint32_t last = 0;
  checks.each(t.token_offsets_, h.token_offsets.count, "token_offsets", [&](uint32_t offset) {
    const bool rises = offset >= last && offset <= text_bytes && offset - last <= limits::kTokenBytes;
    last = offset;
    return rises;
  });
  t.vocabulary_ = checks.trie(h.vocabulary, tokens, "vocabulary");
  t.added_ = checks.section(h.added, 0, "added");
  int64_t last_id = -1;
  checks.each(t.added_, h.added.count, "added", [&](const Added& a) {
    const bool rises = a.id > last_id && a.id < tokens;
    last_id = a.id;
    constexpr uint32_t known = kSingleWord | kStripLeft | kStripRight | kSpecial;
    return rises && (a.flags & ~known) == 0 && within(a.text, a.text_bytes, text_bytes) &&
           a.text_bytes <= limits::kTokenBytes;
  });
  for (const uint32_t id : {h.unknown, h.cls, h.sep}) checks.that(id < tokens, "ids of special tokens");
  for (const uint32_t id : {h.pad, h.mask}) checks.that(id == kNone || id < tokens, "ids of special tokens");
  for (const Section<uint8_t>& prefix : {h.continuing, h.decoded}) {
    checks.that(within(prefix.offset, prefix.count, text_bytes), "prefixes");
  }
  const TrieView raw = checks.trie(h.raw, h.added.count, "raw");
  const TrieView normalized = checks.trie(h.normalized, h.added.count, "normalized");
  checks.end();
  if (!checks.ok()) return false;
  std::string why;
  if (!t.raw_.build(raw, &why) || !t.normalized_.build(normalized, &why)) return refuse(why);
  for (uint32_t node = 0; node < raw.nodes; node++) {
    if (raw.value[node] != kNone && (t.added_[raw.value[node]].flags & kStripLeft) != 0) t.strips_left_ = true;
  }
  t.continuing_ = t.vocabulary_.walk(0, t.text(h.continuing));
  *this = std::move(t);
  return true;
}

// Encoding and decoding

namespace {

// How many tokens of each text stay, out of n[0] and n[1], within `room`; as the library does, ties included.
const char* truncate(Truncation truncation, bool is_pair, size_t room, std::array<size_t, 2>* n) {
  const size_t total = (*n)[0] + (*n)[1];
  if (total <= room) return nullptr;
  if (truncation == Truncation::none) return "and truncation is off";
  if (room == 0) {
    *n = {0, 0};
    return nullptr;
  }
  if (truncation == Truncation::longest_first) {
    if (!is_pair) {
      (*n)[0] = room;
      return nullptr;
    }
    const bool first_is_longer = (*n)[0] > (*n)[1];
    size_t shorter = std::min((*n)[0], (*n)[1]);
    size_t longer = shorter > room ? shorter : std::max(shorter, room - shorter);
    if (shorter + longer > room) shorter = room / 2, longer = room - room / 2;
    *n = first_is_longer ? std::array{longer, shorter} : std::array{shorter, longer};
    return nullptr;
  }
  const size_t which = truncation == Truncation::only_second ? 1 : 0;
  if (which == 1 && !is_pair) return "and there is no second text to truncate";
  if ((*n)[which] <= total - room) return "and truncating only one of the texts is not enough";
  (*n)[which] -= total - room;
  return nullptr;
}

}  // namespace

bool Tokenizer::encode(std::string_view text, const std::string_view* pair, int64_t max_length, Truncation truncation,
                       Encoding* out, std::string* error) const {
  *out = {};
  const size_t special = pair != nullptr ? 3 : 2;
  if (text.size() > limits::kTextBytes || (pair != nullptr && pair->size() > limits::kTextBytes)) {
    *error = "text is longer than " + std::to_string(limits::kTextBytes) + " bytes";
    return false;
  }
  if (max_length < 0 || (max_length > 0 && static_cast<uint64_t>(max_length) < special)) {
    *error =
        "max_length is " + std::to_string(max_length) + ", the special tokens alone are " + std::to_string(special);
    return false;
  }
  const size_t room = max_length == 0 ? std::numeric_limits<size_t>::max() : static_cast<size_t>(max_length) - special;
  TextEncoder first(*this, room, false), second(*this, room, false);
  first.run(text);
  if (pair != nullptr) second.run(*pair);
  std::array<size_t, 2> counts{first.count, second.count};
  // Of two texts that are both too long the longer one gets the odd token.
  if (truncation == Truncation::longest_first && std::min(counts[0], counts[1]) > room && room % 2 == 1) {
    TextEncoder all(*this, 0, true), all_of_pair(*this, 0, true);
    all.run(text), all_of_pair.run(*pair);
    counts = {all.count, all_of_pair.count};
  }
  if (const char* why = truncate(truncation, pair != nullptr, room, &counts)) {
    *error = "text has more than max_length=" + std::to_string(max_length) + " tokens, " + why;
    return false;
  }
  const auto put = [&](int32_t id, int32_t type, bool is_special, Span span) {
    out->ids.push_back(id);
    out->type_ids.push_back(type);
    out->special.push_back(is_special ? 1 : 0);
    out->spans.push_back(span);
  };
  put(cls(), 0, true, {});
  for (size_t i = 0; i < counts[0]; i++) put(first.ids[i], 0, false, first.spans[i]);
  put(sep(), 0, true, {});
  if (pair != nullptr) {
    for (size_t i = 0; i < counts[1]; i++) put(second.ids[i], 1, false, second.spans[i]);
    put(sep(), 1, true, {});
  }
  return true;
}

const Added* Tokenizer::added(uint32_t id) const {
  const Added* end = added_ + header_->added.count;
  const Added* found = std::lower_bound(added_, end, id, [](const Added& a, uint32_t wanted) { return a.id < wanted; });
  return found != end && found->id == id ? found : nullptr;
}

std::optional<std::string_view> Tokenizer::token(int64_t id) const {
  if (id < 0 || id >= size()) return std::nullopt;
  const uint32_t begin = token_offsets_[id], end = token_offsets_[id + 1];
  if (begin == end && vocabulary_.value[0] != id) return std::nullopt;
  return text(begin, end - begin);
}

std::optional<int32_t> Tokenizer::id(std::string_view token) const {
  // Tokens that were added lie in no trie as they are if they are looked for in normalized text; they are few.
  for (uint32_t i = 0; i < header_->added.count; i++) {
    if (this->token(added_[i].id) == token) return static_cast<int32_t>(added_[i].id);
  }
  const uint32_t node = vocabulary_.walk(0, token);
  if (node == kNone || vocabulary_.value[node] == kNone) return std::nullopt;
  return static_cast<int32_t>(vocabulary_.value[node]);
}

std::string Tokenizer::decode(const int32_t* ids, size_t count, bool skip_special) const {
  const std::string_view prefix = text(header_->decoded);
  std::string out, piece;
  bool is_first = true;
  for (size_t i = 0; i < count; i++) {
    std::optional<std::string_view> found = token(ids[i]);
    if (!found) continue;
    if (const Added* a = added(static_cast<uint32_t>(ids[i]))) {
      if (skip_special && (a->flags & kSpecial) != 0) continue;
      found = text(a->text, a->text_bytes);
    }
    piece = *found;
    if (!is_first && piece.starts_with(prefix)) {
      piece.erase(0, prefix.size());
    } else if (!is_first) {
      piece.insert(0, 1, ' ');
    }
    is_first = false;
    if ((header_->flags & kCleanTokens) != 0) clean_up(&piece, true);
    out += piece;
  }
  if ((header_->flags & kCleanText) != 0) clean_up(&out, false);
  return out;
}

}  // namespace sbk

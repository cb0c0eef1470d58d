// model/tokenizer.h on tokenizer data made by hand: what open() refuses, and that nothing that it lets pass is unsafe.
// Under AddressSanitizer this is where reads out of bounds show. That ids are right is for
// tests/export/test_native_tokenizer.py.
#include <chrono>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"
#include "support/check.h"
#include "support/random.h"

namespace {

using namespace sbk;

// The smallest data that has a bit of everything.
class Builder {
 public:
  Builder() {
    std::memcpy(header_.magic, "SBKT", 4);
    header_.version = 1;
    header_.flags = kCleanTokens | kCleanText;
    header_.max_word = 20;
    header_.unknown = 1, header_.cls = 2, header_.sep = 3, header_.pad = 0, header_.mask = 4;

    records_ = {{Kind::removed, 0, 0, 0, 0},
                {Kind::shift, 0, 0, 0, 0},             // letters
                {Kind::shift, kSpace, 0, 0, 0},        // ' '
                {Kind::shift, kPunctuation, 0, 0, 0},  // . [ ]
                {Kind::shift, 0, 0, 0, 'a' - 'A'},     // A .. Z
                {Kind::shift, kSpaced, 0, 0, 0},       // U+4E00 ..
                {Kind::list, 0, 0, 2, 0},              // U+00E9
                {Kind::dropped, 0, 230, 0, 0},         // U+0301
                {Kind::shift, 0, 224, 0, 0},           // U+0316, as if it were kept
                {Kind::hangul, 0, 0, 0, 0},            // U+AC00 ..
                {Kind::shift, 0, 0, 0, 0x7fffffff}};   // far out of range
    const std::vector<uint32_t> elements{'e', 0x301 | kDropped | 230u << 24};
    std::vector<uint16_t> index(kCodePoints / kPage), pages;
    const std::map<uint32_t, uint16_t> special{{' ', 2},  {'.', 3},   {'[', 3},   {']', 3},
                                               {0xe9, 6}, {0x301, 7}, {0x316, 8}, {0, 0}};
    std::map<std::vector<uint16_t>, uint16_t> numbers;
    for (uint32_t page = 0; page < index.size(); page++) {
      std::vector<uint16_t> records;
      for (uint32_t c = page * kPage; c < (page + 1) * kPage; c++) {
        const auto found = special.find(c);
        const bool is_cjk = c >= 0x4e00 && c < 0xa000, is_hangul = c >= 0xac00 && c < 0xac00 + 11172;
        const uint16_t other = c >= 'A' && c <= 'Z' ? 4 : is_cjk ? 5 : is_hangul ? 9 : c >= 0x10ff00 ? 10 : 1;
        records.push_back(found != special.end() ? found->second : other);
      }
      const auto [at, is_new] = numbers.emplace(records, static_cast<uint16_t>(numbers.size()));
      if (is_new) pages.insert(pages.end(), records.begin(), records.end());
      index[page] = at->second;
    }
    const std::vector<std::string> tokens{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a",  "ab", "##b",
                                          "##bc",  "e",     ".",     "[",     "\u4e00", "##", "",   "don"};
    std::vector<uint32_t> offsets{0};
    std::string all;
    std::map<std::string, uint32_t> vocabulary;
    for (const std::string& token : tokens) {
      if (!token.empty()) vocabulary[token] = static_cast<uint32_t>(offsets.size() - 1);
      all += token;
      offsets.push_back(static_cast<uint32_t>(all.size()));
    }
    const std::vector<Added> added{
        {0, kSpecial, 0, 5}, {4, kSpecial | kStripLeft | kStripRight, 20, 6}, {15, kSingleWord, 0, 3}};
    header_.continuing = header_.decoded = {static_cast<uint32_t>(all.find("##b")), 2};
    put(&header_.page_index, index);
    put(&header_.pages, pages);
    put(&header_.records, records_);
    put(&header_.elements, elements);
    put(&header_.token_offsets, offsets);
    put(&header_.text, std::vector<uint8_t>(all.begin(), all.end()));
    put(&header_.vocabulary, vocabulary);
    put(&header_.added, added);
    put(&header_.raw, {{"[PAD]", 0}, {"[MASK]", 1}});
    put(&header_.normalized, {{"don", 2}});
    header_.bytes = sizeof header_ + body_.size();
  }

  // 8-byte aligned, and with no slack behind: the sanitizer sees what reads too far.
  std::vector<uint64_t> data() const {
    std::vector<uint64_t> out((sizeof header_ + body_.size()) / 8);
    std::memcpy(out.data(), &header_, sizeof header_);
    std::memcpy(reinterpret_cast<char*>(out.data()) + sizeof header_, body_.data(), body_.size());
    return out;
  }

 private:
  template <class T>
  void put(Section<T>* section, const std::vector<T>& values) {
    *section = {static_cast<uint32_t>(sizeof header_ + body_.size()), static_cast<uint32_t>(values.size())};
    const size_t at = body_.size();
    body_.resize(at + (values.size() * sizeof(T) + 7) / 8 * 8);
    if (!values.empty()) std::memcpy(body_.data() + at, values.data(), values.size() * sizeof(T));
  }

  void put(TrieSections* sections, const std::map<std::string, uint32_t>& tokens) {
    std::vector<std::string> nodes{""};
    std::vector<uint32_t> first, value;
    std::vector<uint8_t> label{0};
    for (size_t i = 0; i < nodes.size(); i++) {
      const std::string node = nodes[i];
      first.push_back(static_cast<uint32_t>(nodes.size()));
      const auto found = tokens.find(node);
      value.push_back(found == tokens.end() ? kNone : found->second);
      for (int byte = 1; byte < 256; byte++) {
        const std::string child = node + static_cast<char>(byte);
        bool used = false;
        for (const auto& token : tokens) used = used || token.first.starts_with(child);
        if (used) nodes.push_back(child), label.push_back(static_cast<uint8_t>(byte));
      }
    }
    first.push_back(static_cast<uint32_t>(nodes.size()));
    put(&sections->first, first);
    put(&sections->value, value);
    put(&sections->label, label);
  }

  TokenizerHeader header_{};
  std::vector<Record> records_;
  std::string body_;
};

const std::vector<uint64_t>& sample() {
  static const std::vector<uint64_t> data = Builder().data();
  return data;
}

std::string why_refused(const std::vector<uint64_t>& data, size_t bytes) {
  Tokenizer tokenizer;
  std::string error;
  return tokenizer.open(data.data(), bytes, &error) ? "" : error;
}

std::vector<int32_t> ids(const Tokenizer& tokenizer, std::string_view text) {
  Encoding out;
  std::string error;
  return tokenizer.encode(text, nullptr, 0, Truncation::none, &out, &error) ? out.ids : std::vector<int32_t>{};
}

const std::vector<std::string>& texts() {
  static const std::vector<std::string> all = {
      "",
      "ab Abc abb. \xc3\xa9 e\xcc\x81\xcc\x96 don't don dona",
      "a [MASK]  b[PAD]\xe4\xb8\x80\xe4\xb8\x81\xea\xb0\x81\xea\xb0\x80",
      std::string("a\0b", 3),
      "\xff\xc3\xe4\xb8\xf0\x9f\x98\xed\xa0\x80\xf4\x90\x80\x80\xc0\xaf\xe4",
      "\xf4\x8f\xbf\xbf \xf4\x8f\xbf\xbe",
      std::string(300, 'a'),
  };
  return all;
}

// Everything that reads the data.
void use(const Tokenizer& tokenizer) {
  for (const std::string& first : texts()) {
    const std::string_view second = texts()[2];
    for (const int64_t max_length : {0, 5}) {
      Encoding out;
      std::string error;
      tokenizer.encode(first, &second, max_length, Truncation::longest_first, &out, &error);
      tokenizer.decode(out.ids.data(), out.ids.size());
    }
  }
  std::vector<int32_t> all{-1, 0x7fffffff};
  for (int32_t i = 0; i < std::min<int64_t>(tokenizer.size(), 40); i++) {
    all.push_back(i);
    if (const auto token = tokenizer.token(i)) tokenizer.id(*token);
  }
  tokenizer.decode(all.data(), all.size(), false);
}

}  // namespace

TEST(sample_works) {
  Tokenizer t;
  std::string error;
  CHECK(t.open(sample().data(), sample().size() * 8, &error));
  CHECK_EQ(error, "");
  CHECK((ids(t, "ab Abc abb.") == std::vector<int32_t>{2, 6, 1, 6, 7, 10, 3}));
  CHECK((ids(t, "\xc3\xa9 e\xcc\x81 zz") == std::vector<int32_t>{2, 9, 9, 1, 3}));
  CHECK((ids(t, "a [MASK]  b[PAD]\xe4\xb8\x80") == std::vector<int32_t>{2, 5, 4, 1, 0, 12, 3}));
  CHECK((ids(t, std::string(21, 'a')) == std::vector<int32_t>{2, 1, 3}));
  const std::vector<int32_t> back{2, 6, 7, 10, 4, 14, 99, -5, 3};
  CHECK_EQ(t.decode(back.data(), back.size()), "[CLS] abb. [SEP]");
  use(t);
}

TEST(damaged_headers_are_refused) {
  const size_t bytes = sample().size() * 8;
  CHECK(why_refused(sample(), 0).find("only 0 bytes") != std::string::npos);
  CHECK(why_refused(sample(), bytes - 1).find("cut to") != std::string::npos);
  Tokenizer t;
  std::string error;
  CHECK(!t.open(reinterpret_cast<const char*>(sample().data()) + 4, bytes - 8, &error));
  CHECK(error.find("8-byte aligned") != std::string::npos);
  CHECK(!t.open(nullptr, 0, &error));

  const auto with = [&](auto change) {
    std::vector<uint64_t> data = sample();
    change(*reinterpret_cast<TokenizerHeader*>(data.data()));
    return why_refused(data, bytes);
  };
  CHECK(with([](TokenizerHeader& h) { h.magic[0] = 'X'; }).find("SBKT") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.version = 2; }).find("version 2") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.reserved = 1; }).find("reserved") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.flags = 4; }).find("reserved") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.max_word = 1025; }).find("1025 characters, more than 1024") !=
        std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.added.count = 70000; }).find("70000 added tokens") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.raw.value.count = 2000000; }).find("longer than") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.bytes += 8; }).find("cut to") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.bytes -= 8; }).find("followed by more") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.sep = 16; }).find("special tokens") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.pad = 16; }).find("special tokens") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.continuing.count = 1000; }).find("prefixes") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.pages.count -= kPage; }).find("damaged") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.records.count = 10; }).find("damaged") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.elements.count = 0; }).find("damaged") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.token_offsets.offset += 4; }).find("token_offsets") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.text.offset = 0xfffffff8; }).find("text") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.vocabulary.first.count--; }).find("vocabulary") != std::string::npos);
  CHECK(with([](TokenizerHeader& h) { h.added.count = 1; }).find("raw") != std::string::npos);
}

// One to four bytes changed, often to values that sizes and offsets stumble over.
TEST(mutations_do_no_harm) {
  test::Random random(7);
  const size_t bytes = sample().size() * 8, index = sizeof(TokenizerHeader) + kCodePoints / kPage * 2;
  int64_t passed = 0;
  for (int round = 0; round < 3000; round++) {
    std::vector<uint64_t> data = sample();
    auto* raw = reinterpret_cast<uint8_t*>(data.data());
    const int changes = 1 + static_cast<int>(random.bits() % 4);
    for (int i = 0; i < changes; i++) {
      // The index of pages is most of the data: mostly elsewhere.
      size_t at = random.bits() % bytes;
      if (random.bits() % 8 != 0 && at < index) {
        at = random.bits() % 2 != 0 ? random.bits() % sizeof(TokenizerHeader) : index + random.bits() % (bytes - index);
      }
      const uint8_t values[] = {
          0, 1, 0x7f, 0x80, 0xff, static_cast<uint8_t>(raw[at] + 1), static_cast<uint8_t>(random.bits())};
      raw[at] = values[random.bits() % sizeof values];
    }
    Tokenizer t;
    std::string error;
    if (!t.open(data.data(), bytes, &error)) {
      CHECK(!error.empty());
      continue;
    }
    passed++;
    use(t);
  }
  CHECK(passed > 100);
}

// Time is linear: none of these may take what a quadratic step would, which is minutes.
TEST(hostile_texts_take_no_time) {
  Tokenizer t;
  std::string error;
  CHECK(t.open(sample().data(), sample().size() * 8, &error));
  const auto many = [](std::string_view part) {
    std::string out;
    while (out.size() < 1000000) out += part;
    return out;
  };
  for (const std::string& hostile :
       {many("a"), many("[MASK] "), many("[MASK"), many(" "), many("abababababababababab "), many("\xcc\x81\xcc\x96"),
        many("\xe4\xb8\x80"), many("\xff"), "[MASK]" + many(" ") + "[MASK]", many("don ")}) {
    const auto start = std::chrono::steady_clock::now();
    Encoding out;
    CHECK(t.encode(hostile, nullptr, 512, Truncation::longest_first, &out, &error));
    CHECK(out.ids.size() <= 512);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    CHECK(seconds.count() < 20);
  }
}

// model/token_finder.h beside the plain way: the longest token at each place, from the left.
#include "model/token_finder.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "support/check.h"
#include "support/cpu_time.h"
#include "support/random.h"

namespace {

using namespace sbk;

struct Found {
  uint32_t value;
  uint64_t begin, end;
  bool operator==(const Found&) const = default;
};

// A trie with its arrays, whose tokens are numbered in order.
struct Trie {
  std::vector<uint32_t> first, value;
  std::vector<uint8_t> label{0};
  TrieView view;

  explicit Trie(std::vector<std::string> tokens) {
    std::sort(tokens.begin(), tokens.end());
    struct Node {
      size_t begin, end, depth;
    };
    std::vector<Node> nodes{{0, tokens.size(), 0}};
    for (size_t i = 0; i < nodes.size(); i++) {
      Node n = nodes[i];
      first.push_back(static_cast<uint32_t>(nodes.size()));
      value.push_back(kNone);
      while (n.begin < n.end && tokens[n.begin].size() == n.depth) value.back() = static_cast<uint32_t>(n.begin++);
      while (n.begin < n.end) {
        const char byte = tokens[n.begin][n.depth];
        size_t stop = n.begin;
        while (stop < n.end && tokens[stop][n.depth] == byte) stop++;
        nodes.push_back({n.begin, stop, n.depth + 1});
        label.push_back(static_cast<uint8_t>(byte));
        n.begin = stop;
      }
    }
    first.push_back(static_cast<uint32_t>(nodes.size()));
    view = {first.data(), value.data(), label.data(), static_cast<uint32_t>(value.size())};
  }
};

size_t character(std::string_view text, size_t at) {
  size_t bytes = 1;
  while (at + bytes < text.size() && (static_cast<uint8_t>(text[at + bytes]) & 0xc0) == 0x80) bytes++;
  return bytes;
}

std::vector<Found> plainly(const TrieView& trie, std::string_view text) {
  std::vector<Found> all;
  uint64_t number = 0;
  for (size_t at = 0; at < text.size();) {
    uint32_t node = 0, value = kNone;
    uint64_t characters = 0, of_found = 0;
    size_t end = at;
    for (size_t i = at; i < text.size() && node != kNone;) {
      const size_t bytes = character(text, i);
      node = trie.walk(node, text.substr(i, bytes));
      i += bytes, characters++;
      if (node != kNone && trie.value[node] != kNone) value = trie.value[node], end = i, of_found = characters;
    }
    if (value == kNone) {
      at += character(text, at), number++;
    } else {
      all.push_back({value, number, number + of_found});
      at = end, number += of_found;
    }
  }
  return all;
}

std::vector<Found> linked(const LinkedTrie& trie, std::string_view text) {
  std::vector<Found> all;
  TokenFinder finder(trie);
  uint64_t number = 0, settled = 0;
  const auto add = [&](uint32_t value, uint64_t begin, uint64_t end) {
    CHECK(begin >= settled && end <= number + 1);
    all.push_back({value, begin, end});
  };
  for (size_t at = 0; at < text.size(); number++) {
    const size_t bytes = character(text, at);
    finder.push(reinterpret_cast<const uint8_t*>(text.data()) + at, static_cast<uint32_t>(bytes), add);
    CHECK(finder.settled() >= settled && finder.settled() <= number + 1);
    settled = finder.settled();
    at += bytes;
  }
  finder.finish(add);
  CHECK_EQ(finder.settled(), number);
  return all;
}

std::string random_text(test::Random& random, int64_t most) {
  constexpr const char* letters[] = {"a", "b", " ", "\xc3\xa9", "\xc3\xa8", "\xe4\xb8\x80", "\xf0\x9f\x98\x80"};
  const int64_t kinds = 1 + random.below(7);
  std::string text;
  for (int64_t i = 1 + random.below(most); i > 0; i--) text += letters[random.below(kinds)];
  return text;
}

}  // namespace

TEST(the_same_as_plainly) {
  test::Random random(1);
  for (int round = 0; round < 3000; round++) {
    std::vector<std::string> tokens;
    for (int64_t i = random.below(7); i >= 0; i--) tokens.push_back(random_text(random, 8));
    std::sort(tokens.begin(), tokens.end());
    tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
    const Trie trie(tokens);
    LinkedTrie links;
    std::string error;
    CHECK(links.build(trie.view, &error));
    for (int i = 0; i < 4; i++) {
      std::string text = random_text(random, 40);
      if (i == 3) {  // made of them
        text.clear();
        for (int j = 0; j < 6; j++)
          text += tokens[static_cast<size_t>(random.below(static_cast<int64_t>(tokens.size())))];
      }
      const test::Context where([&] {
        std::string all = "'" + text + "' with";
        for (const std::string& token : tokens) all += " '" + token + "'";
        return all;
      });
      CHECK(linked(links, text) == plainly(trie.view, text));
    }
  }
}

TEST(what_is_no_text_is_refused) {
  for (const char* token : {"\x80", "a\x80", "\xc3", "\xc3\x61", "\xe4\xb8", "\xff", "\xc3\xa9\xa9"}) {
    LinkedTrie links;
    std::string error;
    CHECK(!links.build(Trie({token, "good"}).view, &error));
    CHECK(error.find("UTF-8") != std::string::npos);
  }
}

// Long tokens of which the text has everything but the end, at every place.
TEST(time_does_not_depend_on_the_length_of_tokens) {
  const auto seconds = [](size_t length, size_t bytes, int kind) {
    const std::string run(length, 'a');
    std::vector<std::string> tokens;
    if (kind == 0) tokens = {run + "b"};
    if (kind == 1) tokens = {"a", run + "b"};
    if (kind == 2) tokens = {"a", "aa", run + "b", run + "c", "b" + run + "d"};
    if (kind == 3) {
      for (size_t i = 1; i < length; i += length / 10) tokens.push_back(run.substr(0, i) + "b");
    }
    const Trie trie(tokens);
    LinkedTrie links;
    std::string error;
    const std::string text(bytes, 'a');
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
      const double before = test::cpu_seconds();
      CHECK(links.build(trie.view, &error));
      TokenFinder finder(links);
      uint64_t found = 0;
      for (const char& c : text) {
        finder.push(reinterpret_cast<const uint8_t*>(&c), 1, [&](uint32_t, uint64_t, uint64_t) { found++; });
      }
      finder.finish([&](uint32_t, uint64_t, uint64_t) { found++; });
      CHECK((found > 0) == (kind == 1 || kind == 2));
      best = std::min(best, test::cpu_seconds() - before);
    }
    return best;
  };
  for (int kind = 0; kind < 4; kind++) {
    const double shorter = seconds(20, 200'000, kind), longer = seconds(20'000, 200'000, kind);
    const double twice = seconds(20'000, 400'000, kind);
    const test::Context where([&] { return test::text("kind ", kind, ": ", shorter, " ", longer, " ", twice, " s"); });
    CHECK(longer < 12 * shorter);  // a thousand times if every place were tried
    CHECK(twice < 6 * longer);
  }
}

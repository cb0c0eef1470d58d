// Added tokens in text: the longest from the left, again and again, in time that is linear in the text and in the
// tokens' lengths.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer_data.h"

namespace sbk {

// A trie in place (tokenizer_data.h); nodes are numbers, kNone is no node.
struct TrieView {
  const uint32_t* first = nullptr;
  const uint32_t* value = nullptr;
  const uint8_t* label = nullptr;
  uint32_t nodes = 0;

  uint32_t child(uint32_t node, uint8_t byte) const;
  uint32_t walk(uint32_t node, std::string_view bytes) const;
};

// A trie with a link for every node v, the string s_v: where to go on when no token goes on behind it. By then it is
// settled which tokens are in s_v but for its longest end that may still begin one. `fail` is the node of that end, and
// `found` the tokens before it. So no byte of a text is looked at twice.
//
// The tokens of many nodes are those of other nodes and a few more: they are stored as references, and a reference to
// one entry is that entry, so that listing takes time linear in what is listed.
class LinkedTrie {
 public:
  LinkedTrie() = default;
  // False, with a message in `error`: the tokens are no UTF-8, or repeat one another too much.
  bool build(const TrieView& trie, std::string* error);

  bool empty() const { return trie_.nodes <= 1; }

 private:
  friend class TokenFinder;
  struct Entry {
    uint32_t node, offset;  // in characters, from where the string of the entry's owner begins
    bool is_token;          // else: what was found in `node`
  };

  bool check_characters(std::string* error);

  TrieView trie_;
  std::vector<uint32_t> fail_, characters_;
  std::vector<uint32_t> first_entry_;  // entries of node v: [first_entry_[v], first_entry_[v + 1])
  std::vector<Entry> entries_;
};

// The tokens of one text, which comes character by character.
class TokenFinder {
 public:
  explicit TokenFinder(const LinkedTrie& trie) : t_(trie) {}

  void reset() { node_ = 0, seen_ = 0; }

  // match(value, begin, end): a token and its characters, counted from reset(), in order.
  template <class Match>
  void push(const uint8_t* utf8, uint32_t bytes, const Match& match) {
    for (uint32_t i = 0; i < bytes; i++) {
      uint32_t next;
      while ((next = t_.trie_.child(node_, utf8[i])) == kNone && node_ != 0) fall(match);
      if (next != kNone) node_ = next;
      if (i == 0) seen_++;
    }
  }

  // push() of a character that begins no token, where none has begun: false otherwise.
  bool skip(uint8_t first_byte) {
    if (node_ != 0 || t_.trie_.child(0, first_byte) != kNone) return false;
    seen_++;
    return true;
  }

  // At the end of the text.
  template <class Match>
  void finish(const Match& match) {
    while (node_ != 0) fall(match);
  }

  // Every character before it is in a token that was told, or in none.
  uint64_t settled() const { return seen_ - t_.characters_[node_]; }

 private:
  template <class Match>
  void fall(const Match& match) {
    list(node_, settled(), match);
    node_ = t_.fail_[node_];
  }

  struct Part {
    uint32_t at, end;  // entries that are left
    uint64_t begin;    // the character that their offsets count from
  };

  template <class Match>
  void list(uint32_t node, uint64_t begin, const Match& match) {
    parts_.assign(1, {t_.first_entry_[node], t_.first_entry_[node + 1], begin});
    while (!parts_.empty()) {
      Part& part = parts_.back();
      if (part.at == part.end) {
        parts_.pop_back();
        continue;
      }
      const LinkedTrie::Entry& entry = t_.entries_[part.at++];
      const uint64_t from = part.begin + entry.offset;
      if (entry.is_token) {
        match(t_.trie_.value[entry.node], from, from + t_.characters_[entry.node]);
      } else {
        parts_.push_back({t_.first_entry_[entry.node], t_.first_entry_[entry.node + 1], from});
      }
    }
  }

  const LinkedTrie& t_;
  uint32_t node_ = 0;
  uint64_t seen_ = 0;  // characters, with the one that is being read
  std::vector<Part> parts_;
};

}  // namespace sbk

#include "model/token_finder.h"

#include <algorithm>

namespace sbk {

uint32_t TrieView::child(uint32_t node, uint8_t byte) const {
  const uint8_t* begin = label + first[node];
  const uint8_t* end = label + first[node + 1];
  const uint8_t* found = std::lower_bound(begin, end, byte);
  return found != end && *found == byte ? static_cast<uint32_t>(found - label) : kNone;
}

uint32_t TrieView::walk(uint32_t node, std::string_view bytes) const {
  for (size_t i = 0; i < bytes.size() && node != kNone; i++) node = child(node, static_cast<uint8_t>(bytes[i]));
  return node;
}

// Counts characters, and makes sure that tokens begin and end with whole ones.
bool LinkedTrie::check_characters(std::string* error) {
  std::vector<uint8_t> missing(trie_.nodes);  // bytes of the last character
  characters_.assign(trie_.nodes, 0);
  for (uint32_t u = 0; u < trie_.nodes; u++) {
    for (uint32_t v = trie_.first[u]; v < trie_.first[u + 1]; v++) {
      const uint8_t byte = trie_.label[v];
      const bool goes_on = (byte & 0xc0) == 0x80;
      if (goes_on != (missing[u] > 0) || byte > 0xf7) {
        *error = "added tokens that are no UTF-8";
        return false;
      }
      const int more = byte < 0xc0 ? 0 : byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
      missing[v] = static_cast<uint8_t>(goes_on ? missing[u] - 1 : more);
      characters_[v] = characters_[u] + (goes_on ? 0 : 1);
      if (missing[v] > 0 && trie_.value[v] != kNone) {
        *error = "added tokens that are no UTF-8";
        return false;
      }
    }
  }
  return true;
}

bool LinkedTrie::build(const TrieView& trie, std::string* error) {
  trie_ = trie;
  if (!check_characters(error)) return false;
  fail_.assign(trie.nodes, 0);
  entries_.clear();
  first_entry_.assign(1, 0);
  first_entry_.reserve(trie.nodes + 1);
  // Ranges of children are disjoint and in order: v counts all nodes, but for those that nothing leads to.
  const uint64_t most = 64 * uint64_t{trie.nodes} + 4096;
  uint64_t steps = 0;
  first_entry_.resize(std::min(trie.first[0], trie.nodes) + 1, 0);
  for (uint32_t u = 0; u < trie.nodes; u++) {
    for (uint32_t v = trie.first[u]; v < trie.first[u + 1]; v++) {
      if (trie.value[v] != kNone) {
        entries_.push_back({v, 0, true});
      } else {
        const uint8_t byte = trie.label[v];
        uint32_t at = u, next = kNone;
        // The root's children go on with nothing that was before.
        while (at != 0) {
          const uint32_t begin = first_entry_[at], count = first_entry_[at + 1] - begin;
          const uint32_t offset = characters_[u] - characters_[at];
          if (count == 1) {
            const Entry only = entries_[begin];
            entries_.push_back({only.node, only.offset + offset, only.is_token});
          } else if (count > 1) {
            entries_.push_back({at, offset, false});
          }
          at = fail_[at];
          next = trie.child(at, byte);
          if (++steps > most) {
            *error = "added tokens that repeat one another too much";
            return false;
          }
          if (next != kNone) break;
        }
        fail_[v] = next != kNone ? next : 0;
      }
      first_entry_.push_back(static_cast<uint32_t>(entries_.size()));
    }
  }
  first_entry_.resize(trie.nodes + 1, static_cast<uint32_t>(entries_.size()));
  return true;
}

}  // namespace sbk

// Tokenizer data: the one form in which a BERT tokenizer is stored and used, written by tokenizer_data.py.
//
// Everything is little-endian and read where it lies; loading makes no copies. A section begins at a multiple of 8 and
// is `count` elements long:
//
//   |TokenizerHeader|page_index|pages|records|elements|token_offsets|text|vocabulary trie|added|raw trie|normalized
//   trie|
//
// Code points.   record(c) = records[pages[128 * page_index[c / 128] + c % 128]]
//
// says what the normalizer makes of the code point c alone, as elements (below), and how the pre-tokenizer splits at c
// when c comes out of the normalizer. What comes of several code points is what comes of each, except for order: an
// element has a canonical combining class, and within a run of elements of class > 0 they are sorted by it, stably
// (NFD). A removed code point has no part in this. A dropped element (a mark that is stripped) takes part in it and
// then yields nothing: it decides which bytes of the text the marks that stay are said to come from.
//
//   element:   bits 0..20 the code point,  bit 21 dropped,  bits 24..31 the class
//
// Tokens.   token i is text[token_offsets[i] .. token_offsets[i + 1]);  an empty one is no token, unless the vocabulary
// has an empty one. Tokens are found by tries over bytes whose nodes lie in breadth-first order, so that the children
// of a node are neighbours, sorted by label:
//
//   children(n) = first[n] .. first[n + 1] - 1        node 0 is the root;  first[0] = 1,  first[nodes] = nodes
//   value(n)    = what the path to n spells, or kNone
//
//        0 ──'a'── 1 ──'b'── 3          first = 1 3 4 4 4    label = . a b b
//          ──'b'── 2                    value = - 0 - 1      for the tokens "a", "ab"
//
// Values are ids in the vocabulary's trie and indices into `added` in the other two: tokens to look for in the text as
// it is, and in normalized text.
#pragma once
#include <cstdint>

namespace sbk {

inline constexpr uint32_t kNone = 0xffffffffu, kCodePoints = 0x110000, kPage = 128;

enum class Kind : uint8_t {
  removed,  // nothing; not even there for the order of marks
  shift,    // one element: the code point + operand
  dropped,  // one dropped element
  list,     // elements[operand .. operand + count)
  hangul,   // the two or three letters of a Hangul syllable, by the formula of the Unicode standard
};

enum RecordFlags : uint8_t {
  kSpace = 1,        // separates words
  kPunctuation = 2,  // is a word of its own
  kWord = 4,         // beside it a token marked kSingleWord is not found
  kSpaced = 8,       // gets a space before and behind
};

struct Record {
  Kind kind;
  uint8_t flags;
  uint8_t combining;  // class of a single element
  uint8_t count;
  int32_t operand;
};
static_assert(sizeof(Record) == 8);

inline constexpr uint32_t kDropped = 1u << 21, kCodePointMask = kDropped - 1;

enum AddedFlags : uint32_t { kSingleWord = 1, kStripLeft = 2, kStripRight = 4, kSpecial = 8 };

// A token that is looked for in the text before it is split into words.
struct Added {
  uint32_t id;
  uint32_t flags;
  uint32_t text, text_bytes;  // what it is decoded to, in `text`
};
static_assert(sizeof(Added) == 16);

enum TokenizerFlags : uint32_t {
  kCleanTokens = 1,  // decoding takes spaces before punctuation out of each token (the decoder's `cleanup`)
  kCleanText = 2,    // and out of the whole text (transformers' `clean_up_tokenization_spaces`)
};

template <class T>
struct Section {
  uint32_t offset;  // from the header, in bytes
  uint32_t count;   // of T
};

struct TrieSections {
  Section<uint32_t> first;
  Section<uint32_t> value;
  Section<uint8_t> label;
};

struct TokenizerHeader {
  char magic[4];  // "SBKT"
  uint32_t version;
  uint64_t bytes;  // of all, header included
  uint32_t flags;
  uint32_t max_word;                      // code points; longer words are `unknown`
  uint32_t unknown, cls, sep, pad, mask;  // ids; pad and mask may be kNone
  uint32_t reserved;
  Section<uint8_t> continuing;  // the prefix of tokens inside of a word, within `text`
  Section<uint8_t> decoded;     // the prefix that decoding takes away, within `text`
  Section<uint16_t> page_index;
  Section<uint16_t> pages;
  Section<Record> records;
  Section<uint32_t> elements;
  Section<uint32_t> token_offsets;
  Section<uint8_t> text;
  TrieSections vocabulary;
  Section<Added> added;  // by id
  TrieSections raw, normalized;
};
static_assert(sizeof(TokenizerHeader) == 48 + 8 * (2 + 6 + 3 + 1 + 6));

}  // namespace sbk

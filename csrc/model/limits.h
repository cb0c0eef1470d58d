// The most that a file or a text may have, all in one place; docs/format.md lists them for users. What has more is
// refused by name. Files may come from anywhere: without these, a few bytes could ask for any amount of memory or time,
// and so could a sparse file, which costs its maker nothing. They are far above what models have.
#pragma once
#include <cstdint>

#include "include/squeezebert_kernels.h"

namespace sbk::limits {

// Files. Nothing that is copied or searched may be larger; weights are used where they lie.
inline constexpr uint64_t kConfigBytes = uint64_t{8} << 20;
inline constexpr uint64_t kTokenizerBytes = uint64_t{64} << 20;
inline constexpr uint64_t kSafetensorsHeaderBytes = uint64_t{8} << 20;
inline constexpr uint64_t kSections = 1 << 16;           // of a .sbk file
inline constexpr int64_t kRows = int64_t{1} << 31;       // of a section, and columns
inline constexpr int64_t kValues = int64_t{1} << 35;     // of a section
inline constexpr uint64_t kVerifiedBytes = 200'000'000;  // .sbk files below it are verified if nobody says otherwise

// JSON. A value takes up to 140 bytes of memory once it is read, however short it is in the text.
inline constexpr int kJsonDepth = 64;
inline constexpr int64_t kJsonValues = 1 << 19;
inline constexpr int64_t kTensorDimensions = 8;

// Configurations, by what they size.
inline constexpr int64_t kVocabulary = 1 << 22;
inline constexpr int64_t kHidden = 1 << 16;  // intermediate_size too; heads and groups divide one of them
inline constexpr int64_t kLayers = 1 << 12;
inline constexpr int64_t kPositions = 1 << 20;
inline constexpr int64_t kTokenTypes = 1 << 16;
inline constexpr int64_t kLabels = 1 << 17;
inline constexpr int64_t kParameters = int64_t{1} << 30;  // of a model: 4 GiB in float32

// Tokenizers and texts.
inline constexpr uint32_t kAddedTokens = 1 << 16;
inline constexpr uint32_t kAddedTokenNodes = 1 << 20;  // of a trie of them: about the bytes of their texts
inline constexpr uint32_t kWordCharacters = 1 << 10;   // max_input_chars_per_word: words cost this, times the text
inline constexpr uint32_t kTokenBytes = 1 << 16;
inline constexpr uint64_t kTextBytes = SBK_MAX_TEXT_BYTES;
// Combining marks in a row that are put into canonical order; what follows is ordered on its own.
inline constexpr uint64_t kMarksInARow = 1 << 12;

}  // namespace sbk::limits

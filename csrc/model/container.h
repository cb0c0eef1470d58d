// The .sbk file: named sections, each at a 64-byte boundary, so that a mapped file is used in place.
//
//   | FileHeader | SectionEntry 0 | ... | SectionEntry n-1 | section 0 | ... | section n-1 |
//   0            64               192                      ^ offset: the next multiple of 64, zeros between
//
// All integers are little-endian. `checksum` of an entry is that of its section's bytes; that of the header is taken
// over header and entries, with itself as 0. What a section is:
//
//   kind      bytes                                                      rows x columns
//   text      config.json as it is, the tokenizer's tables               0 x 0
//   values    row-major float32 (type 0), float16 (1) or bfloat16 (2)    rows x columns
//   int8      int8 [rows][columns], zeros up to a multiple of 64 bytes,  rows x columns
//             float32 scale [rows]
//   packed    the weight of a convolution, ops/packed.h                  output channels x input channels of a group
//
// Fields that a kind does not use, what is behind the end of a name, and reserved fields are 0. docs/format.md
// describes all of it for other readers.
//
// Sections are named as the tensors of Hugging Face's checkpoints, without the prefix of the base model.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/file.h"
#include "ops/packed.h"

namespace sbk {

enum class SectionKind : uint32_t { text, values, int8, packed };

struct alignas(64) FileHeader {
  char magic[8];        // "SBKMODEL"
  uint32_t version;     // kFileVersion
  uint32_t endianness;  // kEndianness
  uint64_t file_bytes;
  uint64_t sections;
  uint64_t checksum;
  char tier[16];      // whose layout the packed sections have, 0-terminated
  uint64_t reserved;  // 0
};
static_assert(sizeof(FileHeader) == 64);

struct SectionEntry {
  char name[72];  // 0-terminated
  SectionKind kind;
  WeightType type;
  uint16_t reserved;
  int64_t rows, columns;
  uint64_t offset, bytes, checksum;
  uint64_t reserved2;
};
static_assert(sizeof(SectionEntry) == 128);

inline constexpr char kFileMagic[8] = {'S', 'B', 'K', 'M', 'O', 'D', 'E', 'L'};
inline constexpr uint32_t kFileVersion = 1, kEndianness = 0x01020304;

// One section in memory.
struct FileSection {
  std::string name;
  SectionKind kind;
  WeightType type;
  int64_t rows, columns;
  const std::byte* data;
  uint64_t bytes;
};

// The sections of a file in memory, checked: magic, version, sizes, every offset, names that repeat, checksums of all
// but values, int8 and packed sections. With `verify` the checksums of those too, and that no byte of the file is
// outside of header, entries, sections and the zeros between them. Time is linear in the file; without `verify` weights
// are not read. Throws Failure(SBK_BAD_FILE) that begins with `path`. `tier`: as written.
std::vector<FileSection> read_container(const std::byte* file, uint64_t bytes, const std::string& path, bool verify,
                                        std::string* tier);

// Throws Failure(SBK_IO_ERROR) or, for a name that is too long, SBK_UNSUPPORTED.
void write_container(const std::string& path, std::string_view tier, const std::vector<FileSection>& sections);

}  // namespace sbk

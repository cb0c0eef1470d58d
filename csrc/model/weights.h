// Where the weights of a model come from: a checkpoint, which is packed into memory, or a .sbk file, which is used in
// place. Both answer by the names of Hugging Face's checkpoints without the prefix of the base model, and keep what
// they have given for as long as they live.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/container.h"
#include "model/file.h"
#include "model/safetensors.h"
#include "ops/packed.h"
#include "runtime/workspace.h"

namespace sbk {

// Rows of an embedding: float32, float16, bfloat16, or int8 with a scale for each row.
struct Table {
  const void* data;
  WeightType type;
  const float* scale;  // [rows]: data is int8, whatever `type` says; else null
  int64_t rows, columns;

  bool is_float32() const { return scale == nullptr && type == WeightType::float32; }
  void read(int64_t row, float* out) const;
  // Row `row` added to `out`.
  void add(int64_t row, float* out) const;
};

// What a convolution is asked for by.
struct ConvShape {
  int64_t n, k, groups, num_heads;  // k per group; num_heads as in ops/packed.h
};

class Weights {
 public:
  virtual ~Weights() = default;

  virtual bool has(const std::string& name) const = 0;
  // `name`.weight, packed. Failure(SBK_BAD_FILE) where it is missing or has another shape, here as below.
  virtual const PackedHeader* packed(const std::string& name, const ConvShape& shape, Compute compute) = 0;
  virtual const float* vector(const std::string& name, int64_t n) = 0;
  virtual Table table(const std::string& name, int64_t rows, int64_t columns, Compute compute) = 0;

  // Everything given so far, in order: what a .sbk file holds.
  const std::vector<FileSection>& sections() const { return sections_; }
  int64_t allocated_bytes = 0, mapped_bytes = 0, repacked_bytes = 0;

 protected:
  // 64-byte aligned, zeroed, kept.
  std::byte* allocate(uint64_t bytes);
  std::vector<FileSection> sections_;

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{kCacheLine}); }
  };
  std::vector<std::unique_ptr<std::byte, Free>> buffers_;
};

// A safetensors file; weights are packed for `layout`. `prefix` ("bert.") may stand before a name.
std::unique_ptr<Weights> open_checkpoint(const std::string& path, const std::string& prefix, const TierLayout& layout,
                                         const Parallel& parallel);

// Sections of a .sbk file, which was packed for `stored`; what `wanted` has in another layout is packed anew.
std::unique_ptr<Weights> open_container(std::unique_ptr<MappedFile> file, std::vector<FileSection> sections,
                                        const TierLayout& stored, const TierLayout& wanted, const std::string& path,
                                        const Parallel& parallel);

}  // namespace sbk

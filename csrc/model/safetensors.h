// Reader of the safetensors format: 8 bytes little-endian length of a JSON header, the header
// {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}, and the values, row-major.
// https://github.com/huggingface/safetensors#format
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "ops/values.h"

namespace sbk {

struct Tensor {
  const void* data;
  WeightType type;
  std::vector<int64_t> shape;

  int64_t size() const;
  // float16 and bfloat16 become float32.
  void copy_to(float* out) const;
};

using Tensors = std::map<std::string, Tensor, std::less<>>;

// The tensors of a file in memory, those of dtype F32, F16 and BF16; data points into it and is aligned as the file has
// it. Every offset is checked. Throws Failure(SBK_BAD_FILE) that begins with `path`.
Tensors read_safetensors(const std::byte* file, uint64_t bytes, const std::string& path);

}  // namespace sbk

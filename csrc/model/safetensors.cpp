#include "model/safetensors.h"

#include <cstring>
#include <limits>

#include "model/failure.h"
#include "model/json.h"
#include "model/limits.h"

namespace sbk {
namespace {

struct Dtype {
  const char* name;
  WeightType type;
};
constexpr Dtype kDtypes[] = {
    {"F32", WeightType::float32}, {"F16", WeightType::float16}, {"BF16", WeightType::bfloat16}};

uint64_t offset_of(const Json& json, uint64_t limit, const std::string& where) {
  int64_t value = 0;
  if (!json.integer(0, static_cast<int64_t>(limit), &value))
    fail(SBK_BAD_FILE, where, ": data_offsets are not in the file");
  return static_cast<uint64_t>(value);
}

}  // namespace

int64_t Tensor::size() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

void Tensor::copy_to(float* out) const { to_floats(data, type, size(), out); }

Tensors read_safetensors(const std::byte* file, uint64_t bytes, const std::string& path) {
  uint64_t header_bytes = 0;
  if (bytes < sizeof header_bytes) fail(SBK_BAD_FILE, path, ": too short for safetensors");
  std::memcpy(&header_bytes, file, sizeof header_bytes);
  if (header_bytes > bytes - sizeof header_bytes) fail(SBK_BAD_FILE, path, ": truncated, or not safetensors");
  if (header_bytes > limits::kSafetensorsHeaderBytes) {
    fail(SBK_BAD_FILE, path, ": its header has ", header_bytes, " bytes, more than ", limits::kSafetensorsHeaderBytes);
  }
  const std::byte* values = file + sizeof header_bytes + header_bytes;
  const uint64_t value_bytes = bytes - sizeof header_bytes - header_bytes;

  const Json header = Json::parse(
      {reinterpret_cast<const char*>(file) + sizeof header_bytes, static_cast<std::size_t>(header_bytes)}, path);
  if (header.object() == nullptr) fail(SBK_BAD_FILE, path, ": its header is not a JSON object");

  Tensors tensors;
  for (const auto& [name, entry] : *header.object()) {
    if (name == "__metadata__") continue;
    const std::string where = path + ": " + name;
    const Json *dtype = entry.find("dtype"), *shape = entry.find("shape"), *offsets = entry.find("data_offsets");
    if (!dtype || !dtype->string() || !shape || !shape->array() || !offsets || !offsets->array() ||
        offsets->array()->size() != 2) {
      fail(SBK_BAD_FILE, where, ": dtype, shape or data_offsets is missing");
    }
    const Dtype* known = nullptr;
    for (const Dtype& d : kDtypes) {
      if (*dtype->string() == d.name) known = &d;
    }
    if (known == nullptr) continue;  // position_ids and the like; who needs it will find it missing

    if (shape->array()->size() > static_cast<std::size_t>(limits::kTensorDimensions)) {
      fail(SBK_BAD_FILE, where, ": ", shape->array()->size(), " dimensions, more than ", limits::kTensorDimensions);
    }
    Tensor tensor{nullptr, known->type, {}};
    uint64_t size = value_size(known->type);
    for (const Json& d : *shape->array()) {
      int64_t dim = 0;
      if (!d.integer(0, std::numeric_limits<int32_t>::max(), &dim))
        fail(SBK_BAD_FILE, where, ": its shape is impossible");
      tensor.shape.push_back(dim);
      if (dim > 0 && size > value_bytes / static_cast<uint64_t>(dim))
        fail(SBK_BAD_FILE, where, ": larger than the file");
      size *= static_cast<uint64_t>(dim);
    }
    const uint64_t begin = offset_of((*offsets->array())[0], value_bytes, where);
    const uint64_t end = offset_of((*offsets->array())[1], value_bytes, where);
    if (begin > end || end - begin != size) fail(SBK_BAD_FILE, where, ": data_offsets do not fit shape and dtype");
    tensor.data = values + begin;
    tensors.emplace(name, std::move(tensor));
  }
  return tensors;
}

}  // namespace sbk

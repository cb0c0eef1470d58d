#include "model/weights.h"

#include <cmath>
#include <cstring>
#include <map>

#include "model/failure.h"
#include "ops/values.h"

namespace sbk {
namespace {

uint64_t round_up_to_line(uint64_t n) { return (n + kCacheLine - 1) / kCacheLine * kCacheLine; }

std::string shape_text(int64_t rows, int64_t columns) { return text("[", rows, ", ", columns, "]"); }

// Leaves out the fingerprint of the unpacked weight. It is never compared here, and a file must depend on its contents
// alone.
void pack_into(std::byte* out, const TierLayout& layout, const Weight& weight, int64_t num_heads,
               const Parallel& parallel, Compute compute) {
  pack(layout, weight, num_heads, out, parallel, compute);
  reinterpret_cast<PackedHeader*>(out)->fingerprint = 0;
}

// --- from safetensors -----------------------------------------------------------------------------------------------

class CheckpointWeights : public Weights {
 public:
  CheckpointWeights(const std::string& path, const std::string& prefix, const TierLayout& layout,
                    const Parallel& parallel)
      : file_(path),
        tensors_(read_safetensors(file_.data(), file_.size(), path)),
        path_(path),
        prefix_(prefix),
        layout_(layout),
        parallel_(parallel) {}

  bool has(const std::string& name) const override { return find(name) != nullptr; }

  const PackedHeader* packed(const std::string& name, const ConvShape& s, Compute compute) override {
    const Tensor& tensor = get(name + ".weight", s.n, s.k);
    std::vector<float> aligned;  // safetensors promises no alignment
    Weight weight{tensor.data, tensor.type, s.n, s.k, s.groups};
    if (reinterpret_cast<uintptr_t>(tensor.data) % value_size(tensor.type) != 0) {
      aligned.resize(static_cast<std::size_t>(s.n * s.k));
      tensor.copy_to(aligned.data());
      weight.data = aligned.data(), weight.type = WeightType::float32;
    }
    const int64_t bytes = packed_bytes(layout_, weight, s.num_heads, compute);
    std::byte* out = allocate(static_cast<uint64_t>(bytes));
    pack_into(out, layout_, weight, s.num_heads, parallel_, compute);
    sections_.push_back(
        {name + ".weight", SectionKind::packed, WeightType::float32, s.n, s.k, out, static_cast<uint64_t>(bytes)});
    return reinterpret_cast<const PackedHeader*>(out);
  }

  const float* vector(const std::string& name, int64_t n) override {
    const Tensor& tensor = get(name, n, 1);
    std::byte* out = allocate(static_cast<uint64_t>(n) * sizeof(float));
    tensor.copy_to(reinterpret_cast<float*>(out));
    sections_.push_back({name, SectionKind::values, WeightType::float32, n, 1, out, static_cast<uint64_t>(n) * 4});
    return reinterpret_cast<const float*>(out);
  }

  Table table(const std::string& name, int64_t rows, int64_t columns, Compute compute) override {
    const Tensor& tensor = get(name, rows, columns);
    if (compute == Compute::int8) return int8_table(name, tensor, rows, columns);
    const WeightType type = compute == Compute::float16    ? WeightType::float16
                            : compute == Compute::bfloat16 ? WeightType::bfloat16
                                                           : WeightType::float32;
    const uint64_t bytes = static_cast<uint64_t>(rows * columns) * value_size(type);
    std::byte* out = allocate(bytes);
    std::vector<float> row(static_cast<std::size_t>(columns));
    for (int64_t r = 0; r < rows; r++) {
      to_floats(at(tensor, r * columns), tensor.type, columns, row.data());
      from_floats(row.data(), columns, type, out + static_cast<uint64_t>(r * columns) * value_size(type));
    }
    sections_.push_back({name, SectionKind::values, type, rows, columns, out, bytes});
    return {out, type, nullptr, rows, columns};
  }

 private:
  static const std::byte* at(const Tensor& tensor, int64_t i) {
    return static_cast<const std::byte*>(tensor.data) + static_cast<uint64_t>(i) * value_size(tensor.type);
  }

  // As squeezebert_kernels.weights.stand_ins.freeze_rows rounds it.
  Table int8_table(const std::string& name, const Tensor& tensor, int64_t rows, int64_t columns) {
    const uint64_t values = round_up_to_line(static_cast<uint64_t>(rows * columns));
    const uint64_t bytes = values + static_cast<uint64_t>(rows) * sizeof(float);
    std::byte* out = allocate(bytes);
    auto* scales = reinterpret_cast<float*>(out + values);
    std::vector<float> row(static_cast<std::size_t>(columns));
    for (int64_t r = 0; r < rows; r++) {
      to_floats(at(tensor, r * columns), tensor.type, columns, row.data());
      scales[r] = quantize_row(row.data(), columns, reinterpret_cast<int8_t*>(out) + r * columns);
    }
    sections_.push_back({name, SectionKind::int8, WeightType::float32, rows, columns, out, bytes});
    return {out, WeightType::float32, scales, rows, columns};
  }

  const Tensor* find(const std::string& name) const {
    for (const std::string& candidate : {prefix_ + name, name}) {
      if (const auto found = tensors_.find(candidate); found != tensors_.end()) return &found->second;
    }
    return nullptr;
  }

  // [rows, columns], and 1s behind it, as Conv1d has them.
  const Tensor& get(const std::string& name, int64_t rows, int64_t columns) const {
    const Tensor* tensor = find(name);
    if (tensor == nullptr) fail(SBK_BAD_FILE, path_, ": the tensor '", name, "' is missing");
    const std::vector<int64_t>& shape = tensor->shape;
    bool fits = !shape.empty() && shape[0] == rows && tensor->size() == rows * columns;
    if (shape.size() > 1) fits = fits && shape[1] == columns;
    if (!fits) {
      std::string found;
      for (const int64_t d : shape) found += (found.empty() ? "" : ", ") + std::to_string(d);
      fail(SBK_BAD_FILE, path_, ": ", name, " is [", found, "], should be ", shape_text(rows, columns));
    }
    return *tensor;
  }

  MappedFile file_;
  Tensors tensors_;
  std::string path_, prefix_;
  const TierLayout& layout_;
  Parallel parallel_;
};

// --- from a .sbk file -----------------------------------------------------------------------------------------------

class ContainerWeights : public Weights {
 public:
  ContainerWeights(std::unique_ptr<MappedFile> file, std::vector<FileSection> sections, const TierLayout& stored,
                   const TierLayout& wanted, const std::string& path, const Parallel& parallel)
      : file_(std::move(file)),
        found_(std::move(sections)),
        stored_(stored),
        wanted_(wanted),
        path_(path),
        parallel_(parallel) {
    mapped_bytes = static_cast<int64_t>(file_->size());
    for (const FileSection& s : found_) index_.emplace(s.name, &s);
  }

  bool has(const std::string& name) const override { return find(name) != nullptr; }

  const PackedHeader* packed(const std::string& name, const ConvShape& s, Compute wanted) override {
    const FileSection& section = get(name + ".weight", SectionKind::packed, s.n, s.k);
    const Weight weight{nullptr, WeightType::float32, s.n, s.k, s.groups};
    int64_t offset = 0;
    std::string error;
    const PackedHeader* header =
        find_section(stored_, weight, s.num_heads, section.data, static_cast<int64_t>(section.bytes), &offset, &error);
    if (header == nullptr) fail(SBK_BAD_FILE, path_, ": ", section.name, ": ", error);
    if (offset != static_cast<int64_t>(section.bytes)) fail(SBK_BAD_FILE, path_, ": ", section.name, ": wrong size");
    if (header->fingerprint != 0) fail(SBK_BAD_FILE, path_, ": ", section.name, ": a reserved field is not 0");
    // A block whose convolutions have different dtypes would read beyond its encoded input.
    if (!header->is(wanted)) fail(SBK_BAD_FILE, path_, ": ", section.name, ": of another dtype than the model");
    const auto compute = wanted;
    if (layout_of(stored_, compute) == layout_of(wanted_, compute)) {
      sections_.push_back(section);
      return header;
    }
    return repacked(section, *header, s);
  }

  const float* vector(const std::string& name, int64_t n) override {
    const FileSection& section = get(name, SectionKind::values, n, 1);
    if (section.type != WeightType::float32) fail(SBK_BAD_FILE, path_, ": ", name, ": not float32");
    sections_.push_back(section);
    return reinterpret_cast<const float*>(section.data);
  }

  Table table(const std::string& name, int64_t rows, int64_t columns, Compute) override {
    const FileSection* section = find(name);
    const bool int8 = section != nullptr && section->kind == SectionKind::int8;
    sections_.push_back(get(name, int8 ? SectionKind::int8 : SectionKind::values, rows, columns));
    Table table{section->data, section->type, nullptr, rows, columns};
    if (int8) {
      table.scale =
          reinterpret_cast<const float*>(section->data + round_up_to_line(static_cast<uint64_t>(rows * columns)));
    }
    return table;
  }

 private:
  const PackedHeader* repacked(const FileSection& section, const PackedHeader& header, const ConvShape& s) {
    const auto compute = static_cast<Compute>(header.compute);
    std::vector<float> values(static_cast<std::size_t>(s.n * s.k));
    if (compute == Compute::int8) {
      std::vector<int8_t> q(values.size());
      std::vector<float> scale(static_cast<std::size_t>(s.n));
      unpack(header, q.data(), scale.data(), parallel_);
      for (std::size_t i = 0; i < q.size(); i++) values[i] = q[i] * scale[i / static_cast<std::size_t>(s.k)];
    } else {
      unpack(header, values.data(), nullptr, parallel_);
    }
    const Weight weight{values.data(), WeightType::float32, s.n, s.k, s.groups};
    const int64_t bytes = packed_bytes(wanted_, weight, s.num_heads, compute);
    std::byte* out = allocate(static_cast<uint64_t>(bytes));
    pack_into(out, wanted_, weight, s.num_heads, parallel_, compute);
    repacked_bytes += bytes, mapped_bytes -= static_cast<int64_t>(section.bytes);
    sections_.push_back({section.name, SectionKind::packed, section.type, s.n, s.k, out, static_cast<uint64_t>(bytes)});
    return reinterpret_cast<const PackedHeader*>(out);
  }

  const FileSection* find(const std::string& name) const {
    const auto found = index_.find(name);
    return found != index_.end() ? found->second : nullptr;
  }

  const FileSection& get(const std::string& name, SectionKind kind, int64_t rows, int64_t columns) const {
    const FileSection* section = find(name);
    if (section == nullptr) fail(SBK_BAD_FILE, path_, ": the section '", name, "' is missing");
    if (section->kind != kind) fail(SBK_BAD_FILE, path_, ": ", name, ": of the wrong kind");
    if (section->rows != rows || section->columns != columns) {
      fail(SBK_BAD_FILE, path_, ": ", name, " is ", shape_text(section->rows, section->columns), ", should be ",
           shape_text(rows, columns));
    }
    return *section;
  }

  std::unique_ptr<MappedFile> file_;
  std::vector<FileSection> found_;
  std::map<std::string_view, const FileSection*>
      index_;  // by name, in `found_`; no hashes, which names could be made for
  const TierLayout &stored_, &wanted_;
  std::string path_;
  Parallel parallel_;
};

}  // namespace

void Table::read(int64_t row, float* out) const {
  std::memset(out, 0, static_cast<std::size_t>(columns) * sizeof(float));
  add(row, out);
}

void Table::add(int64_t row, float* out) const {
  const int64_t first = row * columns;
  if (scale != nullptr) {
    const int8_t* q = static_cast<const int8_t*>(data) + first;
    for (int64_t i = 0; i < columns; i++) out[i] += static_cast<float>(q[i]) * scale[row];
  } else {
    for (int64_t i = 0; i < columns; i++) out[i] += value_at(data, type, first + i);
  }
}

std::byte* Weights::allocate(uint64_t bytes) {
  const uint64_t rounded = round_up_to_line(bytes);
  buffers_.emplace_back();  // a buffer for which there is no room in the list would be lost
  buffers_.back().reset(static_cast<std::byte*>(::operator new(rounded, std::align_val_t{kCacheLine})));
  std::memset(buffers_.back().get(), 0, rounded);
  allocated_bytes += static_cast<int64_t>(rounded);
  return buffers_.back().get();
}

std::unique_ptr<Weights> open_checkpoint(const std::string& path, const std::string& prefix, const TierLayout& layout,
                                         const Parallel& parallel) {
  return std::make_unique<CheckpointWeights>(path, prefix, layout, parallel);
}

std::unique_ptr<Weights> open_container(std::unique_ptr<MappedFile> file, std::vector<FileSection> sections,
                                        const TierLayout& stored, const TierLayout& wanted, const std::string& path,
                                        const Parallel& parallel) {
  return std::make_unique<ContainerWeights>(std::move(file), std::move(sections), stored, wanted, path, parallel);
}

}  // namespace sbk

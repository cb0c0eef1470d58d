#include "model/container.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "model/failure.h"
#include "model/limits.h"
#include "ops/checksum.h"
#include "runtime/file_writer.h"

namespace sbk {
namespace {

constexpr uint64_t kAlignment = 64;

uint64_t round_up(uint64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

// Over the header, with its own field 0, and the entries.
uint64_t header_checksum(const FileHeader& found, const SectionEntry* entries) {
  FileHeader header = found;
  header.checksum = 0;
  return mix(checksum(&header, sizeof header), checksum(entries, header.sections * sizeof(SectionEntry)));
}

bool is_weight(SectionKind kind) { return kind != SectionKind::text; }

// 0-terminated, and nothing behind the end.
template <std::size_t size>
bool is_name(const char (&name)[size]) {
  const char* end = static_cast<const char*>(std::memchr(name, 0, size));
  return end != nullptr && std::all_of(end, name + size, [](char c) { return c == '\0'; });
}

bool are_zeros(const std::byte* begin, const std::byte* end) {
  return std::all_of(begin, end, [](std::byte b) { return b == std::byte{0}; });
}

// Bytes that a section of this kind and shape has; for text and packed: what the entry says.
uint64_t expected_bytes(const SectionEntry& e) {
  const auto rows = static_cast<uint64_t>(e.rows), columns = static_cast<uint64_t>(e.columns);
  if (e.kind == SectionKind::values) return rows * columns * value_size(e.type);
  if (e.kind == SectionKind::int8) return round_up(rows * columns) + rows * sizeof(float);
  return e.bytes;
}

void check_entry(const SectionEntry& e, const FileHeader& header, uint64_t bytes, uint64_t previous_end,
                 const std::string& path) {
  if (e.name[0] == '\0' || !is_name(e.name)) fail(SBK_BAD_FILE, path, ": a section has no name");
  const std::string where = path + ": " + e.name;
  if (e.kind > SectionKind::packed || e.type > WeightType::bfloat16) fail(SBK_BAD_FILE, where, ": of unknown kind");
  if (e.reserved != 0 || e.reserved2 != 0) fail(SBK_BAD_FILE, where, ": a reserved field is not 0");
  if (e.rows < 0 || e.columns < 0 || e.rows > limits::kRows || e.columns > limits::kRows ||
      (e.rows > 0 && e.columns > limits::kValues / e.rows)) {
    fail(SBK_BAD_FILE, where, ": its shape is impossible");
  }
  const bool is_text = e.kind == SectionKind::text;
  if ((is_text && (e.rows != 0 || e.columns != 0)) ||
      (e.kind != SectionKind::values && e.type != WeightType::float32)) {
    fail(SBK_BAD_FILE, where, ": a field that its kind does not use is not 0");
  }
  if (is_text && e.bytes > limits::kTokenizerBytes) {
    fail(SBK_BAD_FILE, where, ": ", e.bytes, " bytes, more than ", limits::kTokenizerBytes);
  }
  if (e.offset % kAlignment != 0 || e.offset < previous_end || e.offset > bytes || e.bytes > bytes - e.offset) {
    fail(SBK_BAD_FILE, where, ": not inside the file of ", header.file_bytes, " bytes");
  }
  if (e.bytes != expected_bytes(e)) fail(SBK_BAD_FILE, where, ": its size does not fit its shape");
}

}  // namespace

std::vector<FileSection> read_container(const std::byte* file, uint64_t bytes, const std::string& path, bool verify,
                                        std::string* tier) {
  FileHeader header;
  if (bytes < sizeof header) fail(SBK_BAD_FILE, path, ": too short for a .sbk file");
  std::memcpy(&header, file, sizeof header);
  if (std::memcmp(header.magic, kFileMagic, sizeof kFileMagic) != 0) fail(SBK_BAD_FILE, path, ": not a .sbk file");
  if (header.endianness != kEndianness) fail(SBK_BAD_FILE, path, ": damaged, or of another byte order");
  if (header.version != kFileVersion) {
    fail(SBK_BAD_FILE, path, ": version ", header.version, " of the format, this library reads version ", kFileVersion,
         ": export the model again");
  }
  if (header.file_bytes != bytes) {
    fail(SBK_BAD_FILE, path, ": ", bytes, " bytes long, should be ", header.file_bytes,
         bytes < header.file_bytes ? ": truncated" : "");
  }
  if (header.sections > (bytes - sizeof header) / sizeof(SectionEntry)) fail(SBK_BAD_FILE, path, ": damaged header");
  if (header.sections > limits::kSections) {
    fail(SBK_BAD_FILE, path, ": ", header.sections, " sections, more than ", limits::kSections);
  }
  // Mapped at a page boundary, or copied to a 64-byte one: entries can be read in place.
  const auto* entries = reinterpret_cast<const SectionEntry*>(file + sizeof header);
  if (header_checksum(header, entries) != header.checksum) fail(SBK_BAD_FILE, path, ": damaged header: wrong checksum");
  if (!is_name(header.tier)) fail(SBK_BAD_FILE, path, ": damaged header");
  if (header.reserved != 0) fail(SBK_BAD_FILE, path, ": a reserved field of the header is not 0");
  *tier = header.tier;

  std::vector<FileSection> sections;
  sections.reserve(header.sections);
  std::set<std::string_view> names;
  uint64_t end = sizeof header + header.sections * sizeof(SectionEntry);
  for (uint64_t i = 0; i < header.sections; i++) {
    const SectionEntry& e = entries[i];
    check_entry(e, header, bytes, end, path);
    if (!names.insert(e.name).second) fail(SBK_BAD_FILE, path, ": ", e.name, ": there are two of this name");
    if (verify && (e.offset != round_up(end) || !are_zeros(file + end, file + e.offset))) {
      fail(SBK_BAD_FILE, path, ": ", e.name, ": something is hidden before it");
    }
    end = e.offset + e.bytes;
    if ((verify || !is_weight(e.kind)) && checksum(file + e.offset, e.bytes) != e.checksum) {
      fail(SBK_BAD_FILE, path, ": ", e.name, ": damaged: wrong checksum");
    }
    if (verify && e.kind == SectionKind::int8) {
      const auto values = static_cast<uint64_t>(e.rows * e.columns);
      const std::byte* data = file + e.offset;
      if (!are_zeros(data + values, data + round_up(values))) {
        fail(SBK_BAD_FILE, path, ": ", e.name, ": something is hidden in it");
      }
    }
    sections.push_back({e.name, e.kind, e.type, e.rows, e.columns, file + e.offset, e.bytes});
  }
  if (verify && end != bytes) fail(SBK_BAD_FILE, path, ": ", bytes - end, " bytes are behind its last section");
  return sections;
}

void write_container(const std::string& path, std::string_view tier, const std::vector<FileSection>& sections) {
  FileHeader header;
  std::memset(&header, 0, sizeof header);
  std::memcpy(header.magic, kFileMagic, sizeof kFileMagic);
  header.version = kFileVersion, header.endianness = kEndianness, header.sections = sections.size();
  tier.copy(header.tier, sizeof header.tier - 1);

  std::vector<SectionEntry> entries(sections.size());
  uint64_t at = sizeof header + sections.size() * sizeof(SectionEntry);
  for (std::size_t i = 0; i < sections.size(); i++) {
    const FileSection& s = sections[i];
    SectionEntry& e = entries[i];
    std::memset(&e, 0, sizeof e);
    if (s.name.size() >= sizeof e.name) fail(SBK_UNSUPPORTED, "the name '", s.name, "' is too long for a .sbk file");
    s.name.copy(e.name, sizeof e.name - 1);
    e.kind = s.kind, e.type = s.type, e.rows = s.rows, e.columns = s.columns, e.bytes = s.bytes;
    e.offset = at = round_up(at);
    e.checksum = checksum(s.data, s.bytes);
    at += s.bytes;
  }
  header.file_bytes = at;
  header.checksum = header_checksum(header, entries.data());

  FileWriter::replace(path, [&](FileWriter& file) {
    file.write(&header, sizeof header);
    file.write(entries.data(), entries.size() * sizeof(SectionEntry));
    for (const FileSection& s : sections) {
      file.align(kAlignment);
      file.write(s.data, s.bytes);
    }
  });
}

}  // namespace sbk

// Files, mapped for reading. How they are written: runtime/file_writer.h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sbk {

// A file's bytes, mapped read-only for as long as this lives; pages are read when they are used.
class MappedFile {
 public:
  // Throws Failure(SBK_IO_ERROR).
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), static_cast<std::size_t>(size_)}; }

 private:
  const std::byte* data_ = nullptr;
  uint64_t size_ = 0;
};

bool is_folder(const std::string& path);
bool is_file(const std::string& path);

}  // namespace sbk

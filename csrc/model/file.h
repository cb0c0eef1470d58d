// Files: mapped for reading, replaced as a whole for writing.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
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

// Where a file is written: write() appends, and throws Failure(SBK_IO_ERROR).
class FileWriter {
 public:
  // Writes beside `path` and puts the file in its place when `fill` has returned; nothing is left if it throws.
  static void replace(const std::string& path, const std::function<void(FileWriter&)>& fill);

  void write(const void* data, uint64_t bytes);
  // Zeros up to a multiple of `alignment`.
  void align(uint64_t alignment);
  uint64_t position() const { return position_; }

 private:
  FileWriter(int fd, const std::string& path) : fd_(fd), path_(path) {}
  int fd_;
  const std::string& path_;
  uint64_t position_ = 0;
};

}  // namespace sbk

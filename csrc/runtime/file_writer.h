// Files that are replaced as a whole: the one way in which this library writes a file that a user has named.
#pragma once
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace sbk {

// What could not be written, and why.
class WriteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Where a file is written: write() appends, and throws WriteError.
class FileWriter {
 public:
  // Puts a file with what `fill` has written in the place of `path`. Nothing is left and nothing is changed if `fill`
  // throws, or this does: WriteError, std::bad_alloc.
  //
  // - It is written beside `path`, to a file of a name that nobody can foresee and that did not exist, and then
  // renamed:
  //   readers see the old file or the new one, after a crash too. Several writers do not meet.
  // - A link is followed: the file that it leads to is replaced, the link stays.
  // - An existing file keeps its mode and, where the system allows, its owner. A new one gets what umask leaves.
  // - An existing file that is no regular one (a folder, device, pipe or socket), or that may not be written to, is
  //   refused.
  static void replace(const std::string& path, const std::function<void(FileWriter&)>& fill);

  // Throws what replace() would refuse, for callers who have long to do before they write.
  static void check(const std::string& path);

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

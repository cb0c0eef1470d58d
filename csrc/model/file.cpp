#include "model/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "model/failure.h"

namespace sbk {
namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

[[noreturn]] void fail_io(const char* what, const std::string& path) {
  fail(SBK_IO_ERROR, "cannot ", what, " '", path, "': ", std::strerror(errno));
}

bool has_mode(const std::string& path, mode_t mode) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && (info.st_mode & S_IFMT) == mode;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  // Not blocking: otherwise opening a pipe waits until another process writes to it.
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat info;
  if (file.fd < 0 || fstat(file.fd, &info) != 0) fail_io("read", path);
  if (!S_ISREG(info.st_mode)) fail(SBK_IO_ERROR, "'", path, "' is not a regular file");
  size_ = static_cast<uint64_t>(info.st_size);
  if (size_ == 0) return;  // nothing can be mapped
  void* mapped = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (mapped == MAP_FAILED) fail_io("map", path);
  data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

bool is_folder(const std::string& path) { return has_mode(path, S_IFDIR); }
bool is_file(const std::string& path) { return has_mode(path, S_IFREG); }

void FileWriter::replace(const std::string& path, const std::function<void(FileWriter&)>& fill) {
  // Threads and processes that save to the same path do not write into each other's file.
  static std::atomic<unsigned> number{0};
  const std::string beside = path + ".part" + std::to_string(getpid()) + "." + std::to_string(number++);
  {
    const Descriptor file{open(beside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)};
    if (file.fd < 0) fail_io("write", beside);
    try {
      FileWriter writer(file.fd, beside);
      fill(writer);
      if (fsync(file.fd) != 0 && errno != EINVAL) fail_io("write", beside);
    } catch (...) {
      unlink(beside.c_str());
      throw;
    }
  }
  if (rename(beside.c_str(), path.c_str()) != 0) {
    const int error = errno;
    unlink(beside.c_str());
    errno = error;
    fail_io("write", path);
  }
}

void FileWriter::write(const void* data, uint64_t bytes) {
  const auto* p = static_cast<const char*>(data);
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t n = ::write(fd_, p + done, bytes - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("write", path_);
    done += static_cast<uint64_t>(n);
  }
  position_ += bytes;
}

void FileWriter::align(uint64_t alignment) {
  static constexpr char zeros[64] = {};
  while (position_ % alignment != 0) {
    const uint64_t missing = alignment - position_ % alignment;
    write(zeros, missing < sizeof zeros ? missing : sizeof zeros);
  }
}

}  // namespace sbk

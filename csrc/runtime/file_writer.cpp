#include "runtime/file_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <random>

namespace sbk {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& why) {
  throw WriteError("cannot write '" + path + "': " + why);
}
[[noreturn]] void fail_io(const std::string& path, int error = errno) { fail(path, std::strerror(error)); }

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

const char* kind_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFDIR:
      return "a folder";
    case S_IFIFO:
      return "a pipe";
    case S_IFSOCK:
      return "a socket";
    default:
      return "a device";
  }
}

// "folder/" of "folder/name", "" of "name".
std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/') + 1); }

// The file that is written to, behind all links, and what is there.
struct Target {
  std::string path, folder;
  bool exists;
  struct stat info;

  explicit Target(const std::string& given) : path(given) {
    exists = stat(given.c_str(), &info) == 0;
    if (!exists && errno != ENOENT) fail_io(given);
    if (exists && !S_ISREG(info.st_mode)) {
      fail(given, "it is " + std::string(kind_of(info.st_mode)) + ", not a regular file");
    }
    if (exists && access(given.c_str(), W_OK) != 0) fail_io(given);
    // As stat() goes, but to the name of a file that need not be there yet.
    for (int links = 0;; links++) {
      char to[PATH_MAX];
      const ssize_t length = readlink(path.c_str(), to, sizeof to);
      if (length < 0) break;
      if (links == 40) fail_io(given, ELOOP);
      if (static_cast<std::size_t>(length) == sizeof to) fail_io(given, ENAMETOOLONG);
      const std::string link(to, static_cast<std::size_t>(length));
      path = (link.starts_with('/') ? std::string() : folder_of(path)) + link;
    }
    folder = folder_of(path);
    if (folder.size() == path.size()) fail_io(given, path.empty() ? ENOENT : EISDIR);
    if (folder.empty()) folder = "./";
  }
};

// A new file in `folder`, and its name. Those who may read it later may do so from the start, nobody else.
int create_beside(const Target& target, std::string* name) {
  std::random_device random;
  for (int attempt = 0;; attempt++) {
    *name = target.folder + ".sbk-";
    for (int i = 0; i < 16; i++) *name += "0123456789abcdefghijklmnopqrstuv"[random() % 32];
    *name += ".part";
    const int fd = open(name->c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, target.exists ? 0600 : 0666);
    if (fd >= 0 || (errno != EEXIST && errno != EINTR) || attempt == 100) return fd;
  }
}

// Systems and file systems that cannot do it say EINVAL or the like.
bool synchronize(int fd) {
  int result;
  while ((result = fsync(fd)) != 0 && errno == EINTR) {
  }
  return result == 0 || errno == EINVAL || errno == EROFS || errno == ENOTSUP || errno == ENOSYS;
}

}  // namespace

void FileWriter::check(const std::string& path) {
  const Target target(path);
  if (access(target.folder.c_str(), W_OK | X_OK) != 0) fail_io(path);
}

void FileWriter::replace(const std::string& path, const std::function<void(FileWriter&)>& fill) {
  const Target target(path);
  std::string beside;
  const Descriptor file(create_beside(target, &beside));
  if (file.get() < 0) fail_io(path);
  try {
    FileWriter writer(file.get(), path);
    fill(writer);
    if (target.exists) {
      // The owner first: a change of it takes bits of the mode away.
      const bool kept = fchown(file.get(), target.info.st_uid, target.info.st_gid) == 0;
      if (!kept && fchown(file.get(), static_cast<uid_t>(-1), target.info.st_gid) != 0) {
        // Then it is ours, as a new file would be.
      }
      if (fchmod(file.get(), target.info.st_mode & 07777) != 0) fail_io(path);
    }
    if (!synchronize(file.get()) || rename(beside.c_str(), target.path.c_str()) != 0) fail_io(path);
  } catch (...) {
    unlink(beside.c_str());
    throw;
  }
  // The new name, too, is on the disk then. A folder that may be written to but not read cannot be asked for that.
  const Descriptor folder(open(target.folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0) synchronize(folder.get());
}

void FileWriter::write(const void* data, uint64_t bytes) {
  const auto* p = static_cast<const char*>(data);
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t n = ::write(fd_, p + done, bytes - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io(path_);
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

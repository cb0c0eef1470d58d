// runtime/file_writer.h: what may be replaced and what not, modes and links, and what is left when something fails.
#include "runtime/file_writer.h"

#include <dirent.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "support/check.h"
#include "support/folder.h"

namespace {

using namespace test;
using sbk::FileWriter;

void save(const std::string& path, const std::string& bytes) {
  FileWriter::replace(path, [&](FileWriter& file) { file.write(bytes.data(), bytes.size()); });
}

// "" or what was wrong.
std::string refusal(const std::string& path, const std::string& bytes = "new") {
  try {
    save(path, bytes);
  } catch (const sbk::WriteError& error) {
    return error.what();
  }
  return "";
}

mode_t mode_of(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0 ? info.st_mode & 07777 : 0;
}

bool is_link(const std::string& path) {
  char to[16];
  return readlink(path.c_str(), to, sizeof to) >= 0;
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  DIR* opened = opendir(folder.c_str());
  while (const dirent* entry = readdir(opened)) {
    if (entry->d_name[0] != '.' || std::strlen(entry->d_name) > 2) names.emplace_back(entry->d_name);
  }
  closedir(opened);
  return names;
}

TEST(new_files_and_old_ones) {
  TemporaryFolder folder;
  const std::string path = folder.file("model.sbk");
  const mode_t before = umask(027);
  save(path, "first");
  CHECK_EQ(mode_of(path), 0640u);
  CHECK_EQ(read_file(path), "first");
  for (const mode_t mode : {0600u, 0444u, 0664u, 0755u}) {
    chmod(path.c_str(), mode);
    // Who is not root is refused what may not be written.
    const bool refused = access(path.c_str(), W_OK) != 0;
    CHECK_EQ(refusal(path, "second").empty(), !refused);
    CHECK_EQ(mode_of(path), mode);
  }
  CHECK_EQ(read_file(path), "second");
  umask(before);
  CHECK_EQ(names_in(folder.path()).size(), 1u);
}

TEST(links_are_followed) {
  TemporaryFolder folder, other;
  const std::string real = other.file("real.sbk"), link = folder.file("link.sbk"), second = folder.file("second.sbk");
  CHECK(symlink(real.c_str(), link.c_str()) == 0);
  CHECK(symlink("link.sbk", second.c_str()) == 0);  // relative, to a link, to what is not there yet
  save(second, "one");
  CHECK_EQ(read_file(real), "one");
  chmod(real.c_str(), 0600);
  save(link, "two");
  CHECK_EQ(read_file(real), "two");
  CHECK_EQ(mode_of(real), 0600u);
  CHECK(is_link(link) && is_link(second));
  CHECK_EQ(names_in(other.path()).size(), 1u);
  CHECK_EQ(names_in(folder.path()).size(), 2u);
  const std::string circle = folder.file("circle.sbk");
  CHECK(symlink("circle.sbk", circle.c_str()) == 0);
  CHECK(refusal(circle).find(circle) != std::string::npos);
}

TEST(what_is_no_regular_file_is_refused) {
  TemporaryFolder folder;
  const std::string pipe = folder.file("pipe"), link = folder.file("link"), place = folder.file("socket");
  CHECK(mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(symlink("pipe", link.c_str()) == 0);
  const int unix_socket = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  CHECK(place.size() < sizeof address.sun_path);
  std::strcpy(address.sun_path, place.c_str());
  const bool has_socket = bind(unix_socket, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  const std::vector<std::pair<std::string, std::string>> cases = {{pipe, "a pipe"},
                                                                  {link, "a pipe"},
                                                                  {place, has_socket ? "a socket" : ""},
                                                                  {"/dev/null", "a device"},
                                                                  {folder.path(), "a folder"},
                                                                  {folder.path() + "/", "a folder"},
                                                                  {"", ""},
                                                                  {folder.path() + "/no such folder/x", ""},
                                                                  {folder.path() + "/new/", ""}};
  const auto before = names_in(folder.path());
  for (const auto& [path, kind] : cases) {
    if (path == place && !has_socket) continue;
    const Context where([&, path = path] { return path; });
    const std::string said = refusal(path);
    CHECK(said.find("cannot write '" + path + "'") != std::string::npos);
    CHECK(said.find(kind) != std::string::npos);
    std::string early;
    try {
      FileWriter::check(path);
    } catch (const sbk::WriteError& error) {
      early = error.what();
    }
    CHECK_EQ(early, said);
  }
  CHECK(names_in(folder.path()) == before);
  struct stat info;
  CHECK(stat("/dev/null", &info) == 0 && S_ISCHR(info.st_mode));
  CHECK(lstat(pipe.c_str(), &info) == 0 && S_ISFIFO(info.st_mode));
  close(unix_socket);
}

TEST(nothing_is_left_where_filling_fails) {
  TemporaryFolder folder;
  const std::string path = folder.file("model.sbk");
  save(path, "old");
  bool caught = false;
  try {
    FileWriter::replace(path, [](FileWriter& file) {
      file.write("half", 4);
      throw std::bad_alloc();
    });
  } catch (const std::bad_alloc&) {
    caught = true;
  }
  CHECK(caught);
  CHECK_EQ(read_file(path), "old");
  CHECK_EQ(names_in(folder.path()).size(), 1u);
}

// As processes of equal numbers do it, in containers on one volume.
TEST(writers_do_not_meet) {
  TemporaryFolder folder;
  const std::string path = folder.file("model.sbk");
  std::vector<std::thread> writers;
  std::vector<int> wrong(4);
  for (size_t w = 0; w < wrong.size(); w++) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < 20; i++) {
        const std::string bytes(1000 + 777 * w, static_cast<char>('a' + w));
        FileWriter::replace(path, [&](FileWriter& file) {
          for (size_t at = 0; at < bytes.size(); at += 100) {
            file.write(bytes.data() + at, std::min<size_t>(100, bytes.size() - at));
          }
        });
        const std::string found = read_file(path);
        wrong[w] += found != std::string(1000 + 777 * static_cast<size_t>(found[0] - 'a'), found[0]);
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  for (const int count : wrong) CHECK_EQ(count, 0);
  CHECK_EQ(names_in(folder.path()).size(), 1u);
}

}  // namespace

// What goes wrong in csrc/model: thrown there, turned into a status and a message by csrc/capi. Codes are those of
// sbk_status.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>

#include "include/squeezebert_kernels.h"

namespace sbk {

class Failure : public std::runtime_error {
 public:
  Failure(sbk_status status, const std::string& message) : std::runtime_error(message), status(status) {}
  sbk_status status;
};

// "length=600 is more than max_length=512" out of text("length=", 600, " is more than max_length=", 512).
inline std::string text_of(const std::string& s) { return s; }
inline std::string text_of(const char* s) { return s; }
inline std::string text_of(char* s) { return s; }
inline std::string text_of(std::string_view s) { return std::string(s); }
template <class T>
std::string text_of(T number) {
  return std::to_string(number);
}
template <class... Args>
std::string text(const Args&... args) {
  return (text_of(args) + ... + std::string());
}

template <class... Args>
[[noreturn]] void fail(sbk_status status, const Args&... args) {
  throw Failure(status, text(args...));
}

}  // namespace sbk

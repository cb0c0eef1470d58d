// sbk_tokenize FILE: the tokenizer whose data FILE holds, for tests/export/test_native_tokenizer.py to talk to.
//
// Requests on stdin, answers on stdout, everything in 32-bit little-endian integers and strings (their size, then
// bytes):
//
//   0  max_length  truncation  has_pair  text [pair]    ->  0  n  n * {id, type, special, begin, end}   or   1  message
//   1  skip_special  n  n * id                          ->  0  text
//   2  id                                               ->  0  token  or  1  message
//   3  token                                            ->  0  id     or  1  message
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "model/tokenizer.h"

namespace {

bool read(void* data, size_t bytes) { return std::fread(data, 1, bytes, stdin) == bytes; }

int32_t number() {
  int32_t value;
  if (!read(&value, sizeof value)) std::exit(1);
  return value;
}

std::string string() {
  std::string text(static_cast<uint32_t>(number()), '\0');
  if (!read(text.data(), text.size())) std::exit(1);
  return text;
}

void put(int32_t value) { std::fwrite(&value, 1, sizeof value, stdout); }

void put(std::string_view text) {
  put(static_cast<int32_t>(text.size()));
  std::fwrite(text.data(), 1, text.size(), stdout);
}

void refuse(std::string_view why) {
  put(1);
  put(why);
}

void encode(const sbk::Tokenizer& tokenizer) {
  const int32_t max_length = number();
  const auto truncation = static_cast<sbk::Truncation>(number());
  const bool has_pair = number() != 0;
  const std::string text = string(), pair_text = has_pair ? string() : "";
  const std::string_view pair = pair_text;
  sbk::Encoding found;
  std::string error;
  if (!tokenizer.encode(text, has_pair ? &pair : nullptr, max_length, truncation, &found, &error)) return refuse(error);
  put(0);
  put(static_cast<int32_t>(found.ids.size()));
  for (size_t i = 0; i < found.ids.size(); i++) {
    put(found.ids[i]);
    put(found.type_ids[i]);
    put(found.special[i]);
    put(static_cast<int32_t>(found.spans[i].begin));
    put(static_cast<int32_t>(found.spans[i].end));
  }
}

void decode(const sbk::Tokenizer& tokenizer) {
  const bool skip_special = number() != 0;
  std::vector<int32_t> ids(static_cast<uint32_t>(number()));
  if (!read(ids.data(), ids.size() * sizeof(int32_t))) std::exit(1);
  put(0);
  put(tokenizer.decode(ids.data(), ids.size(), skip_special));
}

void token(const sbk::Tokenizer& tokenizer) {
  const auto found = tokenizer.token(number());
  if (!found) return refuse("no token has this id");
  put(0);
  put(*found);
}

void id(const sbk::Tokenizer& tokenizer) {
  const auto found = tokenizer.id(string());
  if (!found) return refuse("no such token");
  put(0);
  put(*found);
}

}  // namespace

int main(int argc, char** argv) {
  std::FILE* file = argc == 2 ? std::fopen(argv[1], "rb") : nullptr;
  if (file == nullptr) {
    std::fprintf(stderr, "usage: sbk_tokenize FILE\n");
    return 2;
  }
  std::fseek(file, 0, SEEK_END);
  const size_t bytes = static_cast<size_t>(std::ftell(file));
  std::rewind(file);
  std::vector<uint64_t> data(bytes / sizeof(uint64_t) + 1);
  const bool complete = std::fread(data.data(), 1, bytes, file) == bytes;
  std::fclose(file);
  sbk::Tokenizer tokenizer;
  std::string error = "it cannot be read";
  if (!complete || !tokenizer.open(data.data(), bytes, &error)) {
    std::fprintf(stderr, "%s: %s\n", argv[1], error.c_str());
    return 1;
  }
  for (int32_t request; read(&request, sizeof request); std::fflush(stdout)) {
    if (request == 0) encode(tokenizer);
    if (request == 1) decode(tokenizer);
    if (request == 2) token(tokenizer);
    if (request == 3) id(tokenizer);
  }
}

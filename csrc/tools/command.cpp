#include "tools/command.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <new>

namespace sbk::tools {
namespace {

constexpr const char* kDtypes[] = {"default", "float32", "bfloat16", "int8", "float16"};
constexpr const char* kHeads[] = {
    "default",           "none", "masked_lm", "sequence_classification", "multiple_choice", "token_classification",
    "question_answering"};

template <size_t N>
int index_of(const char* const (&names)[N], const std::string& name, const char* what) {
  std::string known;
  for (size_t i = 0; i < N; i++) {
    if (name == names[i]) return static_cast<int>(i);
    if (i > 0) known += (known.empty() ? "" : ", ") + std::string(names[i]);
  }
  throw UsageError(std::string(what) + " '" + name + "' is none of " + known);
}

// Bytes of the UTF-8 character at the start of `text`; 0 if it is none.
size_t character(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const size_t size = first < 0x80 ? 1 : first >= 0xC2 && first < 0xE0 ? 2 : (first & 0xF0) == 0xE0 ? 3 : 4;
  if ((first >= 0x80 && first < 0xC2) || first > 0xF4 || text.size() < size) return 0;
  for (size_t i = 1; i < size; i++) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const bool overlong = (first == 0xE0 && byte(1) < 0xA0) || (first == 0xF0 && byte(1) < 0x90);
  const bool beyond = (first == 0xED && byte(1) > 0x9F) || (first == 0xF4 && byte(1) > 0x8F);
  return overlong || beyond ? 0 : size;
}

// The number of the control character at the start of `text`, `size` bytes of UTF-8; -1 for another.
int control(std::string_view text, size_t size) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x20 || first == 0x7F) return first;
  const auto second = static_cast<unsigned char>(size == 2 ? text[1] : 0);
  return first == 0xC2 && second < 0xA0 && size == 2 ? second : -1;  // U+0080 to U+009F
}

// What is special in `text` escaped; `in_json`: as JSON wants it.
std::string escaped(std::string_view text, bool in_json) {
  std::string out;
  while (!text.empty()) {
    const size_t size = character(text);
    const int code = size == 0 ? -1 : control(text, size);
    if (size == 0) {
      out += "\xEF\xBF\xBD";
    } else if (in_json && (text[0] == '"' || text[0] == '\\')) {
      out += '\\', out += text[0];
    } else if (!in_json && code == '\n') {
      out += "\\n";
    } else if (code >= 0 && (in_json || code != '\t')) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(code));
      out += escape;
    } else {
      out += text.substr(0, size);
    }
    text.remove_prefix(size == 0 ? 1 : size);
  }
  return out;
}

}  // namespace

std::string shown(std::string_view text) { return escaped(text, false); }

void check(sbk_status status) {
  if (status == SBK_OUT_OF_MEMORY) throw std::bad_alloc();
  if (status != SBK_OK) throw std::runtime_error(sbk_last_error());
}

ModelHandle load_model(const std::string& path, const sbk_load_options& options) {
  sbk_load_options given = options;
  given.size = sizeof given;
  sbk_model* model = nullptr;
  check(sbk_model_load(path.c_str(), &given, &model));
  return ModelHandle(model);
}

ContextHandle make_context(int32_t threads) {
  sbk_context_options options{};
  options.size = sizeof options;
  options.threads = threads;
  sbk_context* context = nullptr;
  check(sbk_context_create(&options, &context));
  return ContextHandle(context);
}

sbk_model_info info_of(const sbk_model* model) {
  sbk_model_info info{};
  info.size = sizeof info;
  check(sbk_model_get_info(model, &info));
  return info;
}

const char* dtype_name(sbk_dtype dtype) {
  return dtype >= 0 && static_cast<size_t>(dtype) < std::size(kDtypes) ? kDtypes[dtype] : "unknown";
}

const char* head_name(sbk_head head) {
  return head >= 0 && static_cast<size_t>(head) < std::size(kHeads) ? kHeads[head] : "unknown";
}

sbk_dtype dtype_named(const std::string& name) { return static_cast<sbk_dtype>(index_of(kDtypes, name, "dtype")); }

sbk_head head_named(const std::string& name) { return static_cast<sbk_head>(index_of(kHeads, name, "--head")); }

int64_t parse_number(const std::string& what, std::string_view text, int64_t low, int64_t high) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    throw UsageError(what + " must be a whole number from " + std::to_string(low) + " to " + std::to_string(high) +
                     ", got '" + std::string(text) + "'");
  }
  return value;
}

std::vector<int64_t> parse_numbers(const std::string& what, std::string_view text, int64_t low, int64_t high) {
  std::vector<int64_t> values;
  for (;;) {
    const size_t comma = text.find(',');
    values.push_back(parse_number(what, text.substr(0, comma), low, high));
    if (comma == text.npos) return values;
    text.remove_prefix(comma + 1);
  }
}

Arguments::Arguments(int argc, char** argv, const std::vector<Option>& known) {
  bool options = true;
  for (int i = 1; i < argc; i++) {
    const std::string argument = argv[i];
    if (!options || argument.size() < 2 || argument[0] != '-') {
      positional.push_back(argument);
      continue;
    }
    if (argument == "--") {
      options = false;
      continue;
    }
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const Option* option = nullptr;
    for (const Option& o : known) {
      if (name == o.name) option = &o;
    }
    if (option == nullptr) throw UsageError("unknown option '" + name + "' (see --help; texts go behind '--')");
    if (!option->takes_value && equals != argument.npos) throw UsageError(name + " takes no value");
    if (option->takes_value && equals == argument.npos && ++i == argc) throw UsageError(name + " needs a value");
    const std::string value = !option->takes_value          ? std::string()
                              : equals != std::string::npos ? argument.substr(equals + 1)
                                                            : std::string(argv[i]);
    given_.emplace_back(name, value);
  }
}

const std::string* Arguments::find(std::string_view name) const {
  const std::string* found = nullptr;
  for (const auto& [option, value] : given_) {
    if (option == name) found = &value;  // the last one counts
  }
  return found;
}

std::string Arguments::text(std::string_view name, const std::string& missing) const {
  const std::string* value = find(name);
  return value != nullptr ? *value : missing;
}

int64_t Arguments::number(const std::string& name, int64_t missing, int64_t low, int64_t high) const {
  const std::string* value = find(name);
  return value != nullptr ? parse_number(name, *value, low, high) : missing;
}

void Json::separate() {
  if (!first_ && !after_key_) out_ += ',';
  first_ = after_key_ = false;
}

Json& Json::open(char bracket) {
  separate();
  out_ += bracket;
  open_ += bracket == '{' ? '}' : ']';
  first_ = true;
  return *this;
}

Json& Json::close() {
  out_ += open_.back();
  open_.pop_back();
  first_ = false;
  return *this;
}

Json& Json::key(std::string_view name) {
  text(name);
  out_ += ':';
  after_key_ = true;
  return *this;
}

Json& Json::text(std::string_view value) {
  separate();
  out_ += '"' + escaped(value, true) + '"';
  return *this;
}

Json& Json::number(double value) {
  separate();
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  out_ += std::isfinite(value) ? text : "null";
  return *this;
}

Json& Json::integer(int64_t value) {
  separate();
  out_ += std::to_string(value);
  return *this;
}

Json& Json::boolean(bool value) {
  separate();
  out_ += value ? "true" : "false";
  return *this;
}

int run_main(const char* program, void (*body)(int, char**), int argc, char** argv) {
  std::string message;
  int status = 1;
  try {
    body(argc, argv);
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
    message = "cannot write to the standard output";
  } catch (const UsageError& error) {
    message = error.what(), status = 2;
  } catch (const std::bad_alloc&) {
    message = "out of memory";
  } catch (const std::exception& error) {
    message = error.what();
  }
  std::fflush(stdout);
  std::fprintf(stderr, "%s: error: %s\n", program, shown(message).c_str());
  return status;
}

}  // namespace sbk::tools

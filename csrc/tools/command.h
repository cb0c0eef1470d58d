// tools/ is the room of the programs sbk-run and sbk-bench, which use the C interface as any program would.
//
// This file: what they share, arguments, errors, JSON, and handles of the C interface that free themselves.
#pragma once
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "squeezebert_kernels.h"

namespace sbk::tools {

// Exit status 2: what was asked for makes no sense. Any other exception is exit status 1.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws what sbk_last_error() tells.
void check(sbk_status status);

struct Free {
  void operator()(sbk_model* model) const { sbk_model_free(model); }
  void operator()(sbk_context* context) const { sbk_context_free(context); }
  void operator()(sbk_weight* weight) const { sbk_weight_free(weight); }
};
using ModelHandle = std::unique_ptr<sbk_model, Free>;
using ContextHandle = std::unique_ptr<sbk_context, Free>;
using WeightHandle = std::unique_ptr<sbk_weight, Free>;

ModelHandle load_model(const std::string& path, const sbk_load_options& options);
// `threads`: 0 for the library's choice.
ContextHandle make_context(int32_t threads);
sbk_model_info info_of(const sbk_model* model);

// "float32", ...; "sequence_classification", ...
const char* dtype_name(sbk_dtype dtype);
const char* head_name(sbk_head head);
// Throw UsageError, with the names that there are.
sbk_dtype dtype_named(const std::string& name);
sbk_head head_named(const std::string& name);

// Whole number from `low` to `high`; UsageError names `what` otherwise.
int64_t parse_number(const std::string& what, std::string_view text, int64_t low, int64_t high);
// "1,2,4"
std::vector<int64_t> parse_numbers(const std::string& what, std::string_view text, int64_t low, int64_t high);

struct Option {
  const char* name;  // "--threads"
  bool takes_value;
};

// Options anywhere, as "--name value" or "--name=value"; behind "--" there are none. "-" is no option.
class Arguments {
 public:
  Arguments(int argc, char** argv, const std::vector<Option>& known);

  bool has(std::string_view name) const { return find(name) != nullptr; }
  std::string text(std::string_view name, const std::string& missing) const;
  int64_t number(const std::string& name, int64_t missing, int64_t low, int64_t high) const;

  std::vector<std::string> positional;

 private:
  const std::string* find(std::string_view name) const;
  std::vector<std::pair<std::string, std::string>> given_;
};

// `text` as one line that a terminal shows and does not obey: control characters (a label or a path may have some that
// move the cursor or change its title) as \n or \u001b, bytes that are no UTF-8 as U+FFFD. Other text and tabs stay.
std::string shown(std::string_view text);

// JSON, value after value: the caller opens and closes objects and arrays. Bytes that are no UTF-8 become U+FFFD,
// numbers that are not finite null. Control characters are escaped, all of them.
class Json {
 public:
  Json& open(char bracket);  // '{' or '['
  Json& close();
  Json& key(std::string_view name);
  Json& text(std::string_view value);
  Json& number(double value);
  Json& integer(int64_t value);
  Json& boolean(bool value);

  Json& field(std::string_view name, std::string_view value) { return key(name).text(value); }
  Json& field(std::string_view name, const char* value) { return key(name).text(value); }
  Json& field(std::string_view name, double value) { return key(name).number(value); }
  Json& field(std::string_view name, int64_t value) { return key(name).integer(value); }
  Json& field(std::string_view name, int32_t value) { return key(name).integer(value); }
  Json& field(std::string_view name, bool value) { return key(name).boolean(value); }
  const std::string& str() const { return out_; }

 private:
  void separate();
  std::string out_, open_;
  bool first_ = true, after_key_ = false;
};

// Calls body(); what it throws becomes one line on stderr and the exit status. Flushes stdout, and fails if that does.
int run_main(const char* program, void (*body)(int, char**), int argc, char** argv);

}  // namespace sbk::tools

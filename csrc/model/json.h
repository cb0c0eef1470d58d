// A reader of JSON (RFC 8259) for config.json and the header of safetensors: the two small texts of a model. Own code
// because the library has no dependencies, on any platform that it is built for.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace sbk {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::map<std::string, Json, std::less<>>;

  // Throws Failure(SBK_BAD_FILE) with `what` and the place. What is nested deeper, or has more values, than
  // limits.h allows is refused; of keys that repeat, the last one counts.
  static Json parse(std::string_view text, const std::string& what);

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
  const bool* boolean() const { return std::get_if<bool>(&value_); }
  const double* number() const { return std::get_if<double>(&value_); }
  const std::string* string() const { return std::get_if<std::string>(&value_); }
  const Array* array() const { return std::get_if<Array>(&value_); }
  const Object* object() const { return std::get_if<Object>(&value_); }

  // Whether it is a whole number of [low, high], and which.
  bool integer(int64_t low, int64_t high, int64_t* out) const;

  // A member of an object; null if there is none or this is no object.
  const Json* find(std::string_view key) const;

 private:
  friend class JsonParser;
  std::variant<std::nullptr_t, bool, double, std::string, Array, Object> value_ = nullptr;
};

}  // namespace sbk

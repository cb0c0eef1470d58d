#include "model/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "model/failure.h"
#include "model/limits.h"

namespace sbk {

class JsonParser {
 public:
  JsonParser(std::string_view text, const std::string& what) : text_(text), what_(what) {}

  Json document() {
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) error("something behind the end");
    return value;
  }

 private:
  std::string_view text_;
  const std::string& what_;
  std::size_t at_ = 0;
  int64_t values_ = 0;

  [[noreturn]] void error(const char* problem) const {
    fail(SBK_BAD_FILE, what_, ": not valid JSON at byte ", at_, ": ", problem);
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
      at_++;
  }
  char peek() {
    skip_space();
    if (at_ == text_.size()) error("it ends too early");
    return text_[at_];
  }
  bool take(char c) {
    if (peek() != c) return false;
    at_++;
    return true;
  }
  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json parse_value(int depth) {
    if (depth > limits::kJsonDepth) error("nested too deeply");
    if (++values_ > limits::kJsonValues) error("it has too many values");
    Json json;
    const char c = peek();
    if (c == '{') {
      json.value_ = parse_object(depth);
    } else if (c == '[') {
      json.value_ = parse_array(depth);
    } else if (c == '"') {
      json.value_ = parse_string();
    } else if (take_word("true")) {
      json.value_ = true;
    } else if (take_word("false")) {
      json.value_ = false;
    } else if (!take_word("null")) {
      json.value_ = parse_number();
    }
    return json;
  }

  Json::Object parse_object(int depth) {
    Json::Object object;
    at_++;
    if (take('}')) return object;
    do {
      if (peek() != '"') error("a key is missing");
      std::string key = parse_string();
      if (!take(':')) error("':' is missing");
      object.insert_or_assign(std::move(key), parse_value(depth + 1));
    } while (take(','));
    if (!take('}')) error("'}' is missing");
    return object;
  }

  Json::Array parse_array(int depth) {
    Json::Array array;
    at_++;
    if (take(']')) return array;
    do array.push_back(parse_value(depth + 1));
    while (take(','));
    if (!take(']')) error("']' is missing");
    return array;
  }

  // Digits from here on into mantissa * 10^exponent. False if there is none.
  bool take_digits(uint64_t& mantissa, int64_t& exponent, bool fraction) {
    constexpr uint64_t kFull = 100'000'000'000'000'000;
    const std::size_t begin = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; at_++) {
      const bool counts = mantissa < kFull;
      if (counts) mantissa = mantissa * 10 + static_cast<uint64_t>(text_[at_] - '0');
      exponent += (counts ? 0 : 1) - (fraction ? 1 : 0);
    }
    return at_ > begin;
  }
  bool take_one_of(std::string_view characters) {
    if (at_ == text_.size() || characters.find(text_[at_]) == std::string_view::npos) return false;
    at_++;
    return true;
  }

  // strtod would read what the locale of the program says, and floating-point from_chars is missing in some standard
  // libraries. Off by an ulp at most, and exact for integers up to 2^53.
  double parse_number() {
    uint64_t mantissa = 0, written = 0;
    int64_t exponent = 0, unused = 0;
    const bool negative = take_one_of("-");
    if (!take_digits(mantissa, exponent, false)) error("not a value");
    if (take_one_of(".") && !take_digits(mantissa, exponent, true)) error("not a value");
    if (take_one_of("eE")) {
      const bool minus = take_one_of("+-") && text_[at_ - 1] == '-';
      if (!take_digits(written, unused, false)) error("not a value");
      const auto most = static_cast<int64_t>(std::min<uint64_t>(written, 100'000));
      exponent += minus ? -most : most;
    }
    double value = static_cast<double>(mantissa);
    if (mantissa == 0) exponent = 0;
    // In two steps, as the smallest numbers' powers of ten are too large.
    const auto power = static_cast<int>(std::clamp<int64_t>(exponent, -600, 400));
    if (power < -300) value /= 1e300;
    value = power >= 0 ? value * std::pow(10.0, power) : value / std::pow(10.0, power < -300 ? -power - 300 : -power);
    return negative ? -value : value;
  }

  uint32_t parse_hex4() {
    uint32_t value = 0;
    const auto* first = text_.data() + at_;
    if (text_.size() - at_ < 4 || std::from_chars(first, first + 4, value, 16).ptr != first + 4) {
      error("\\u needs four hexadecimal digits");
    }
    at_ += 4;
    return value;
  }

  static void append_utf8(std::string& out, uint32_t c) {
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else if (c < 0x800) {
      out += {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
    } else if (c < 0x10000) {
      out += {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3f)),
              static_cast<char>(0x80 | (c & 0x3f))};
    } else {
      out += {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3f)),
              static_cast<char>(0x80 | (c >> 6 & 0x3f)), static_cast<char>(0x80 | (c & 0x3f))};
    }
  }

  void parse_escape(std::string& out) {
    if (at_ == text_.size()) error("a string does not end");
    const char c = text_[at_++];
    constexpr std::string_view escapes = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    if (const std::size_t i = escapes.find(c); i != std::string_view::npos) {
      out += meanings[i];
      return;
    }
    if (c != 'u') error("unknown escape");
    uint32_t code = parse_hex4();
    if (code >= 0xd800 && code < 0xdc00 && text_.substr(at_, 2) == "\\u") {
      at_ += 2;
      const uint32_t low = parse_hex4();
      if (low < 0xdc00 || low > 0xdfff) error("half a surrogate pair");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xd800 && code < 0xe000) {
      code = 0xfffd;
    }
    append_utf8(out, code);
  }

  std::string parse_string() {
    std::string out;
    at_++;
    for (;;) {
      if (at_ == text_.size()) error("a string does not end");
      const char c = text_[at_++];
      if (c == '"') return out;
      if (static_cast<unsigned char>(c) < 0x20) error("a control character in a string");
      if (c == '\\') {
        parse_escape(out);
      } else {
        out += c;
      }
    }
  }
};

Json Json::parse(std::string_view text, const std::string& what) { return JsonParser(text, what).document(); }

bool Json::integer(int64_t low, int64_t high, int64_t* out) const {
  const double* d = number();
  if (d == nullptr || *d != std::floor(*d) || *d < static_cast<double>(low) || *d > static_cast<double>(high)) {
    return false;
  }
  *out = static_cast<int64_t>(*d);
  return true;
}

const Json* Json::find(std::string_view key) const {
  const Object* members = object();
  if (members == nullptr) return nullptr;
  const auto found = members->find(key);
  return found == members->end() ? nullptr : &found->second;
}

}  // namespace sbk

// A strict JSON reader: valid UTF-8, no key twice, no NaN or infinity, bounded depth and size. No writer.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"

namespace edgeae::detail {

struct Json {
  enum class Kind { null, boolean, number, string, list, object };

  Kind kind = Kind::null;
  bool boolean = false;
  double number = 0;
  std::optional<std::int64_t> integer;  // of a number written without a point or exponent
  std::string string;
  std::vector<std::string> keys;  // of an object, as many as items
  std::vector<Json> items;        // of a list or an object

  const Json* find(const std::string& key) const {
    for (std::size_t i = 0; i < keys.size(); ++i)
      if (keys[i] == key) return &items[i];
    return nullptr;
  }
};

// A double from decimal text, whatever locale the program has set: std::stod follows it, std::from_chars for
// floating-point numbers is missing from libc++ (Android, Apple).
inline bool parse_double(const std::string& word, double& value) {
  std::istringstream in(word);
  in.imbue(std::locale::classic());
  in >> value;
  return !in.fail() && in.peek() == std::istringstream::traits_type::eof() && std::isfinite(value);
}

class JsonParser {
 public:
  // `where` names the source in messages.
  JsonParser(const std::string& source, std::string where) : text_(source), where_(std::move(where)) {}

  Json parse() {
    check_utf8();
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) fail("extra data");
    return value;
  }

 private:
  static constexpr int kMaxDepth = 32;
  static constexpr std::size_t kMaxValues = 1000000;  // about 100 MB of Json

  [[noreturn]] void fail(const std::string& what) const {
    throw BundleError(text(where_, ": not valid JSON: ", what, " at byte ", at_));
  }

  void check_utf8() const {
    for (std::size_t i = 0; i < text_.size();) {
      const auto byte = [&](std::size_t k) {
        return k < text_.size() ? static_cast<unsigned>(static_cast<unsigned char>(text_[k])) : 0u;
      };
      const unsigned lead = byte(i);
      const std::size_t more = lead < 0x80 ? 0 : lead >> 5 == 6 ? 1 : lead >> 4 == 14 ? 2 : lead >> 3 == 30 ? 3 : 9;
      unsigned code = more == 0 ? lead : lead & (0x3Fu >> more);
      bool valid = more < 9;
      for (std::size_t k = 1; valid && k <= more; ++k) {
        valid = byte(i + k) >> 6 == 2;
        code = code << 6 | (byte(i + k) & 0x3Fu);
      }
      const unsigned least[] = {0, 0x80, 0x800, 0x10000};
      valid = valid && code >= least[more] && code < 0x110000 && (code < 0xD800 || code > 0xDFFF);
      if (!valid) throw BundleError(text(where_, ": not UTF-8 at byte ", i));
      i += more + 1;
    }
  }

  void skip_space() {
    while (at_ < text_.size() && std::string(" \t\r\n").find(text_[at_]) != std::string::npos) ++at_;
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(const std::string& word) {
    if (text_.compare(at_, word.size(), word) != 0) return false;
    at_ += word.size();
    return true;
  }

  Json parse_value(int depth) {
    if (depth > kMaxDepth) throw BundleError(text(where_, ": nested deeper than ", kMaxDepth, " lists and objects"));
    if (++values_ > kMaxValues) throw BundleError(where_ + ": holds too many values");
    skip_space();
    Json value;
    if (peek() == '{') return parse_items(depth, Json::Kind::object, '}');
    if (peek() == '[') return parse_items(depth, Json::Kind::list, ']');
    if (peek() == '"') {
      value.kind = Json::Kind::string;
      value.string = parse_string();
    } else if (take("true") || take("false")) {
      value.kind = Json::Kind::boolean;
      value.boolean = text_[at_ - 2] == 'u';
    } else if (!take("null")) {
      for (const char* name : {"NaN", "Infinity", "-Infinity"})
        if (take(name)) throw BundleError(text(where_, ": ", name, " is not allowed in JSON"));
      parse_number(value);
    }
    return value;
  }

  Json parse_items(int depth, Json::Kind kind, char end) {
    Json value;
    value.kind = kind;
    std::set<std::string> seen;
    ++at_;
    skip_space();
    if (peek() == end) return ++at_, value;
    for (;;) {
      if (kind == Json::Kind::object) {
        skip_space();
        std::string key = parse_string();
        if (!seen.insert(key).second) throw BundleError(where_ + ": the key " + in_quotes(key) + " stands there twice");
        skip_space();
        if (!take(":")) fail("expected ':'");
        value.keys.push_back(std::move(key));
      }
      value.items.push_back(parse_value(depth + 1));
      skip_space();
      if (peek() == end) return ++at_, value;
      if (!take(",")) fail("expected ','");
    }
  }

  void parse_number(Json& value) {
    const std::size_t start = at_;
    const auto digits = [&] {
      const std::size_t first = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      if (at_ == first) fail("expected a value");
    };
    take("-");
    if (!take("0")) digits();
    bool whole = true;
    if (take(".")) whole = false, digits();
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      ++at_;
      if (!take("+")) take("-");
      digits();
    }
    const std::string word = text_.substr(start, at_ - start);
    value.kind = Json::Kind::number;
    if (!parse_double(word, value.number)) throw BundleError(where_ + ": expected a finite number, got " + in_quotes(word));
    if (whole && word.size() <= 18) value.integer = std::stoll(word);
  }

  std::string parse_string() {
    if (!take("\"")) fail("expected a string");
    std::string result;
    for (;;) {
      if (at_ >= text_.size()) fail("a string without end");
      const char c = text_[at_++];
      if (c == '"') return result;
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
      if (c != '\\') {
        result += c;
        continue;
      }
      const char kind = peek();
      ++at_;
      const std::string plain = "\"\\/bfnrt";
      const auto place = plain.find(kind);
      if (kind == 'u')
        append_utf8(result, parse_escape());
      else if (kind != '\0' && place != std::string::npos)
        result += "\"\\/\b\f\n\r\t"[place];
      else
        fail("an unknown escape");
    }
  }

  unsigned parse_escape() {
    const unsigned code = parse_hex();
    if (code < 0xD800 || code > 0xDFFF) return code;
    if (code > 0xDBFF || !take("\\u")) fail("half a surrogate pair");
    const unsigned low = parse_hex();
    if (low < 0xDC00 || low > 0xDFFF) fail("half a surrogate pair");
    return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
  }

  unsigned parse_hex() {
    unsigned code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const auto digit = std::string("0123456789abcdef0123456789ABCDEF").find(peek());
      if (peek() == '\0' || digit == std::string::npos) fail("expected four hexadecimal digits");
      code = code << 4 | static_cast<unsigned>(digit % 16);
    }
    return code;
  }

  static void append_utf8(std::string& out, unsigned code) {
    const auto add = [&](unsigned byte) { out += static_cast<char>(byte); };
    if (code < 0x80) return add(code);
    if (code < 0x800) {
      add(0xC0 | code >> 6);
    } else {
      if (code < 0x10000) {
        add(0xE0 | code >> 12);
      } else {
        add(0xF0 | code >> 18);
        add(0x80 | (code >> 12 & 0x3F));
      }
      add(0x80 | (code >> 6 & 0x3F));
    }
    add(0x80 | (code & 0x3F));
  }

  const std::string& text_;
  std::string where_;
  std::size_t at_ = 0;
  std::size_t values_ = 0;
};

/// Parse JSON. Throws BundleError that names `where`.
inline Json parse_json(const std::string& source, const std::string& where) {
  return JsonParser(source, where).parse();
}

}  // namespace edgeae::detail

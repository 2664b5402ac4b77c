// A strict JSON reader: valid UTF-8, no key twice, no NaN or infinity, bounded depth and amount. No writer.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"

namespace edgeae::detail {

struct Json {
  enum class Kind : unsigned char { null, boolean, whole, real, string, list, object };

  Kind kind = Kind::null;
  std::string word;         // of a string, and of a boolean or a number as it was written
  std::vector<Json> items;  // of a list; of an object key, value, key, value, ...

  std::size_t size() const { return kind == Kind::object ? items.size() / 2 : items.size(); }
  const std::string& key(std::size_t i) const { return items[2 * i].word; }
  const Json& value(std::size_t i) const { return items[kind == Kind::object ? 2 * i + 1 : i]; }

  const Json* find(const std::string& key) const {
    for (std::size_t i = 0; kind == Kind::object && i < size(); ++i)
      if (this->key(i) == key) return &value(i);
    return nullptr;
  }

  // A member of an object; a missing one is null.
  const Json& at(const std::string& key) const {
    static const Json null;
    const Json* found = find(key);
    return found == nullptr ? null : *found;
  }

  bool is_null() const { return kind == Kind::null; }

  // Of a number; infinite where a whole one is beyond float64.
  double number() const {
    double found = 0;
    parse_double(word, found);
    return found;
  }

  // Of a whole number, if it fits 64 bits.
  std::optional<std::int64_t> integer() const {
    const bool minus = !word.empty() && word[0] == '-';
    const std::uint64_t limit = (std::uint64_t{1} << 63) - (minus ? 0 : 1);
    std::uint64_t found = 0;
    for (std::size_t i = minus ? 1 : 0; i < word.size(); ++i) {
      const std::uint64_t digit = static_cast<std::uint64_t>(word[i] - '0');
      if (found > (limit - digit) / 10) return std::nullopt;
      found = found * 10 + digit;
    }
    return static_cast<std::int64_t>(minus ? 0 - found : found);
  }

  // As Python's repr would write it, and no more than is needed of it.
  std::string shown() const {
    if (kind == Kind::string) return in_quotes(word);
    std::string all;
    write(all);
    return shortened(all);
  }

 private:
  void write(std::string& out) const {
    if (out.size() > 500) return;
    switch (kind) {
      case Kind::null: out += "None"; return;
      case Kind::boolean: out += word == "true" ? "True" : "False"; return;
      case Kind::whole: out += word == "-0" ? "0" : word; return;
      case Kind::real: out += float_text(number()); return;
      case Kind::string: out += quoted(start_of(word, 100)); return;
      default: break;
    }
    out += kind == Kind::list ? '[' : '{';
    for (std::size_t i = 0; i < size(); ++i) {
      if (i > 0) out += ", ";
      if (kind == Kind::object) out += quoted(start_of(key(i), 100)) + ": ";
      value(i).write(out);
    }
    out += kind == Kind::list ? ']' : '}';
  }
};

class JsonParser {
 public:
  // `where` names the source in messages.
  JsonParser(const std::string& source, std::string where) : text_(source), where_(std::move(where)) {}

  Json parse() {
    require_bounded();
    for (std::size_t i = 0, size = 0; i < text_.size(); i += size)
      if ((size = code_point(text_, i, false).second) == 0) throw BundleError(text(where_, ": not UTF-8 at byte ", i));
    Json value = parse_value();
    skip_space();
    if (at_ != text_.size()) fail("extra data");
    return value;
  }

 private:
  static constexpr int kMaxDepth = 32;
  static constexpr std::size_t kMaxContainers = 1u << 16;  // lists, objects and keys
  static constexpr std::size_t kMaxStrings = 1u << 20;
  static constexpr std::size_t kMaxDigits = 4300;  // of a whole number, as in Python

  [[noreturn]] void fail(const std::string& what) const {
    throw BundleError(text(where_, ": not valid JSON: ", what, " at byte ", at_));
  }

  // Before anything is allocated or recurses, whatever the bytes are.
  void require_bounded() const {
    std::size_t quotes = 0, containers = 0, keys = 0;
    int depth = 0;
    for (const char c : text_) quotes += c == '"' ? 1 : 0;
    if (quotes > 2 * kMaxStrings) throw BundleError(where_ + ": holds more than " + grouped(kMaxStrings) + " strings");
    bool inside = false;
    for (std::size_t i = 0; i < text_.size(); ++i) {
      const char c = text_[i];
      if (c == '\\' && i + 1 < text_.size() && (text_[i + 1] == '\\' || text_[i + 1] == '"'))
        ++i;
      else if (c == '"')
        inside = !inside;
      else if (!inside && c == ':')
        ++keys;
      else if (!inside && containers <= kMaxContainers && (c == '[' || c == '{' || c == ']' || c == '}')) {
        const bool opened = c == '[' || c == '{';
        depth += opened ? 1 : -1;
        containers += opened ? 1 : 0;
        if (depth > kMaxDepth) throw BundleError(text(where_, ": nested deeper than ", kMaxDepth, " lists and objects"));
      }
    }
    if (containers + keys > kMaxContainers)
      throw BundleError(where_ + ": holds more than " + grouped(kMaxContainers) + " lists, objects and keys");
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\r' || text_[at_] == '\n')) ++at_;
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(const char* word) {
    const std::size_t size = std::char_traits<char>::length(word);
    if (text_.compare(at_, size, word) != 0) return false;
    at_ += size;
    return true;
  }

  Json parse_value() {
    skip_space();
    Json value;
    if (peek() == '{') return parse_items(Json::Kind::object, '}');
    if (peek() == '[') return parse_items(Json::Kind::list, ']');
    if (peek() == '"') {
      value.kind = Json::Kind::string;
      value.word = parse_string();
      return value;
    }
    for (const char* word : {"true", "false"})
      if (take(word)) {
        value.kind = Json::Kind::boolean;
        value.word = word;
        return value;
      }
    if (take("null")) return value;
    for (const char* name : {"NaN", "Infinity", "-Infinity"})
      if (take(name)) throw BundleError(text(where_, ": ", name, " is not allowed in JSON"));
    parse_number(value);
    return value;
  }

  Json parse_items(Json::Kind kind, char end) {
    Json value;
    value.kind = kind;
    ++at_;
    skip_space();
    if (peek() == end) return ++at_, value;
    for (;;) {
      if (kind == Json::Kind::object) {
        skip_space();
        Json key;
        key.kind = Json::Kind::string;
        key.word = parse_string();
        skip_space();
        if (!take(":")) fail("expected ':'");
        value.items.push_back(std::move(key));
      }
      value.items.push_back(parse_value());
      skip_space();
      if (peek() == end) break;
      if (!take(",")) fail("expected ',' or the end");
    }
    ++at_;
    if (kind == Json::Kind::object) refuse_twice(value);
    return value;
  }

  // The key that stands there most often, or the first of those.
  void refuse_twice(const Json& object) const {
    std::map<std::string, std::size_t> counts;
    for (std::size_t i = 0; i < object.size(); ++i) ++counts[object.key(i)];
    if (counts.size() == object.size()) return;
    const std::string* most = nullptr;
    for (std::size_t i = 0; i < object.size(); ++i)
      if (most == nullptr || counts[object.key(i)] > counts[*most]) most = &object.key(i);
    throw BundleError(where_ + ": the key " + in_quotes(*most) + " stands there twice");
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
    value.kind = whole ? Json::Kind::whole : Json::Kind::real;
    value.word = text_.substr(start, at_ - start);
    if (whole && value.word.size() > kMaxDigits + (value.word[0] == '-')) fail("a number of too many digits");
    if (!whole && !std::isfinite(value.number()))
      throw BundleError(where_ + ": the number " + in_quotes(value.word) + " is beyond float64");
  }

  // Half characters become three bytes as if they were whole ones, so that whoever wants text can refuse them.
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
    const unsigned high = parse_hex();
    const std::size_t behind = at_;
    if (high < 0xD800 || high > 0xDBFF || !take("\\u")) return high;
    const unsigned low = parse_hex();
    if (low >= 0xDC00 && low <= 0xDFFF) return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    at_ = behind;
    return high;
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

  const std::string& text_;
  std::string where_;
  std::size_t at_ = 0;
};

/// Parse JSON. Throws BundleError that names `where`.
inline Json parse_json(const std::string& source, const std::string& where) {
  return JsonParser(source, where).parse();
}

}  // namespace edgeae::detail

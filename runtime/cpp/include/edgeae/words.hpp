// Values in messages as Python writes them, so that one mistake has the same words in every language.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <limits>
#include <locale>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace edgeae::detail {

// Numbers as C writes them, whatever locale the program has set.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  out.precision(std::numeric_limits<float>::max_digits10);
  (out << ... << parts);
  return out.str();
}

template <class List>
std::string joined(const List& items, const char* between = ", ") {
  std::string all;
  bool first = true;
  for (const auto& item : items) {
    if (!std::exchange(first, false)) all += between;
    all += text(item);
  }
  return all;
}

// As Python writes a tuple: (), (4,), (4, 5).
template <class List>
std::string tuple_of(const List& items) {
  return "(" + joined(items) + (std::size(items) == 1 ? ",)" : ")");
}

// With commas between thousands.
inline std::string grouped(std::uintmax_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

inline std::string first_line(const std::string& message) { return message.substr(0, message.find('\n')); }

// The code point at `at` of UTF-8, and how many bytes it has: 0 where they are no UTF-8. Surrogates only where allowed.
inline std::pair<std::uint32_t, std::size_t> code_point(const std::string& source, std::size_t at, bool surrogates) {
  const auto byte = [&](std::size_t k) {
    return k < source.size() ? static_cast<std::uint32_t>(static_cast<unsigned char>(source[k])) : 0u;
  };
  const std::uint32_t lead = byte(at);
  if (lead < 0x80) return {lead, at < source.size() ? 1 : 0};
  const std::size_t more = lead >> 5 == 6 ? 1 : lead >> 4 == 14 ? 2 : lead >> 3 == 30 ? 3 : 0;
  std::uint32_t code = lead & (0x3Fu >> more);
  bool valid = more > 0;
  for (std::size_t k = 1; valid && k <= more; ++k) {
    valid = byte(at + k) >> 6 == 2;
    code = code << 6 | (byte(at + k) & 0x3Fu);
  }
  const std::uint32_t least[] = {0, 0x80, 0x800, 0x10000};
  valid = valid && code >= least[more] && code < 0x110000 && (surrogates || code < 0xD800 || code > 0xDFFF);
  return {code, valid ? more + 1 : 0};
}

inline void append_utf8(std::string& out, std::uint32_t code) {
  const auto add = [&](std::uint32_t bits) { out += static_cast<char>(static_cast<unsigned char>(bits)); };
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

// Python's str.isprintable, but for what is rare beyond ASCII: controls, spaces, half and private characters are not.
inline bool is_printable(std::uint32_t code) {
  static constexpr std::pair<std::uint32_t, std::uint32_t> no[] = {
      {0, 0x1F},         {0x7F, 0xA0},     {0xAD, 0xAD},     {0x600, 0x605},   {0x61C, 0x61C},     {0x6DD, 0x6DD},
      {0x70F, 0x70F},    {0x1680, 0x1680}, {0x180E, 0x180E}, {0x2000, 0x200F}, {0x2028, 0x202F},   {0x205F, 0x206F},
      {0x3000, 0x3000},  {0xD800, 0xF8FF}, {0xFEFF, 0xFEFF}, {0xFFF0, 0xFFFB}, {0xFFFE, 0xFFFF},   {0xE0000, 0x10FFFF}};
  for (const auto& [first, last] : no)
    if (code >= first && code <= last) return false;
  return true;
}

// A string as Python's repr writes it, or as ascii does.
inline std::string quoted(const std::string& word, bool only_ascii = false) {
  const bool twice = word.find('\'') != std::string::npos && word.find('"') == std::string::npos;
  const char quote = twice ? '"' : '\'';
  std::string out(1, quote);
  for (std::size_t at = 0; at < word.size();) {
    auto [code, size] = code_point(word, at, true);
    if (size == 0) code = 0xFFFD, size = 1;
    at += size;
    const std::string plain = "\\\n\r\t";
    const auto known = code < 0x80 ? plain.find(static_cast<char>(code)) : std::string::npos;
    if (known != std::string::npos || code == static_cast<unsigned char>(quote)) {
      out += '\\';
      out += known == std::string::npos ? quote : "\\nrt"[known];
    } else if (is_printable(code) && !(only_ascii && code > 0x7E)) {
      append_utf8(out, code);
    } else {
      char escape[16];
      std::snprintf(escape, sizeof escape, code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x",
                    static_cast<unsigned>(code));
      out += escape;
    }
  }
  return out + quote;
}

// The first `count` characters.
inline std::string start_of(const std::string& word, std::size_t count) {
  std::size_t at = 0;
  for (; count > 0 && at < word.size(); --count) {
    const std::size_t size = code_point(word, at, true).second;
    at += size == 0 ? 1 : size;
  }
  return word.substr(0, at);
}

inline std::string shortened(const std::string& word) {
  return start_of(word, 60) == word ? word : start_of(word, 57) + "...";
}

// A string for a message: one line, not long, nothing in it that is not printable.
inline std::string in_quotes(const std::string& word) {
  bool printable = true;
  for (std::size_t at = 0; at < word.size() && printable;) {
    const auto [code, size] = code_point(word, at, true);
    printable = size > 0 && is_printable(code);
    at += size == 0 ? 1 : size;
  }
  return shortened(quoted(word, !printable));
}

// A double from decimal text, whatever locale the program has set: std::stod follows it, std::from_chars for
// floating-point numbers is missing from libc++ (Android, Apple). What is too large is infinite.
inline bool parse_double(const std::string& word, double& value) {
  std::istringstream in(word);
  in.imbue(std::locale::classic());
  value = 0;
  in >> value;
  if (!in.fail()) return in.peek() == std::istringstream::traits_type::eof();
  if (!in.eof() || word.empty() || word.back() < '0' || word.back() > '9') return false;
  const double infinity = std::numeric_limits<double>::infinity();
  if (value > 1 || value < -1) value = value > 0 ? infinity : -infinity;
  return true;  // libc++ also calls a subnormal number a failure
}

// A finite double as Python writes it: the fewest digits that give it back.
inline std::string float_text(double value) {
  std::string shown;
  for (int digits = 0; digits < 17; ++digits) {
    std::ostringstream out;
    out.imbue(std::locale::classic());
    out.precision(digits);
    out << std::scientific << value;
    shown = out.str();
    double back = 0;
    if (parse_double(shown, back) && !(back < value) && !(back > value)) break;
  }
  const auto mark = shown.find('e');
  const int exponent = std::stoi(shown.substr(mark + 1));
  const std::string sign = shown[0] == '-' ? "-" : "";
  std::string digits;
  for (const char c : shown.substr(0, mark))
    if (c >= '0' && c <= '9') digits += c;
  while (digits.size() > 1 && digits.back() == '0') digits.pop_back();
  if (exponent < -4 || exponent >= 16) {
    if (digits.size() > 1) digits.insert(1, ".");
    char tail[16];
    std::snprintf(tail, sizeof tail, "e%c%02d", exponent < 0 ? '-' : '+', exponent < 0 ? -exponent : exponent);
    return sign + digits + tail;
  }
  if (exponent < 0) return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const std::size_t whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.insert(whole, ".");
}

}  // namespace edgeae::detail

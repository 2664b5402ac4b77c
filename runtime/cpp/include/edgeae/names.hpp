// What the files of a bundle may be called, and which files that are not its own are passed over.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>

#include "errors.hpp"

namespace edgeae::detail {

// Of ASCII alone, whatever the locale.
inline std::string lower(std::string word) {
  for (char& c : word)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return word;
}

inline bool is_plain_part(const std::string& part) {
  const std::string first = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
  return !part.empty() && first.find(part[0]) != std::string::npos && part.back() != '.' &&
         part.find_first_not_of(first + ".+-") == std::string::npos;
}

// Calls `with` with each part of a path, as long as it returns true.
template <class With>
bool all_parts(const std::string& path, With with) {
  for (std::size_t at = 0, end = 0;; at = end + 1) {
    end = std::min(path.find('/', at), path.size());
    if (!with(path.substr(at, end - at))) return false;
    if (end == path.size()) return true;
  }
}

// Refuse a name that does not mean the same on every system; see export/FORMAT.md.
inline void check_name(const std::string& name, const std::string& where) {
  int parts = 0;
  if (name.size() <= 255 && all_parts(name, [&](const std::string& part) { return is_plain_part(part) && ++parts <= 3; })) return;
  const std::string shown = start_of(name, 60) == name ? name : start_of(name, 57) + "...";
  throw BundleError(where + ": the file name " + quoted(shown) + " is not a plain relative path");
}

// What desktops and network file systems leave in folders and archives: neither read nor refused.
inline bool is_litter(const std::string& path) {
  return !all_parts(path, [](const std::string& part) {
    const std::string word = lower(part);
    for (const char* name : {".ds_store", "thumbs.db", "desktop.ini", "__macosx"})
      if (word == name) return false;
    if (word.rfind("._", 0) == 0 && word.find('\n') == std::string::npos) return false;
    return !(word.size() > 4 && word.rfind(".nfs", 0) == 0 &&
             word.find_first_not_of("0123456789abcdef", 4) == std::string::npos);
  });
}

}  // namespace edgeae::detail

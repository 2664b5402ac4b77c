// What edgeae throws on purpose. Every message is one line: which file or argument, what is wrong, what to do.
#pragma once

#include <limits>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace edgeae {

/// Base of every error that edgeae throws on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Data or an argument is not what was asked for: shape, range, option.
class InputError : public Error {
 public:
  using Error::Error;
};

/// A bundle or graph is missing, incomplete, of another format, or does not give its golden results.
class BundleError : public Error {
 public:
  using Error::Error;
};

/// A bundle's bytes are not the ones its manifest promises.
class IntegrityError : public BundleError {
 public:
  using BundleError::BundleError;
};

/// The device that was asked for is absent or did not take the model.
class DeviceError : public Error {
 public:
  using Error::Error;
};

namespace detail {

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
  for (const auto& item : items) {
    if (!all.empty()) all += between;
    all += text(item);
  }
  return all;
}

inline std::string first_line(const std::string& message) { return message.substr(0, message.find('\n')); }

// As Python shows a string, shortened where it is long.
inline std::string in_quotes(const std::string& word) {
  const std::string shown = "'" + word + "'";
  return shown.size() <= 60 ? shown : shown.substr(0, 57) + "...";
}

}  // namespace detail
}  // namespace edgeae

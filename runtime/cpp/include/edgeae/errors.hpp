// What edgeae throws on purpose. Every message is one line: which file or argument, what is wrong, what to do.
#pragma once

#include <stdexcept>

#include "words.hpp"

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

}  // namespace edgeae

// One piece of work in a thread of its own, while the caller does the one before.
#pragma once

#include <chrono>
#include <cstddef>
#include <future>
#include <system_error>
#include <utility>

namespace edgeae::detail::codec {

/// At most one result that is being made. Its errors come with it.
template <class T>
class Ahead {
 public:
  bool waits() const { return future_.valid(); }

  // Of so many values or bytes; where there are few, no thread is made, and the work is done when it is asked for.
  template <class Work>
  void start(std::size_t size, Work work) {
    try {
      future_ = std::async(size < kWorthThread ? std::launch::deferred : std::launch::async, work);
    } catch (const std::system_error&) {
      future_ = std::async(std::launch::deferred, work);  // the system gives no more threads
    }
  }

  T take() { return future_.get(); }

  // Do now what has no thread.
  void settle() {
    if (waits() && future_.wait_for(std::chrono::seconds(0)) == std::future_status::deferred) take();
  }

  void finish() {
    if (waits()) take();
  }

  // Wait until nothing is used any more.
  void forget() { future_ = {}; }

 private:
  static constexpr std::size_t kWorthThread = 16384;

  std::future<T> future_;
};

}  // namespace edgeae::detail::codec

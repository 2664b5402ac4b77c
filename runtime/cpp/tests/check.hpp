// What a test program needs: checks that count and print, and go on.
#pragma once

#include <edgeae/edgeae.hpp>
#include <exception>
#include <iostream>
#include <string>

inline int failures = 0;

inline void expect(bool condition, const std::string& what, const char* file, int line) {
  if (condition) return;
  ++failures;
  std::cout << file << ':' << line << ": " << what << '\n';
}

#define CHECK(condition) expect(condition, #condition, __FILE__, __LINE__)

// The statement must throw exactly `Kind`, and its message must contain `part` and be one line.
#define CHECK_THROWS(Kind, part, ...)                                                                \
  do {                                                                                               \
    std::string thrown = "nothing";                                                                  \
    bool right = false;                                                                              \
    try {                                                                                            \
      static_cast<void>(__VA_ARGS__);                                                                \
    } catch (const std::exception& problem) {                                                        \
      thrown = problem.what();                                                                       \
      right = typeid(problem) == typeid(Kind) && thrown.find(part) != std::string::npos &&           \
              thrown.find('\n') == std::string::npos;                                                 \
    }                                                                                                \
    expect(right, std::string(#__VA_ARGS__) + " threw: " + thrown, __FILE__, __LINE__);               \
  } while (false)

inline int finish() {
  std::cout << (failures == 0 ? "ok" : std::to_string(failures) + " failed") << '\n';
  return failures == 0 ? 0 : 1;
}

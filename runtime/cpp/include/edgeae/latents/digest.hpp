// What binds a latent file to the model that decodes it; export/FORMAT.md says how.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "../sha256.hpp"

namespace edgeae::detail::codec {

/// The SHA-256, in hexadecimal, of an ONNX file without its metadata: without every top-level field 14 (metadata_props) of
/// the ModelProto, so that a new threshold changes nothing. Nothing if it is no such file.
inline std::optional<std::string> decoder_digest(const std::string& graph) {
  constexpr std::uint64_t kMetadata = 14;
  std::size_t at = 0;
  const auto varint = [&]() -> std::optional<std::uint64_t> {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && at < graph.size(); shift += 7) {
      const auto byte = static_cast<unsigned char>(graph[at++]);
      value |= std::uint64_t{byte & 127u} << shift;
      if (byte < 128) return value;
    }
    return std::nullopt;
  };
  std::string kept;
  while (at < graph.size()) {
    const std::size_t start = at;
    const auto key = varint();
    if (!key) return std::nullopt;
    std::optional<std::uint64_t> skip = 0;
    switch (*key & 7) {
      case 0:
        if (!varint()) return std::nullopt;
        break;
      case 1: skip = 8; break;
      case 2: skip = varint(); break;
      case 5: skip = 4; break;
      default: return std::nullopt;
    }
    if (!skip || *skip > graph.size() - at) return std::nullopt;
    at += static_cast<std::size_t>(*skip);
    if (*key >> 3 != kMetadata) kept.append(graph, start, at - start);
  }
  return kept.empty() ? std::nullopt : std::optional(sha256(kept));
}

}  // namespace edgeae::detail::codec

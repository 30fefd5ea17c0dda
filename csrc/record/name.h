// The Philox stream of a name.
#pragma once

#include <cstdint>
#include <string_view>

namespace fastinit {

// The first 8 bytes, little-endian, of BLAKE2b with digest_size=8 over the UTF-8 name.
std::uint64_t stream_of(std::string_view name);

}  // namespace fastinit

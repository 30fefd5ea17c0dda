// The instruction sets a build contains and how one of them is chosen.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../table/segment.h"

namespace fastinit {

struct Isa {
  const char* name;
  void (*fill)(const Segment&, std::int64_t begin, std::int64_t end);
};

extern const Isa kIsaScalar;

// The one of this name that this machine supports, else null.
const Isa* find_isa(const char* name);

// Those that this machine supports, fastest first; null past the last.
const Isa* nth_isa(std::size_t n);

}  // namespace fastinit

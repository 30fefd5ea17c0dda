// Large pages for memory that nobody has touched: one fault in place of 512.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>

#include "../table/segment.h"

namespace fastinit {

// Asks for huge pages where a region covers them whole, so that it never costs memory. Only advice:
// what is mapped already stays as it is, and a kernel without huge pages refuses harmlessly.
inline void use_huge_pages([[maybe_unused]] const Segment& s) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uint64_t kHugePage = std::uint64_t{1} << 21;
  constexpr std::uint64_t kWorthwhile = 4 * kHugePage;
  if (s.dense != s.count) return;
  const auto first = reinterpret_cast<std::uint64_t>(s.data);
  const auto begin = (first + kHugePage - 1) / kHugePage * kHugePage;
  const auto end =
      (first + static_cast<std::uint64_t>(s.count) * itemsize(s.dtype)) / kHugePage * kHugePage;
  if (end < begin + kWorthwhile) return;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace fastinit

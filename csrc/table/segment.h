// What a fill is told to do: plain data, shared by every target.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../stream/distributions.h"
#include "../stream/elements.h"

namespace fastinit {

// One dimension of a region: `size` steps of `memory_stride` elements through memory and of
// `index_stride` through the logical row-major index of the whole parameter.
struct Dim {
  std::int64_t size;
  std::int64_t memory_stride;
  std::int64_t index_stride;
};

constexpr int kMaxDims = 8;

struct Segment {
  Kind kind;
  DType dtype;
  std::byte* data;              // the region's first element
  std::uint64_t seed;           // Philox key, low word first
  std::uint64_t stream;         // upper half of the Philox counter
  std::uint64_t start;          // logical index of the region's first element
  std::int64_t count;           // elements in the region
  std::int64_t run;             // trailing elements whose logical indices are consecutive
  std::int64_t dense;           // trailing elements consecutive in memory as well
  std::uint64_t constant_bits;  // a constant, rounded to the element type
  int ndim;
  Dim dims[kMaxDims];  // by descending index stride, merged where possible, no dimension of size 1
  Parameters<float> single_precision;
  Parameters<double> double_precision;
};

}  // namespace fastinit

// What a fill is told to do: plain data, shared by every target.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../stream/target.h"

namespace fastinit {

enum class Kind : std::int32_t { kConstant, kUniform, kNormal, kTruncNormal, kWords };
enum class DType : std::int32_t { kFloat32, kFloat16, kBFloat16, kFloat64, kUInt32 };

// Storage-only types: what happens in 16 bits is a conversion, never arithmetic.
struct Half {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

// One dimension of a region: `size` steps of `memory_stride` elements through memory and of
// `index_stride` through the logical row-major index of the whole parameter.
struct Dim {
  std::int64_t size;
  std::int64_t memory_stride;
  std::int64_t index_stride;
};

constexpr int kMaxDims = 8;

// A distribution's parameters in the arithmetic of the element type, derived once per segment
// (parameters.cpp). Unused members are zero.
template <class T>
struct Parameters {
  T shift;      // uniform's a; mean
  T scale;      // uniform's b - a; standard deviation
  T low, high;  // what the result is clamped to
  // Truncated normal, [0] for words of the lower half and [1] for those of the upper half, which
  // count from the top: Phi(x) = cdf + word width, Phi(-x) = complement - word width.
  T cdf[2], complement[2];
  T width;  // (Phi(beta) - Phi(alpha)) per unit of the word
  // 2 Phi(x) - 1 = position + 2 word width; in a symmetric window the word then counts from the
  // middle, where this is zero and needs all its digits.
  T position[2];
  bool from_middle;
};

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

FASTINIT_DEVICE constexpr std::size_t itemsize(DType dtype) {
  if (dtype == DType::kFloat64) return 8;
  return dtype == DType::kFloat16 || dtype == DType::kBFloat16 ? 2 : 4;
}

}  // namespace fastinit

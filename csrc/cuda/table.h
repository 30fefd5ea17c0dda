// A table of segments as a GPU reads it: one block of bytes, to be copied there as it is.
//
//   CudaHeader, int64 first tile of each segment, CudaSegment of each, CudaDim of all in turn
#pragma once

#include <cstddef>
#include <cstdint>

#include "../stream/target.h"
#include "../table/segment.h"

namespace fastinit {

struct CudaHeader {
  std::int64_t segments;
  std::int64_t tiles;
  std::int64_t tile_units;  // units in a tile, but for the last of a segment
};

// Division by a size, by multiplication: Granlund and Montgomery, "Division by invariant integers
// using multiplication", PLDI 1994.
struct Divisor {
  std::uint64_t multiplier;  // 0 for a size of 1
  std::int32_t shift;

  // n / size, 0 <= n < 2^63.
  FASTINIT_DEVICE std::int64_t quotient(std::int64_t n) const {
    return multiplier == 0 ? n : static_cast<std::int64_t>(high_product(n) >> shift);
  }

  FASTINIT_DEVICE std::uint64_t high_product(std::int64_t n) const {
#if defined(__CUDA_ARCH__)
    return __umul64hi(static_cast<std::uint64_t>(n), multiplier);
#else
    return static_cast<std::uint64_t>(static_cast<unsigned __int128>(n) * multiplier >> 64);
#endif
  }
};

struct CudaDim {
  Dim dim;
  Divisor size;
};

// What a thread needs of a segment. Rows and units: see kernel.h.
struct CudaSegment {
  std::byte* data;
  std::uint64_t seed, stream, start;
  std::int64_t units;
  std::int64_t row;        // elements of a row
  std::int64_t row_units;  // units that a row can touch
  Divisor per_row_units;
  std::int64_t first_dim;
  Kind kind;
  DType dtype;
  std::int32_t ndim;
  bool is_whole;  // one row of whole units, aligned in memory, within 2^32 Philox blocks
  bool is_dense;  // rows are consecutive in memory
  union {
    Parameters<float> single_precision;
    Parameters<double> double_precision;
    std::uint64_t constant_bits;
  };
};

class CudaTable {
 public:
  FASTINIT_DEVICE explicit CudaTable(const std::byte* bytes) : bytes_(bytes) {}
  FASTINIT_DEVICE const CudaHeader& header() const { return at<CudaHeader>(0); }
  FASTINIT_DEVICE std::int64_t first_tile(std::int64_t n) const {
    return at<std::int64_t>(sizeof(CudaHeader) + static_cast<std::size_t>(n) * 8);
  }
  FASTINIT_DEVICE const CudaSegment& segment(std::int64_t n) const {
    return at<CudaSegment>(segments() + static_cast<std::size_t>(n) * sizeof(CudaSegment));
  }
  FASTINIT_DEVICE const CudaDim* dims() const {
    return &at<CudaDim>(segments() +
                        static_cast<std::size_t>(header().segments) * sizeof(CudaSegment));
  }

 private:
  template <class T>
  FASTINIT_DEVICE const T& at(std::size_t offset) const {
    return *reinterpret_cast<const T*>(bytes_ + offset);
  }
  FASTINIT_DEVICE std::size_t segments() const {
    return sizeof(CudaHeader) + static_cast<std::size_t>(header().segments) * 8;
  }

  const std::byte* bytes_;
};

}  // namespace fastinit

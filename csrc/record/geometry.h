// Where the elements of a tensor lie in memory, and where in the index of another tensor.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "../table/segment.h"

namespace fastinit {

// A tensor of more dimensions is described only if it is contiguous, as one dimension.
struct Geometry {
  std::uint64_t pointer = 0;  // of the first element; on meta, its distance from the storage's
  std::int64_t count = 1;     // elements
  int itemsize = 1, ndim = 0;
  std::uint32_t format = 0;   // of the elements: tells dtypes of one size apart
  bool is_contiguous = true;  // in row-major order
  std::int64_t shape[kMaxDims] = {}, strides[kMaxDims] = {};

  // Of format, shape and strides: 64 bits, so that those of one plan do not meet.
  std::uint64_t layout() const;
  bool operator==(const Geometry& other) const;
  // Bytes from the first element to behind the last one.
  std::uint64_t span() const;
  // Whether no two elements share memory. False also for strides that interleave without sharing.
  bool is_injective() const;
};

// The dimensions of a region as a row of the kernels' table has them, see `Dim`.
struct Box {
  std::int64_t start = 0;
  int ndim = 0;
  Dim dims[kMaxDims];
};

// The block of a larger tensor that a tensor holds: a shard.
struct Region {
  std::vector<std::int64_t> first, shape;  // the first element's multi-index, the larger's shape
};

// The box of all of a tensor in its own row-major index, or in that of the tensor that it is a
// shard of.
Box own_box(const Geometry& tensor, const Region* region = nullptr);

// The box of a view in the row-major index of the whole, or of what the whole is a shard of. None
// if the view is not inside the whole, or one of its strides is not constant in that index.
std::optional<Box> box_in(const Geometry& view, const Geometry& whole,
                          const Region* region = nullptr);

}  // namespace fastinit

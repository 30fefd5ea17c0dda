#include "geometry.h"

#include <algorithm>

namespace fastinit {
namespace {

// By insertion: there are at most eight, and GCC warns of bounds inside std::sort's partitions.
template <class Item, class Before>
void sort_few(Item* items, int count, const Before& before) {
  for (int n = 1; n < count; ++n) {
    const Item item = items[n];
    int place = n;
    for (; place > 0 && before(item, items[place - 1]); --place) items[place] = items[place - 1];
    items[place] = item;
  }
}

struct Digit {  // a dimension of the whole: its strides are a mixed radix for distances in memory
  std::int64_t stride, size, index_stride;
};

struct Radix {
  int ndim = 0;
  Digit digits[kMaxDims];

  Radix(const Geometry& whole, const std::int64_t* index_shape) : ndim(whole.ndim) {
    std::int64_t index_stride = 1;
    for (int d = ndim - 1; d >= 0; --d) {
      digits[d] = {whole.strides[d], whole.shape[d], index_stride};
      index_stride *= index_shape[d];
    }
    sort_few(digits, ndim, [](const Digit& x, const Digit& y) {
      return x.stride != y.stride ? x.stride > y.stride : x.size > y.size;
    });
  }
  void split(std::int64_t distance, std::int64_t (&at)[kMaxDims]) const {
    for (int d = 0; d < ndim; ++d) {
      at[d] = digits[d].size > 1 && digits[d].stride > 0 ? distance / digits[d].stride : 0;
      distance -= at[d] * digits[d].stride;
    }
  }
  std::int64_t index(const std::int64_t (&at)[kMaxDims]) const {
    std::int64_t sum = 0;
    for (int d = 0; d < ndim; ++d) sum += at[d] * digits[d].index_stride;
    return sum;
  }
};

// Where a shard begins in the row-major index of its whole.
std::int64_t start_of(const Region& region) {
  std::int64_t start = 0;
  for (std::size_t d = 0; d < region.shape.size(); ++d)
    start = start * region.shape[d] + region.first[d];
  return start;
}

// Whether a shard's index runs as its own does: it is one of rows, all of each.
bool is_of_rows(const Geometry& tensor, const Region& region) {
  return std::equal(tensor.shape + std::min(1, tensor.ndim), tensor.shape + tensor.ndim,
                    region.shape.begin() + std::min(1, tensor.ndim));
}

}  // namespace

std::uint64_t Geometry::layout() const {
  // Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014: its finaliser.
  std::uint64_t h = 0;
  const auto mix = [&h](std::uint64_t x) {
    h += x + 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9u;
    h = (h ^ h >> 27) * 0x94D049BB133111EBu;
    h ^= h >> 31;
  };
  mix(std::uint64_t{format} << 8 | static_cast<std::uint64_t>(ndim));
  for (int d = 0; d < ndim; ++d) {
    mix(static_cast<std::uint64_t>(shape[d]));
    mix(static_cast<std::uint64_t>(strides[d]));
  }
  return h;
}

bool Geometry::operator==(const Geometry& other) const {
  return pointer == other.pointer && format == other.format && ndim == other.ndim &&
         std::equal(shape, shape + ndim, other.shape) &&
         std::equal(strides, strides + ndim, other.strides);
}

std::uint64_t Geometry::span() const {
  if (count == 0) return 0;
  std::int64_t last = 0;
  for (int d = 0; d < ndim; ++d) last += (shape[d] - 1) * strides[d];
  return static_cast<std::uint64_t>(last + 1) * static_cast<std::uint64_t>(itemsize);
}

bool Geometry::is_injective() const {
  if (is_contiguous) return true;
  int order[kMaxDims];
  for (int d = 0; d < ndim; ++d) order[d] = d;
  sort_few(order, ndim, [this](int x, int y) {
    return strides[x] != strides[y] ? strides[x] < strides[y] : shape[x] < shape[y];
  });
  std::int64_t extent = 0;
  for (int n = 0; n < ndim; ++n) {
    const int d = order[n];
    if (shape[d] <= 1) continue;
    if (strides[d] <= extent) return false;
    extent += (shape[d] - 1) * strides[d];
  }
  return true;
}

Box own_box(const Geometry& tensor, const Region* region) {
  Box box;
  if (region != nullptr) box.start = start_of(*region);
  if (tensor.is_contiguous && (region == nullptr || is_of_rows(tensor, *region))) {
    box.ndim = 1;
    box.dims[0] = {tensor.count, 1, 1};
    return box;
  }
  const std::int64_t* const index_shape = region != nullptr ? region->shape.data() : tensor.shape;
  box.ndim = tensor.ndim;
  std::int64_t index_stride = 1;
  for (int d = tensor.ndim - 1; d >= 0; --d) {
    box.dims[d] = {tensor.shape[d], tensor.strides[d], index_stride};
    index_stride *= index_shape[d];
  }
  return box;
}

std::optional<Box> box_in(const Geometry& view, const Geometry& whole, const Region* region) {
  if (view.format != whole.format || view.pointer < whole.pointer) return std::nullopt;
  if (view == whole) return own_box(whole, region);
  const std::uint64_t distance = view.pointer - whole.pointer;
  if (distance % static_cast<std::uint64_t>(view.itemsize) != 0) return std::nullopt;
  if (distance + view.span() > whole.span()) return std::nullopt;
  const auto offset = static_cast<std::int64_t>(distance) / view.itemsize;
  Box box;
  const std::int64_t start = region != nullptr ? start_of(*region) : 0;
  if (whole.is_contiguous && (region == nullptr || is_of_rows(whole, *region))) {
    box.start = start + offset;
    box.ndim = view.ndim;
    for (int d = 0; d < view.ndim; ++d)
      box.dims[d] = {view.shape[d], view.strides[d], view.strides[d]};
    return box;
  }
  // A permuted whole, as in channels_last, or one whose index has gaps.
  const Radix radix(whole, region != nullptr ? region->shape.data() : whole.shape);
  std::int64_t last[kMaxDims];
  radix.split(offset, last);
  box.start = start + radix.index(last);
  for (int d = 0; d < view.ndim; ++d) {
    if (view.shape[d] <= 1) continue;
    std::int64_t step[kMaxDims];
    radix.split(view.strides[d], step);
    box.dims[box.ndim++] = {view.shape[d], view.strides[d], radix.index(step)};
    for (int n = 0; n < radix.ndim; ++n) last[n] += (view.shape[d] - 1) * step[n];
  }
  for (int n = 0; n < radix.ndim; ++n) {
    if (last[n] >= radix.digits[n].size) return std::nullopt;
  }
  return box;
}

}  // namespace fastinit

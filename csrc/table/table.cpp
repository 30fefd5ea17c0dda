#include "table.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "parameters.h"

namespace fastinit {
namespace {

constexpr auto kMaxInt = std::numeric_limits<std::int64_t>::max();

// At most kMaxDims dimensions, without a heap: tables have tens of thousands of segments.
class Dims {
 public:
  void push_back(const Dim& dim) { dims_[size_++] = dim; }
  Dim* begin() { return dims_; }
  Dim* end() { return dims_ + size_; }

 private:
  Dim dims_[kMaxDims];
  int size_ = 0;
};

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::int64_t checked_multiply(std::int64_t a, std::int64_t b, const char* what) {
  std::int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) refuse(std::string(what) + " overflows 64 bits");
  return product;
}

std::int64_t checked_add(std::int64_t a, std::int64_t b, const char* what) {
  std::int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) refuse(std::string(what) + " overflows 64 bits");
  return sum;
}

// By insertion: there are at most eight, and GCC warns of bounds inside std::sort's partitions.
template <class Before>
void sort(Dims& dims, const Before& before) {
  for (Dim* next = dims.begin(); next != dims.end(); ++next) {
    const Dim dim = *next;
    Dim* place = next;
    for (; place != dims.begin() && before(dim, place[-1]); --place) *place = place[-1];
    *place = dim;
  }
}

// Strides such that no two steps meet: each at least as long as all smaller ones together.
void require_injective(Dims dims, std::int64_t Dim::* stride, const char* what) {
  sort(dims, [&](const Dim& x, const Dim& y) { return x.*stride < y.*stride; });
  std::int64_t extent = 0;
  for (const Dim& dim : dims) {
    if (dim.*stride <= extent) {
      refuse(std::string("box: ") + what + " " + std::to_string(dim.*stride) +
             " makes two elements coincide; strides must be positive and not overlap");
    }
    extent = checked_add(extent, checked_multiply(dim.size - 1, dim.*stride, what), what);
  }
}

std::int64_t last_offset(const Segment& s, std::int64_t Dim::* stride) {
  std::int64_t offset = 0;
  for (int d = 0; d < s.ndim; ++d) offset += (s.dims[d].size - 1) * (s.dims[d].*stride);
  return offset;
}

// Sorts by index stride, merges neighbours that continue each other, and finds the runs.
void normalise(Segment& s, Dims dims) {
  sort(dims, [](const Dim& x, const Dim& y) { return x.index_stride > y.index_stride; });
  s.ndim = 0;
  for (const Dim& dim : dims) {
    if (s.ndim > 0) {
      Dim& outer = s.dims[s.ndim - 1];
      if (outer.index_stride == dim.size * dim.index_stride &&
          outer.memory_stride == dim.size * dim.memory_stride) {
        outer = {outer.size * dim.size, dim.memory_stride, dim.index_stride};
        continue;
      }
    }
    s.dims[s.ndim++] = dim;
  }
  s.run = s.dense = 1;
  bool dense = true;
  for (int d = s.ndim - 1; d >= 0 && s.dims[d].index_stride == s.run; --d) {
    dense = dense && s.dims[d].memory_stride == s.run;
    s.run *= s.dims[d].size;
    if (dense) s.dense = s.run;
  }
}

struct Interval {
  std::uint64_t begin, end;
};

Interval extent(const Segment& s) {
  const auto begin = reinterpret_cast<std::uint64_t>(s.data);
  const auto last = static_cast<std::uint64_t>(last_offset(s, &Dim::memory_stride));
  return {begin, begin + (last + 1) * itemsize(s.dtype)};
}

// The pieces of memory that a region covers, one per dense run.
void append_pieces(const Segment& s, std::vector<Interval>& pieces) {
  const auto size = itemsize(s.dtype);
  for (std::int64_t position = 0; position < s.count; position += s.dense) {
    std::int64_t offset = 0, rest = position;
    for (int d = s.ndim - 1; d >= 0; --d) {
      offset += rest % s.dims[d].size * s.dims[d].memory_stride;
      rest /= s.dims[d].size;
    }
    const auto begin =
        reinterpret_cast<std::uint64_t>(s.data) + static_cast<std::uint64_t>(offset) * size;
    pieces.push_back({begin, begin + static_cast<std::uint64_t>(s.dense) * size});
  }
}

bool any_overlap(std::vector<Interval>& intervals) {
  std::sort(intervals.begin(), intervals.end(),
            [](Interval x, Interval y) { return x.begin < y.begin; });
  for (std::size_t n = 1; n < intervals.size(); ++n) {
    if (intervals[n].begin < intervals[n - 1].end) return true;
  }
  return false;
}

}  // namespace

Segment make_segment(const Request& request) {
  Segment s{};
  if (request.kind < 0 || request.kind >= kKinds) {
    refuse("unknown kind " + std::to_string(request.kind));
  }
  if (request.dtype < 0 || request.dtype > static_cast<int>(DType::kUInt32)) {
    refuse("unknown dtype " + std::to_string(request.dtype));
  }
  s.kind = static_cast<Kind>(request.kind);
  s.dtype = static_cast<DType>(request.dtype);
  if ((s.kind == Kind::kWords) != (s.dtype == DType::kUInt32))
    refuse("kind WORDS goes with dtype UINT32, and only it");
  s.seed = request.seed;
  s.stream = request.stream;
  if (request.start < 0) refuse("start must not be negative, got " + std::to_string(request.start));
  s.start = static_cast<std::uint64_t>(request.start);
  derive_parameters(s, request.parameters);

  if (request.box.size() > kMaxDims) {
    refuse("box has " + std::to_string(request.box.size()) + " dimensions, at most 8 are served");
  }
  Dims dims;
  s.count = 1;
  for (const Dim& dim : request.box) {
    if (dim.size < 0) refuse("box: size must not be negative, got " + std::to_string(dim.size));
    if (dim.size > 0) s.count = checked_multiply(s.count, dim.size, "the number of elements");
    if (dim.size > 1) dims.push_back(dim);
  }
  for (const Dim& dim : request.box) {
    if (dim.size == 0) s.count = 0;
  }
  if (s.count == 0) return s;

  require_injective(dims, &Dim::memory_stride, "memory stride");
  require_injective(dims, &Dim::index_stride, "index stride");
  normalise(s, dims);
  if (last_offset(s, &Dim::index_stride) > kMaxInt - request.start)
    refuse("start + box overflows the 63-bit index");
  const auto size = itemsize(s.dtype);
  if (request.pointer == 0) refuse("pointer is null");
  if (request.pointer % size != 0) refuse("pointer is not aligned to the element size");
  const auto last = static_cast<std::uint64_t>(last_offset(s, &Dim::memory_stride));
  if (last >= (std::numeric_limits<std::uint64_t>::max() - request.pointer) / size) {
    refuse("pointer + box leaves the address space");
  }
  s.data = reinterpret_cast<std::byte*>(request.pointer);
  return s;
}

void require_disjoint(const std::vector<Segment>& table) {
  struct Entry {
    Interval extent;
    const Segment* segment;
  };
  std::vector<Entry> entries;
  entries.reserve(table.size());
  for (const Segment& s : table) {
    if (s.count > 0) entries.push_back({extent(s), &s});
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& x, const Entry& y) { return x.extent.begin < y.extent.begin; });
  // Strided regions may interleave: where extents meet, compare the pieces themselves.
  for (std::size_t first = 0; first < entries.size();) {
    auto end = entries[first].extent.end;
    std::size_t last = first + 1;
    for (; last < entries.size() && entries[last].extent.begin < end; ++last) {
      end = std::max(end, entries[last].extent.end);
    }
    if (last - first > 1) {
      std::vector<Interval> pieces;
      for (std::size_t n = first; n < last; ++n) append_pieces(*entries[n].segment, pieces);
      if (any_overlap(pieces)) throw Overlap("two segments of the table write the same memory");
    }
    first = last;
  }
}

}  // namespace fastinit

#include "pack.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "launch.h"
#include "table.h"

namespace fastinit {
namespace {

constexpr std::int64_t kUnitBytes = 16;
constexpr std::int64_t kMostElements = std::int64_t{1} << 57;  // a GPU's address space has 57 bits
// Tiles small enough to share evenly, and so large that finding their segment costs little.
constexpr std::int64_t kLeastTile = kCudaThreads, kMostTile = 16 * kLeastTile;
constexpr std::int64_t kTilesWanted = 4096, kMostTiles = (std::int64_t{1} << 31) - 1;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

Divisor divisor_of(std::int64_t size) {
  if (size == 1) return {0, 0};
  const auto divisor = static_cast<std::uint64_t>(size);
  int bits = 0;  // ceil(log2(size))
  while ((std::uint64_t{1} << bits) < divisor) ++bits;
  // ceil(2^(63 + bits) / size), which is below 2^64.
  const auto dividend = (static_cast<unsigned __int128>(1) << (63 + bits)) + (divisor - 1);
  return {static_cast<std::uint64_t>(dividend / divisor), bits - 1};
}

struct Piece {
  CudaSegment segment;
  std::vector<CudaDim> dims;

  std::size_t bytes() const {
    return sizeof(std::int64_t) + sizeof(CudaSegment) + dims.size() * sizeof(CudaDim);
  }
};

// Cuts a segment into pieces, whose units are all whole or all written by elements.
class Cutter {
 public:
  Cutter(const Segment& s, std::vector<Piece>& pieces)
      : s_(s),
        pieces_(pieces),
        size_(static_cast<std::int64_t>(itemsize(s.dtype))),
        per_unit_(kUnitBytes / size_) {}

  void cut() {
    if (s_.count == 0) return;
    if (s_.count > kMostElements) {
      throw std::invalid_argument("a segment of " + std::to_string(s_.count) +
                                  " elements is more than a GPU addresses");
    }
    if (s_.dense == s_.count) {
      one_row();
    } else {
      rows();
    }
  }

 private:
  std::int64_t phase(std::int64_t position) const {
    return (static_cast<std::int64_t>(s_.start % static_cast<std::uint64_t>(per_unit_)) +
            position) %
           per_unit_;
  }

  Piece& add(std::int64_t position) {
    CudaSegment c{};
    c.data = s_.data + position * size_;
    c.seed = s_.seed;
    c.stream = s_.stream;
    c.start = s_.start + static_cast<std::uint64_t>(position);
    c.kind = s_.kind;
    c.dtype = s_.dtype;
    if (s_.kind == Kind::kConstant) {
      c.constant_bits = s_.constant_bits;
    } else if (s_.dtype == DType::kFloat64) {
      c.double_precision = s_.double_precision;
    } else {
      c.single_precision = s_.single_precision;
    }
    pieces_.push_back({c, {}});
    return pieces_.back();
  }

  void by_elements(std::int64_t position, std::int64_t count) {
    if (count == 0) return;
    CudaSegment& c = add(position).segment;
    c.is_dense = true;
    c.row = count;
    c.row_units = c.units = divide_up(phase(position) + count, per_unit_);
    c.per_row_units = divisor_of(c.row_units);
  }

  void one_row() {
    const std::int64_t lead = phase(0);
    const auto address =
        reinterpret_cast<std::uintptr_t>(s_.data) - static_cast<std::uintptr_t>(lead * size_);
    if (address % kUnitBytes != 0 || s_.count < kLeastTile * per_unit_)
      return by_elements(0, s_.count);
    std::int64_t position = (per_unit_ - lead) % per_unit_;
    by_elements(0, position);
    // Of one span of 2^32 Philox blocks, which a piece must not leave.
    const std::uint64_t span = std::uint64_t{s_.dtype == DType::kFloat64 ? 2u : 4u} << 32;
    while (s_.count - position >= per_unit_) {
      const std::uint64_t index = s_.start + static_cast<std::uint64_t>(position);
      const auto left =
          static_cast<std::int64_t>((span - index % span) / static_cast<std::uint64_t>(per_unit_));
      CudaSegment& c = add(position).segment;
      c.is_whole = true;
      c.units = std::min((s_.count - position) / per_unit_, left);
      position += c.units * per_unit_;
    }
    by_elements(position, s_.count - position);
  }

  void rows() {
    Piece& piece = add(0);
    CudaSegment& c = piece.segment;
    // Where memory is in short runs, rows are what is consecutive in index: fewer blocks of Philox.
    c.is_dense = s_.dense == s_.run || s_.dense >= 64;
    c.row = c.is_dense ? s_.dense : s_.run;
    c.row_units = divide_up(most_phase(c.row) + c.row, per_unit_);
    c.per_row_units = divisor_of(c.row_units);
    c.units = s_.count / c.row * c.row_units;
    c.ndim = s_.ndim;
    for (int d = 0; d < s_.ndim; ++d)
      piece.dims.push_back({s_.dims[d], divisor_of(s_.dims[d].size)});
  }

  // The largest number of elements before a row in its first unit.
  std::int64_t most_phase(std::int64_t row) const {
    for (int d = 0; d < s_.ndim; ++d) {
      const Dim& dim = s_.dims[d];
      if (dim.index_stride >= row && dim.index_stride % per_unit_ != 0) return per_unit_ - 1;
    }
    return phase(0);
  }

  const Segment& s_;
  std::vector<Piece>& pieces_;
  std::int64_t size_, per_unit_;
};

// A batch of pieces [begin, end).
CudaBatch write(const Piece* begin, const Piece* end, std::int64_t tile_units) {
  std::int64_t units = 0;
  std::size_t dims = 0, bytes = sizeof(CudaHeader);
  for (const Piece* p = begin; p != end; ++p) {
    units += p->segment.units;
    bytes += p->bytes();
  }
  CudaHeader header{end - begin, 0, tile_units};
  if (tile_units == 0) {
    const std::int64_t wanted = divide_up(units, kTilesWanted * kLeastTile) * kLeastTile;
    header.tile_units = std::max(std::min(wanted, kMostTile), divide_up(units, kMostTiles / 2));
  }
  CudaBatch batch{std::vector<std::byte>(bytes), 0, true};
  std::byte* const first_tiles = batch.bytes.data() + sizeof header;
  std::byte* const segments = first_tiles + (end - begin) * std::ptrdiff_t{sizeof(std::int64_t)};
  std::byte* const all_dims = segments + (end - begin) * std::ptrdiff_t{sizeof(CudaSegment)};
  for (const Piece* p = begin; p != end; ++p) {
    CudaSegment segment = p->segment;
    segment.first_dim = static_cast<std::int64_t>(dims);
    std::memcpy(first_tiles + (p - begin) * std::ptrdiff_t{sizeof(std::int64_t)}, &header.tiles,
                sizeof(std::int64_t));
    std::memcpy(segments + (p - begin) * std::ptrdiff_t{sizeof segment}, &segment, sizeof segment);
    if (!p->dims.empty()) {
      std::memcpy(all_dims + dims * sizeof(CudaDim), p->dims.data(),
                  p->dims.size() * sizeof(CudaDim));
    }
    dims += p->dims.size();
    header.tiles += divide_up(segment.units, header.tile_units);
  }
  std::memcpy(batch.bytes.data(), &header, sizeof header);
  batch.tiles = header.tiles;
  return batch;
}

}  // namespace

std::vector<CudaBatch> pack_for_cuda(const std::vector<Segment>& table, std::size_t limit,
                                     std::int64_t tile_units) {
  std::vector<Piece> pieces;
  pieces.reserve(table.size());
  for (const Segment& s : table) Cutter(s, pieces).cut();
  std::vector<CudaBatch> batches;
  const Piece* const end = pieces.data() + pieces.size();
  for (const Piece* begin = pieces.data(); begin != end;) {
    const Piece* stop = begin;
    std::size_t bytes = sizeof(CudaHeader);
    do {
      bytes += (stop++)->bytes();
    } while (stop != end && (limit == 0 || bytes + stop->bytes() <= limit));
    batches.push_back(write(begin, stop, tile_units));
    begin = stop;
  }
  return batches;
}

}  // namespace fastinit

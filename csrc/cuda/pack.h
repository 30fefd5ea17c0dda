// From segments to what a GPU reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../table/segment.h"

namespace fastinit {

// A table in the form of table.h, for one launch of `tiles` blocks.
struct CudaBatch {
  std::vector<std::byte> bytes;
  std::int64_t tiles;
  bool is_from_torch = true;  // which says where memory is; else the driver is asked
};

// All segments, in order, in as few batches as `limit` bytes for each allow; no limit if that is 0.
// `tile_units` is for tests; 0 chooses. Throws std::invalid_argument for more than a GPU addresses.
std::vector<CudaBatch> pack_for_cuda(const std::vector<Segment>& table, std::size_t limit,
                                     std::int64_t tile_units = 0);

}  // namespace fastinit

// A table of segments: checked, brought to normal form, and filled by all threads.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <vector>

#include "../cpu/isa.h"
#include "segment.h"

namespace fastinit {

// A segment as its caller describes it.
struct Request {
  std::int64_t kind, dtype;
  std::uint64_t pointer, seed, stream;
  std::int64_t start;
  std::vector<Dim> box;
  std::array<double, 4> parameters;
};

// The segment in normal form. Throws std::invalid_argument for what no fill could mean.
Segment make_segment(const Request& request);

struct Overlap : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Throws Overlap when two segments share memory.
void require_disjoint(const std::vector<Segment>& table);

// Fills every segment. The values do not depend on `threads`. The calling thread asks `interrupted`
// after each of its chunks; when that is true, all threads stop after the chunk they are at, and
// the result is false: some of the memory is written, some is not.
bool fill_table(const std::vector<Segment>& table, int threads, const Isa& isa,
                const std::function<bool()>& interrupted);

}  // namespace fastinit

// A table of segments: checked, and brought to normal form.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <vector>

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

}  // namespace fastinit

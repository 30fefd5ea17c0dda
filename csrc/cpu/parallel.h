// A table filled by all threads.
#pragma once

#include <functional>
#include <vector>

#include "../table/segment.h"
#include "isa.h"

namespace fastinit {

// Fills every segment. The values do not depend on `threads`. The calling thread asks `interrupted`
// after each of its chunks; when that is true, all threads stop after the chunk they are at, and
// the result is false: some of the memory is written, some is not.
bool fill_table(const std::vector<Segment>& table, int threads, const Isa& isa,
                const std::function<bool()>& interrupted);

}  // namespace fastinit

// Threads started per call: tens of microseconds, no pool to break at fork(), no second OpenMP
// runtime beside torch's.
#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>

#include "floating_point.h"
#include "huge_pages.h"
#include "table.h"

namespace fastinit {
namespace {

constexpr std::int64_t kWorthAThread = std::int64_t{1} << 17;  // positions that pay for a thread
// Positions a thread takes at a time: few enough to share evenly, and in a large table so many that
// two threads seldom meet in one huge page, which both would clear.
constexpr std::int64_t kLeastChunk = std::int64_t{1} << 16, kMostChunk = std::int64_t{1} << 20;

}  // namespace

void fill_table(const std::vector<Segment>& table, int threads, const Isa& isa) {
  std::vector<std::int64_t> ends;  // of the segments, in one sequence of positions
  ends.reserve(table.size());
  std::int64_t total = 0;
  for (const Segment& s : table) ends.push_back(total += s.count);

  for (const Segment& s : table) use_huge_pages(s);
  const std::int64_t chunk = std::clamp(total / (16 * threads), kLeastChunk, kMostChunk);
  std::atomic<std::int64_t> next{0};
  const auto work = [&] {
    const DefaultFloatingPoint environment;
    for (std::int64_t begin; (begin = next.fetch_add(chunk, std::memory_order_relaxed)) < total;) {
      const std::int64_t end = std::min(begin + chunk, total);
      auto n = static_cast<std::size_t>(std::upper_bound(ends.begin(), ends.end(), begin) -
                                        ends.begin());
      while (begin < end) {
        const std::int64_t base = ends[n] - table[n].count;
        const std::int64_t stop = std::min(end, ends[n]);
        if (begin < stop) isa.fill(table[n], begin - base, stop - base);
        begin = stop;
        ++n;
      }
    }
  };

  const auto helpers = std::min<std::int64_t>(threads, total / kWorthAThread) - 1;
  std::vector<std::thread> team;
  try {
    for (std::int64_t n = 0; n < helpers; ++n) team.emplace_back(work);
  } catch (const std::system_error&) {
    // Fewer threads than asked for give the same values.
  }
  work();
  for (auto& thread : team) thread.join();
}

}  // namespace fastinit

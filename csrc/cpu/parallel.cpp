// Threads started per call: tens of microseconds, no pool to break at fork(), no second OpenMP
// runtime beside torch's.
#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <system_error>
#include <thread>

#include "../stream/floating_point.h"
#include "huge_pages.h"

namespace fastinit {
namespace {

constexpr std::int64_t kWorthAThread = std::int64_t{1} << 17;  // positions that pay for a thread
// Positions a thread takes at a time: few enough to share evenly, and in a large table so many that
// two threads seldom meet in one huge page, which both would clear.
constexpr std::int64_t kLeastChunk = std::int64_t{1} << 16, kMostChunk = std::int64_t{1} << 20;

// Threads that take chunks. However it is left, what nobody has begun is dropped and all are
// joined.
class Team {
 public:
  explicit Team(std::atomic<std::int64_t>& next, std::int64_t total) : next_(next), total_(total) {}
  ~Team() {
    next_.store(total_, std::memory_order_relaxed);
    for (auto& thread : threads_) thread.join();
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  template <class Work>
  void start(std::int64_t count, const Work& work) {
    try {
      for (std::int64_t n = 0; n < count; ++n) threads_.emplace_back(work);
    } catch (const std::system_error&) {
      // Fewer threads than asked for give the same values.
    }
  }

 private:
  std::atomic<std::int64_t>& next_;
  std::int64_t total_;
  std::vector<std::thread> threads_;
};

}  // namespace

bool fill_table(const std::vector<Segment>& table, int threads, const Isa& isa,
                const std::function<bool()>& interrupted) {
  std::vector<std::int64_t> ends;  // of the segments, in one sequence of positions
  ends.reserve(table.size());
  std::int64_t total = 0;
  for (const Segment& s : table) ends.push_back(total += s.count);

  for (const Segment& s : table) use_huge_pages(s);
  const std::int64_t chunk =
      std::clamp(total / (std::int64_t{16} * threads), kLeastChunk, kMostChunk);
  std::atomic<std::int64_t> next{0};
  const auto fill_one_chunk = [&] {  // false when there is none left
    std::int64_t begin = next.fetch_add(chunk, std::memory_order_relaxed);
    if (begin >= total) return false;
    const std::int64_t end = std::min(begin + chunk, total);
    auto n =
        static_cast<std::size_t>(std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin());
    while (begin < end) {
      const std::int64_t base = ends[n] - table[n].count;
      const std::int64_t stop = std::min(end, ends[n]);
      if (begin < stop) isa.fill(table[n], begin - base, stop - base);
      begin = stop;
      ++n;
    }
    return true;
  };

  Team team(next, total);
  team.start(std::min<std::int64_t>(threads, total / kWorthAThread) - 1, [&] {
    const DefaultFloatingPoint environment;
    while (fill_one_chunk()) continue;
  });
  const DefaultFloatingPoint environment;
  while (fill_one_chunk()) {
    if (interrupted()) return false;
  }
  return true;
}

}  // namespace fastinit

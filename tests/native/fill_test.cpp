// The native code without Python, to be run under sanitizers: random tables on every instruction
// set of the machine and one to four threads, bit by bit as a plain loop over the indices has them;
// fills that are interrupted; and what must be refused.
//
//   fill_test TABLES    exit status 1 on the first difference
#include <algorithm>
#include <cfloat>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "../../csrc/cpu/isa.h"
#include "../../csrc/cpu/parallel.h"
#include "../../csrc/table/table.h"
#include "rules.h"

using namespace fastinit;

namespace {

constexpr std::byte kUntouched{0xA5};

#define REQUIRE(condition)                                                         \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::printf("fill_test: line %d: %s does not hold\n", __LINE__, #condition); \
      std::exit(1);                                                                \
    }                                                                              \
  } while (false)

class Random {
 public:
  std::uint64_t word() { return engine_(); }
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(word() % static_cast<std::uint64_t>(n));
  }
  template <class Choices>
  auto one_of(const Choices& choices) {
    return *(std::begin(choices) + below(static_cast<std::int64_t>(std::size(choices))));
  }

 private:
  std::mt19937_64 engine_{20260131};
};

// A segment and memory of its own, which ends with the region's last element.
struct Region {
  Segment segment;
  std::size_t bytes;
  std::unique_ptr<std::byte[]> memory;
  std::vector<std::byte> expected;

  void reset() { std::fill_n(memory.get(), bytes, kUntouched); }
  bool is_right() const { return std::equal(expected.begin(), expected.end(), memory.get()); }
};

std::int64_t last(const std::vector<Dim>& box, std::int64_t Dim::* stride) {
  std::int64_t offset = 0;
  for (const Dim& dim : box) offset += (dim.size - 1) * (dim.*stride);
  return offset;
}

// A part of a logical array with some steps left out, in another order of axes in memory.
std::vector<Dim> random_box(Random& random) {
  std::vector<Dim> box(static_cast<std::size_t>(1 + random.below(4)));
  std::vector<std::size_t> order(box.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto set_strides = [&](std::int64_t Dim::* stride) {
    std::int64_t next = 1 + random.below(2);
    for (const auto d : order) {
      box[d].*stride = next;
      next *= box[d].size + random.below(2);
    }
  };
  for (Dim& dim : box) dim.size = 1 + random.below(9);
  set_strides(&Dim::index_stride);
  if (random.below(2) == 0) {
    for (std::size_t n = order.size(); n > 1; --n) {
      std::swap(order[n - 1],
                order[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(n)))]);
    }
  }
  set_strides(&Dim::memory_stride);
  return box;
}

// The region as a plain loop over its elements has it, from one dense scalar fill.
std::vector<std::byte> expected_of(const Request& request, std::size_t skip, std::size_t bytes) {
  const auto size = itemsize(static_cast<DType>(request.dtype));
  const std::int64_t span = last(request.box, &Dim::index_stride) + 1;
  const auto dense = std::make_unique<std::byte[]>(static_cast<std::size_t>(span) * size);
  Request whole = request;
  whole.box = {{span, 1, 1}};
  whole.pointer = reinterpret_cast<std::uint64_t>(dense.get());
  kIsaScalar.fill(make_segment(whole), 0, span);
  std::vector<std::byte> expected(bytes, kUntouched);
  std::vector<std::int64_t> at(request.box.size());
  for (;;) {
    std::int64_t memory = 0, index = 0;
    for (std::size_t d = 0; d < at.size(); ++d) {
      memory += at[d] * request.box[d].memory_stride;
      index += at[d] * request.box[d].index_stride;
    }
    std::memcpy(expected.data() + skip + static_cast<std::size_t>(memory) * size,
                dense.get() + static_cast<std::size_t>(index) * size, size);
    std::size_t d = 0;
    while (d < at.size() && ++at[d] == request.box[d].size) at[d++] = 0;
    if (d == at.size()) return expected;
  }
}

Region random_region(Random& random, bool large) {
  Request request{};
  request.kind = random.below(kKinds);
  const bool words = request.kind == static_cast<int>(Kind::kWords);
  request.dtype = words ? static_cast<int>(DType::kUInt32) : random.below(4);
  request.parameters = random.one_of(kParameters[request.kind]);
  request.seed = random.word();
  request.stream = random.word();
  const std::int64_t starts[] = {0, random.below(100), (std::int64_t{1} << 34) - random.below(2000),
                                 random.below(std::int64_t{1} << 61)};
  request.start = random.one_of(starts);
  if (large) {
    request.box = {{300000 + random.below(300000), 1, 1}};
  } else if (random.below(2) == 0) {
    request.box = {{1 + random.below(3000), 1, 1}};
  } else {
    request.box = random_box(random);
  }
  const auto size = itemsize(static_cast<DType>(request.dtype));
  const std::size_t skip = static_cast<std::size_t>(random.below(5)) * size;
  Region region{};
  region.bytes =
      skip + (static_cast<std::size_t>(last(request.box, &Dim::memory_stride)) + 1) * size;
  region.memory = std::make_unique<std::byte[]>(region.bytes);
  request.pointer = reinterpret_cast<std::uint64_t>(region.memory.get() + skip);
  region.segment = make_segment(request);
  region.expected = expected_of(request, skip, region.bytes);
  return region;
}

void compare(std::vector<Region>& regions, const Isa& isa, int threads) {
  std::vector<Segment> table;
  for (Region& region : regions) {
    region.reset();
    table.push_back(region.segment);
  }
  require_disjoint(table);
  REQUIRE(fill_table(table, threads, isa, [] { return false; }));
  for (const Region& region : regions) REQUIRE(region.is_right());
}

// Each region in pieces, in whatever order.
void compare_pieces(std::vector<Region>& regions, const Isa& isa, Random& random) {
  for (Region& region : regions) {
    region.reset();
    const std::int64_t cut = random.below(region.segment.count + 1);
    isa.fill(region.segment, cut, region.segment.count);
    isa.fill(region.segment, 0, cut);
    REQUIRE(region.is_right());
  }
}

void compare_interrupted(const Isa& isa, int threads, Random& random) {
  Region region = random_region(random, true);
  region.reset();
  const bool complete = fill_table({region.segment}, threads, isa, [] { return true; });
  // With others beside it, the calling thread may find no chunk left, and never ask.
  if (threads == 1) REQUIRE(!complete && !region.is_right());
  if (complete) REQUIRE(region.is_right());
  for (std::size_t n = 0; n < region.bytes; ++n) {
    REQUIRE(region.memory[n] == region.expected[n] || region.memory[n] == kUntouched);
  }
}

// --- what is refused
// ------------------------------------------------------------------------------

constexpr auto kLeast = std::numeric_limits<std::int64_t>::min();
constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kIntegers[] = {0,
                                      1,
                                      2,
                                      3,
                                      5,
                                      8,
                                      40,
                                      -1,
                                      -7,
                                      1 << 20,
                                      std::int64_t{1} << 31,
                                      std::int64_t{1} << 32,
                                      std::int64_t{1} << 61,
                                      std::int64_t{1} << 62,
                                      kMost / 2,
                                      kMost - 1,
                                      kMost,
                                      kLeast};
constexpr double kReals[] = {0.0,     -0.0,     0.5,       1.0,      -1.0,    2.0,      -3.0,
                             10.5,    36.0,     DBL_MAX,   -DBL_MAX, FLT_MAX, -FLT_MAX, 65504.0,
                             65520.0, 1e300,    DBL_MIN,   FLT_MIN,  1e-42,   5e-324,   -1e-42,
                             1e-20,   INFINITY, -INFINITY, NAN};

template <class Function>
bool is_refused(const Function& function) {
  try {
    function();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

// Numbers no caller should give: refused, or a segment whose extent can be taken; no overflow.
void any_geometry(Random& random) {
  Request request{};
  request.kind = random.below(7) - 1;
  request.dtype = random.below(7) - 1;
  request.pointer = static_cast<std::uint64_t>(random.one_of(kIntegers)) * 8;
  request.start = random.one_of(kIntegers);
  request.parameters = {0, 1, -1, 1};
  request.box.resize(static_cast<std::size_t>(random.below(10)));
  for (Dim& dim : request.box) {
    dim = {random.one_of(kIntegers), random.one_of(kIntegers), random.one_of(kIntegers)};
  }
  is_refused([&] { require_disjoint({make_segment(request)}); });
}

// Any parameters: refused, or the same values on every instruction set.
void any_parameters(Random& random) {
  Request request{};
  request.kind = random.below(4);
  request.dtype = random.below(4);
  request.seed = random.word();
  request.box = {{64, 1, 1}};
  for (double& p : request.parameters) p = random.one_of(kReals);
  const std::size_t bytes = 64 * itemsize(static_cast<DType>(request.dtype));
  const auto memory = std::make_unique<std::byte[]>(bytes);
  request.pointer = reinterpret_cast<std::uint64_t>(memory.get());
  Segment segment{};
  if (is_refused([&] { segment = make_segment(request); })) return;
  kIsaScalar.fill(segment, 0, segment.count);
  const std::vector<std::byte> expected(memory.get(), memory.get() + bytes);
  for (std::size_t n = 0; const Isa* isa = nth_isa(n); ++n) {
    isa->fill(segment, 0, segment.count);
    REQUIRE(std::equal(expected.begin(), expected.end(), memory.get()));
  }
}

void refusals() {
  std::byte memory[64] = {};
  const auto at = reinterpret_cast<std::uint64_t>(memory);
  const Request good{2, 0, at, 1, 2, 3, {{8, 1, 1}}, {0, 1, 0, 0}};
  const auto refused = [&](auto change) {
    Request request = good;
    change(request);
    return is_refused([&] { make_segment(request); });
  };
  REQUIRE(!refused([](Request&) {}));
  REQUIRE(refused([](Request& r) { r.kind = 5; }));
  REQUIRE(refused([](Request& r) { r.dtype = -1; }));
  REQUIRE(refused([](Request& r) { r.kind = 4; }));
  REQUIRE(refused([](Request& r) { r.pointer = 0; }));
  REQUIRE(refused([](Request& r) { r.pointer += 2; }));
  REQUIRE(refused([](Request& r) { r.start = -1; }));
  REQUIRE(refused([](Request& r) { r.start = kMost - 6; }));
  REQUIRE(refused([](Request& r) { r.box = {{-1, 1, 1}}; }));
  REQUIRE(refused([](Request& r) { r.box = {{4, 0, 1}}; }));
  REQUIRE(refused([](Request& r) { r.box = {{4, 3, 4}, {4, 1, 1}}; }));
  REQUIRE(refused([](Request& r) { r.box.assign(9, {1, 1, 1}); }));
  REQUIRE(refused([](Request& r) { r.parameters[1] = -1; }));
  const Segment segment = make_segment(good);
  REQUIRE(is_refused([&] { require_disjoint({segment, segment}); }));
}

}  // namespace

int main(int argc, char** argv) {
  const int tables = argc > 1 ? std::atoi(argv[1]) : 200;
  Random random;
  refusals();
  for (int n = 0; n < 200 * tables; ++n) any_geometry(random);
  for (int n = 0; n < 100 * tables; ++n) any_parameters(random);
  for (int n = 0; n < tables; ++n) {
    const bool large = n % 20 == 0;
    std::vector<Region> regions;
    for (std::int64_t count = 1 + random.below(6); count > 0; --count) {
      regions.push_back(random_region(random, large && count == 1));
    }
    for (std::size_t k = 0; const Isa* isa = nth_isa(k); ++k) {
      for (int threads = 1; threads <= 4; ++threads) {
        compare(regions, *isa, threads);
        if (large) compare_interrupted(*isa, threads, random);
      }
      compare_pieces(regions, *isa, random);
    }
  }
  std::printf("fill_test: %d tables are right on", tables);
  for (std::size_t n = 0; const Isa* isa = nth_isa(n); ++n) std::printf(" %s", isa->name);
  std::printf("\n");
  return 0;
}

// How a grid of threads fills a table: the body of the kernel, with explicit indices, so that the
// host can run it too (tests/native/fake_cuda.cpp).
//
// Work is counted in units and dealt to blocks in tiles of units. A unit is 16 bytes of a row,
// which is a run of consecutive logical indices; units are aligned in that index, so that each
// holds whole Philox blocks. Where they are aligned in memory as well and nothing is missing, they
// are written whole, else by elements. Threads share nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../stream/convert.h"
#include "../stream/distributions.h"
#include "../stream/elements.h"
#include "../stream/lanes_scalar.h"
#include "../stream/philox.h"
#include "../stream/target.h"
#include "../table/segment.h"
#include "table.h"

namespace fastinit {
namespace {

struct alignas(16) Unit {
  std::uint32_t word[4];
};

template <class V, class Element>
struct ArithmeticOf {
  using Type = typename V::Single;
};
template <class V>
struct ArithmeticOf<V, double> {
  using Type = typename V::Double;
};

// Units of random elements.
template <class V, class Element, template <class> class Distribution>
class RandomUnits {
  using A = typename ArithmeticOf<V, Element>::Type;
  using ParametersOf = Parameters<typename A::Real>;

 public:
  static constexpr int kElements = sizeof(Unit) / sizeof(Element);
  static constexpr int kBlocks = kElements * static_cast<int>(sizeof(typename A::Real)) / 16;
  // Units a thread works on at once: two blocks hide a latency or share a constant.
  static constexpr int kTogether = sizeof(Element) == 4 ? 2 : 1;

  FASTINIT_DEVICE RandomUnits(const CudaSegment& s, const ParametersOf& parameters)
      : source_{s, parameters, 0}, state_(source_) {}

  // Call before `generate`, for units in the same 2^32 blocks as `unit`.
  FASTINIT_DEVICE void prepare(std::uint64_t unit) {
    source_.high = unit * kBlocks >> 32;
    if constexpr (kKeepsState) state_.philox.prepare(source_.high);
  }

  // Units first, first + step, ... of the logical index, modulo the 2^32 blocks prepared for.
  template <int kUnits>
  FASTINIT_DEVICE void generate(std::uint32_t first, std::uint32_t step,
                                Unit (&units)[kUnits]) const {
    typename V::Word block[kUnits * kBlocks];
    PhiloxWords<V> words[kUnits * kBlocks];
    for (int n = 0; n < kUnits * kBlocks; ++n) {
      const std::uint32_t unit = first + static_cast<std::uint32_t>(n / kBlocks) * step;
      block[n] = unit * kBlocks + static_cast<std::uint32_t>(n % kBlocks);
    }
    const State state = kKeepsState ? state_ : State(source_);
    state.philox.template words<kUnits * kBlocks>(block, words);
    FASTINIT_UNROLL
    for (int n = 0; n < kUnits * kBlocks; ++n) {
      transform(state.distribution, words[n],
                units[n / kBlocks].word + n % kBlocks * (4 / kBlocks));
    }
  }

 private:
  // What a thread keeps in registers, in fp32. In fp64 that would be too many, so it is made again
  // for every unit, from the segment.
  static constexpr bool kKeepsState = sizeof(typename A::Real) == 4;
  struct Source {
    const CudaSegment& segment;
    const ParametersOf& parameters;
    std::uint64_t high;  // word of the blocks
  };
  struct State {
    Philox<V> philox;
    Distribution<A> distribution;
    FASTINIT_DEVICE explicit State(const Source& s)
        : philox(s.segment.seed, s.segment.stream, kKeepsState), distribution(s.parameters) {
      philox.prepare(s.high);
    }
  };

  FASTINIT_DEVICE static void transform(const Distribution<A>& distribution,
                                        const PhiloxWords<V>& words, std::uint32_t* out) {
    typename A::Bits even[A::kPairs], odd[A::kPairs];
    A::pairs(words.word, even, odd);
    FASTINIT_UNROLL
    for (int p = 0; p < A::kPairs; ++p) {
      const auto pair = distribution(even[p], odd[p]);
      if constexpr (sizeof(Element) == 8) {
        split(A::bits(pair.even), out);
        split(A::bits(pair.odd), out + 2);
      } else if constexpr (sizeof(Element) == 4) {
        out[2 * p] = A::bits(pair.even);
        out[2 * p + 1] = A::bits(pair.odd);
      } else {
        out[p] = pack<A>(Element{}, pair.even, pair.odd);
      }
    }
  }
  FASTINIT_DEVICE static void split(std::uint64_t bits, std::uint32_t* out) {
    out[0] = static_cast<std::uint32_t>(bits);
    out[1] = static_cast<std::uint32_t>(bits >> 32);
  }

  Source source_;
  State state_;
};

// Units of a constant, given as the bits of one element.
template <class Element>
class ConstantUnits {
 public:
  static constexpr int kElements = sizeof(Unit) / sizeof(Element);
  static constexpr int kTogether = 1;

  FASTINIT_DEVICE ConstantUnits(const CudaSegment&, std::uint64_t bits) {
    if (sizeof(Element) == 2) bits |= bits << 16;
    if (sizeof(Element) <= 4) bits |= bits << 32;
    for (int n = 0; n < 4; ++n) unit_.word[n] = static_cast<std::uint32_t>(bits >> n % 2 * 32);
  }
  FASTINIT_DEVICE void prepare(std::uint64_t) {}
  template <int kUnits>
  FASTINIT_DEVICE void generate(std::uint32_t, std::uint32_t, Unit (&units)[kUnits]) const {
    for (int n = 0; n < kUnits; ++n) units[n] = unit_;
  }

 private:
  Unit unit_;
};

// Where a position of a region, counted in row-major order of its dimensions, lies.
struct Location {
  std::int64_t memory;
  std::uint64_t index;
};

FASTINIT_DEVICE inline Location locate(const CudaSegment& s, const CudaDim* dims,
                                       std::int64_t position) {
  Location at{0, s.start};
  FASTINIT_ROLLED
  for (int d = s.ndim - 1; d >= 0; --d) {
    const Dim& dim = dims[d].dim;
    // The outermost step is what is left: one division fewer, and most regions have one dimension.
    const std::int64_t rest = d > 0 ? dims[d].size.quotient(position) : 0;
    const std::int64_t step = position - rest * dim.size;
    at.memory += step * dim.memory_stride;
    at.index += static_cast<std::uint64_t>(step * dim.index_stride);
    position = rest;
  }
  return at;
}

// The first element of a unit, which gives way to the next.
template <class Element>
FASTINIT_DEVICE inline Element take_next(Unit& unit) {
  auto& w = unit.word;
  Element element;
  if constexpr (sizeof(Element) == 8) {
    element = bit_cast<Element>(w[0] | std::uint64_t{w[1]} << 32);
    w[0] = w[2];
    w[1] = w[3];
  } else if constexpr (sizeof(Element) == 4) {
    element = bit_cast<Element>(w[0]);
    for (int n = 0; n < 3; ++n) w[n] = w[n + 1];
  } else {
    element = {static_cast<std::uint16_t>(w[0])};
    for (int n = 0; n < 3; ++n) w[n] = w[n] >> 16 | w[n + 1] << 16;
    w[3] >>= 16;
  }
  return element;
}

// What a thread has to do: units begin + thread, begin + thread + threads, ... of a segment,
// `count` for all threads together.
struct Share {
  std::int64_t begin;
  std::uint32_t count, thread, threads;
};

template <class V, class Units>
FASTINIT_DEVICE void write_whole(const CudaSegment& s, const Share& share, Units& source) {
  constexpr std::uint32_t kTogether = Units::kTogether;
  const std::uint64_t unit = s.start / Units::kElements;
  source.prepare(unit);
  const auto first = static_cast<std::uint32_t>(unit + static_cast<std::uint64_t>(share.begin));
  auto* const out = reinterpret_cast<Unit*>(s.data) + share.begin;
  std::uint32_t n = share.thread;
  for (; n + (kTogether - 1) * share.threads < share.count; n += kTogether * share.threads) {
    Unit units[kTogether];
    source.template generate<kTogether>(first + n, share.threads, units);
    FASTINIT_UNROLL
    for (std::uint32_t g = 0; g < kTogether; ++g) V::write(out + n + g * share.threads, units[g]);
  }
  if (kTogether > 1 && n < share.count) {
    Unit units[1];
    source.template generate<1>(first + n, 0, units);
    V::write(out + n, units[0]);
  }
}

template <class V, class Element, class Units>
FASTINIT_DEVICE void write_elements(const CudaSegment& s, const CudaDim* dims, const Share& share,
                                    Units& source) {
  constexpr int kElements = Units::kElements;
  for (std::uint32_t n = share.thread; n < share.count; n += share.threads) {
    const std::int64_t number = share.begin + n;
    const std::int64_t row = s.per_row_units.quotient(number);
    const Location first = locate(s, dims, row * s.row);
    const std::uint64_t unit =
        first.index / kElements + static_cast<std::uint64_t>(number - row * s.row_units);
    source.prepare(unit);
    Unit units[1];
    source.template generate<1>(static_cast<std::uint32_t>(unit), 0, units);
    // The unit's first element, counted from the row's, whose start and end may be inside it; and a
    // row that begins where a unit does needs one unit fewer than others.
    const auto begin = static_cast<std::int64_t>(unit * kElements - first.index);
    auto* const data = reinterpret_cast<Element*>(s.data);
    auto* const out = data + first.memory + begin;
    const bool is_whole = s.is_dense && begin >= 0 && begin + kElements <= s.row;
    if (is_whole && reinterpret_cast<std::uintptr_t>(out) % sizeof(Unit) == 0) {
      V::write(reinterpret_cast<Unit*>(out), units[0]);
      continue;
    }
    FASTINIT_ROLLED
    for (std::int64_t at = begin; at < begin + kElements && at < s.row; ++at) {
      const Element element = take_next<Element>(units[0]);
      if (at < 0) continue;
      const std::int64_t memory =
          s.is_dense ? first.memory + at : locate(s, dims, row * s.row + at).memory;
      V::write(data + memory, element);
    }
  }
}

template <class V, class Element, class Units, class Argument>
FASTINIT_DEVICE void fill_units(const CudaSegment& s, const Argument& argument, const CudaDim* dims,
                                const Share& share) {
  Units source(s, argument);
  if (s.is_whole) {
    write_whole<V>(s, share, source);
  } else {
    write_elements<V, Element>(s, dims, share, source);
  }
}

// A segment's share of a thread, with what else it takes to fill it.
struct Task {
  const CudaSegment& segment;
  const CudaDim* dims;
  const Share& share;
};

template <class V, class Element, template <class> class Distribution>
FASTINIT_DEVICE void fill_by(RandomRow<Distribution>, const Task& t) {
  using Units = RandomUnits<V, Element, Distribution>;
  if constexpr (sizeof(Element) == 8) {
    fill_units<V, Element, Units>(t.segment, t.segment.double_precision, t.dims, t.share);
  } else {
    fill_units<V, Element, Units>(t.segment, t.segment.single_precision, t.dims, t.share);
  }
}

template <class Element>
struct StoredAs {
  using Type = Element;
};
template <>
struct StoredAs<BFloat16> {  // a constant is its bits: one code for both types of 16
  using Type = Half;
};

template <class V, class Element>
FASTINIT_DEVICE void fill_by(ConstantRow, const Task& t) {
  using Stored = typename StoredAs<Element>::Type;
  fill_units<V, Stored, ConstantUnits<Stored>>(t.segment, t.segment.constant_bits, t.dims, t.share);
}

// Words are not numbers of another type.
template <class V, class Element>
FASTINIT_DEVICE void fill_by(RandomRow<Words>, const Task& t) {
  if constexpr (sizeof(Element) == 4) fill_by<V, Element, Words>(RandomRow<Words>{}, t);
}

template <class V>
FASTINIT_DEVICE void fill_segment(const CudaSegment& s, const CudaDim* dims, const Share& share) {
  const Task task{s, dims, share};
  visit(s.kind, [&](auto row) {
    visit(s.dtype, [&](auto element) { fill_by<V, decltype(element)>(row, task); });
  });
}

// What thread `thread` of the block for `tile` does.
template <class V>
FASTINIT_DEVICE void fill_tile(const CudaTable& table, std::int64_t tile, std::uint32_t thread,
                               std::uint32_t threads) {
  std::int64_t low = 0, high = table.header().segments;  // the last segment with first tile <= tile
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (table.first_tile(middle) <= tile ? low : high) = middle;
  }
  const CudaSegment& s = table.segment(low);
  const std::int64_t tile_units = table.header().tile_units;
  const std::int64_t begin = (tile - table.first_tile(low)) * tile_units;
  const std::int64_t left = s.units - begin;
  const auto count = static_cast<std::uint32_t>(left < tile_units ? left : tile_units);
  fill_segment<V>(s, table.dims() + s.first_dim, {begin, count, thread, threads});
}

}  // namespace
}  // namespace fastinit

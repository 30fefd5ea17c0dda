// The fill loop: runs of logical indices through Philox, a distribution and a store.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../stream/convert.h"
#include "../stream/distributions.h"
#include "../stream/elements.h"
#include "../stream/philox.h"
#include "../stream/target.h"
#include "../table/segment.h"
#include "isa.h"

namespace fastinit {
namespace {

// Not std::min: an inline function of the standard library, emitted here for a wide instruction
// set, could be the copy that the linker keeps for everybody.
inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// How an element type is computed and stored.
template <class V, class Element>
struct Storage;

template <class V>
struct Storage<V, float> {
  using Arithmetic = typename V::Single;
  template <int kPairs>
  static void store(float* out, const typename Arithmetic::Float (&even)[kPairs],
                    const typename Arithmetic::Float (&odd)[kPairs]) {
    V::store(out, even, odd);
  }
};

template <class V>
struct Storage<V, double> {
  using Arithmetic = typename V::Double;
  template <int kPairs>
  static void store(double* out, const typename Arithmetic::Float (&even)[kPairs],
                    const typename Arithmetic::Float (&odd)[kPairs]) {
    V::store(out, even, odd);
  }
};

// 16-bit elements, a pair to a word.
template <class V, class Element>
struct PackedStorage {
  using Arithmetic = typename V::Single;
  template <int kPairs>
  static void store(Element* out, const typename Arithmetic::Float (&even)[kPairs],
                    const typename Arithmetic::Float (&odd)[kPairs]) {
    typename Arithmetic::Bits words[kPairs];
    for (int p = 0; p < kPairs; ++p) words[p] = pack<Arithmetic>(Element{}, even[p], odd[p]);
    V::store_words(out, words);
  }
};

template <class V>
struct Storage<V, Half> : PackedStorage<V, Half> {};
template <class V>
struct Storage<V, BFloat16> : PackedStorage<V, BFloat16> {};

template <class V, class Element, template <class> class Distribution>
class Generator {
  using Store = Storage<V, Element>;
  using A = typename Store::Arithmetic;

 public:
  static constexpr int kPerBlock = 16 / static_cast<int>(sizeof(typename A::Real));
  static constexpr int kPerVector = V::kBlocks * kPerBlock;

  Generator(const Segment& segment, const Parameters<typename A::Real>& parameters)
      : philox_(segment.seed, segment.stream), distribution_(parameters) {}

  // Elements [index, index + count) of the logical parameter to contiguous memory.
  void run(Element* out, std::uint64_t index, std::int64_t count) {
    constexpr std::uint64_t kSpan = std::uint64_t{kPerBlock} << 32;  // of one high word
    while (count > 0) {
      const auto n = smaller(count, static_cast<std::int64_t>(kSpan - index % kSpan));
      philox_.prepare(index / kSpan);
      run_in_span(out, index, n);
      out += n;
      index += static_cast<std::uint64_t>(n);
      count -= n;
    }
  }

 private:
  void run_in_span(Element* out, std::uint64_t index, std::int64_t count) const {
    std::uint64_t block = index / kPerBlock;
    const auto lead = static_cast<int>(index % kPerBlock);
    if (lead != 0) {
      const auto n = smaller(count, kPerVector - lead);
      partial(out, block, lead, n);
      out += n;
      count -= n;
      block += V::kBlocks;
    }
    constexpr std::int64_t kPerStep = std::int64_t{V::kAhead} * kPerVector;
    for (; count >= kPerStep; count -= kPerStep, out += kPerStep, block += V::kAhead * V::kBlocks) {
      whole<V::kAhead, V::kGroups, V::kTogether>(out, block);
    }
    for (; count >= kPerVector; count -= kPerVector, out += kPerVector, block += V::kBlocks) {
      whole<1, 1, 1>(out, block);
    }
    if (count > 0) partial(out, block, 0, count);
  }

  // Not inlined, where GCC hoists the constants of both loops and spills them; but a single block
  // of scalar code is less than a call.
  template <int kAhead, int kGroups, int kTogether>
  [[gnu::noinline]] void apart(Element* out, std::uint64_t first) const {
    made<kAhead, kGroups, kTogether>(out, first);
  }
  template <int kAhead, int kGroups, int kTogether>
  void whole(Element* out, std::uint64_t first) const {
    if constexpr (V::kAhead == 1) {
      made<kAhead, kGroups, kTogether>(out, first);
    } else {
      apart<kAhead, kGroups, kTogether>(out, first);
    }
  }

  // `kAhead` vectors of blocks: the words of all, `kGroups` at a time, then the elements,
  // `kTogether` at a time. With few registers, two loops that have them to themselves are faster
  // than one that spills.
  template <int kAhead, int kGroups, int kTogether>
  [[gnu::always_inline]] inline void made(Element* out, std::uint64_t first) const {
    PhiloxWords<V> words[kAhead];
#pragma GCC unroll 1
    for (int ahead = 0; ahead < kAhead; ahead += kGroups, first += kGroups * V::kBlocks) {
      typename V::Word block[kGroups];
      PhiloxWords<V> some[kGroups];
      block[0] = V::template blocks_from<Element>(first);
      for (int g = 1; g < kGroups; ++g) {
        block[g] = block[0] + V::splat(std::uint64_t(g) * V::kBlocks);
      }
      philox_.template words<kGroups>(block, some);
      FASTINIT_UNROLL
      for (int g = 0; g < kGroups; ++g) words[ahead + g] = some[g];
    }
#pragma GCC unroll 1
    for (int g = 0; g < kAhead; g += kTogether, out += kTogether * kPerVector) {
      transform<kTogether>(out, words + g);
    }
  }

  template <int kTogether>
  void transform(Element* out, const PhiloxWords<V>* words) const {
    auto rare = A::splat_bits(0);
    transform<kTogether>(out, words, [&](auto even, auto odd) {
      if constexpr (Distribution<A>::kHasRareCase) {
        return distribution_.common(even, odd, rare);
      } else {
        return distribution_(even, odd);
      }
    });
    if constexpr (Distribution<A>::kHasRareCase) {
      if (A::any(rare)) again<kTogether>(out, words);
    }
  }

  template <int kTogether>
  [[gnu::noinline, gnu::cold]] void again(Element* out, const PhiloxWords<V>* words) const {
    transform<kTogether>(out, words, distribution_);
  }

  template <int kTogether, class Function>
  static void transform(Element* out, const PhiloxWords<V>* words, const Function& function) {
    FASTINIT_UNROLL
    for (int g = 0; g < kTogether; ++g) {
      typename A::Bits even_bits[A::kPairs], odd_bits[A::kPairs];
      typename A::Float even[A::kPairs], odd[A::kPairs];
      A::pairs(words[g].word, even_bits, odd_bits);
      FASTINIT_UNROLL
      for (int p = 0; p < A::kPairs; ++p) {
        const auto pair = function(even_bits[p], odd_bits[p]);
        even[p] = pair.even;
        odd[p] = pair.odd;
      }
      Store::store(out + g * kPerVector, even, odd);
    }
  }

  void partial(Element* out, std::uint64_t block, int skip, std::int64_t count) const {
    Element buffer[kPerVector];
    whole<1, 1, 1>(buffer, block);
    std::memcpy(out, buffer + skip, static_cast<std::size_t>(count) * sizeof(Element));
  }

  Philox<V> philox_;
  Distribution<A> distribution_;
};

template <std::size_t kSize>
struct BitsOf;
template <>
struct BitsOf<2> {
  using Type = std::uint16_t;
};
template <>
struct BitsOf<4> {
  using Type = std::uint32_t;
};
template <>
struct BitsOf<8> {
  using Type = std::uint64_t;
};

template <class Element>
class Constant {
 public:
  explicit Constant(Element value) : value_(value) {}
  void run(Element* out, std::uint64_t, std::int64_t count) const {
    for (std::int64_t n = 0; n < count; ++n) out[n] = value_;
  }

 private:
  Element value_;
};

// Walks the positions [begin, end) of a region in row-major order of its dimensions.
template <class Element, class Source>
void fill_region(const Segment& segment, Source source, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kScatter = 1024;  // elements generated ahead of a strided store
  const bool direct = segment.dense == segment.run || segment.dense >= 64;
  const std::int64_t piece = direct ? segment.dense : segment.run;
  auto* const data = reinterpret_cast<Element*>(segment.data);
  for (std::int64_t position = begin; position < end;) {
    std::int64_t count = smaller(end - position, piece - position % piece);
    if (!direct) count = smaller(count, kScatter);
    std::int64_t memory = 0, at[kMaxDims] = {};
    std::uint64_t index = segment.start;
    std::int64_t rest = position;
    for (int d = segment.ndim - 1; d >= 0; --d) {
      const Dim& dim = segment.dims[d];
      at[d] = rest % dim.size;
      rest /= dim.size;
      memory += at[d] * dim.memory_stride;
      index += static_cast<std::uint64_t>(at[d] * dim.index_stride);
    }
    if (direct) {
      source.run(data + memory, index, count);
    } else {
      Element buffer[kScatter];
      source.run(buffer, index, count);
      for (std::int64_t n = 0; n < count; ++n) {
        data[memory] = buffer[n];
        for (int d = segment.ndim - 1; d >= 0; --d) {
          memory += segment.dims[d].memory_stride;
          if (++at[d] < segment.dims[d].size) break;
          memory -= at[d] * segment.dims[d].memory_stride;
          at[d] = 0;
        }
      }
    }
    position += count;
  }
}

template <class Real>
const Parameters<Real>& parameters_of(const Segment& segment) {
  if constexpr (sizeof(Real) == 8) {
    return segment.double_precision;
  } else {
    return segment.single_precision;
  }
}

// Positions [begin, end) of a segment.
struct Positions {
  const Segment& segment;
  std::int64_t begin, end;
};

template <class V, class Element, template <class> class Distribution>
void fill_by(RandomRow<Distribution>, const Positions& p) {
  using Real = typename Storage<V, Element>::Arithmetic::Real;
  const Generator<V, Element, Distribution> source(p.segment, parameters_of<Real>(p.segment));
  fill_region<Element>(p.segment, source, p.begin, p.end);
}

// Uniform without the multiplication by the unit, which the width has in it. An fma's product is
// not rounded: the bits are the same, unless the width is so small that it loses some.
template <class A>
class UniformInUnits {
  using T = typename A::Real;

 public:
  static constexpr bool kHasRareCase = false;
  static bool is_exact(const Parameters<T>& p) { return width(p) / Format<T>::kUnit == p.scale; }

  explicit UniformInUnits(const Parameters<T>& p)
      : low_(A::splat(p.shift)), width_(A::splat(width(p))), high_(A::splat(p.high)) {}
  Pair<A> operator()(typename A::Bits even, typename A::Bits odd) const {
    return {one(even), one(odd)};
  }

 private:
  static T width(const Parameters<T>& p) { return p.scale * Format<T>::kUnit; }
  typename A::Float one(typename A::Bits word) const {
    return A::min(A::fma(A::word_to_float(word), width_, low_), high_);
  }
  typename A::Float low_, width_, high_;
};

// The reference stays as it is written down, and has the widths that lose bits, below 2^-94 in
// fp32.
template <class V, class Element>
void fill_by(RandomRow<Uniform>, const Positions& p) {
  using A = typename Storage<V, Element>::Arithmetic;
  if constexpr (V::kBlocks == 1) {
    fill_by<V, Element, Uniform>(RandomRow<Uniform>{}, p);
  } else if (UniformInUnits<A>::is_exact(parameters_of<typename A::Real>(p.segment))) {
    fill_by<V, Element, UniformInUnits>(RandomRow<UniformInUnits>{}, p);
  } else {
    kIsaScalar.fill(p.segment, p.begin, p.end);
  }
}

// Every constant is stored as its bits, already rounded to the element type.
template <class V, class Element>
void fill_by(ConstantRow, const Positions& p) {
  using Bits = typename BitsOf<sizeof(Element)>::Type;
  const Constant<Bits> source(static_cast<Bits>(p.segment.constant_bits));
  fill_region<Bits>(p.segment, source, p.begin, p.end);
}

// Words are not numbers of another type.
template <class V, class Element>
void fill_by(RandomRow<Words>, const Positions& p) {
  if constexpr (sizeof(Element) == 4) fill_by<V, Element, Words>(RandomRow<Words>{}, p);
}

// Fills positions [begin, end) of a segment: what every instruction set exports.
template <class V>
void fill_positions(const Segment& segment, std::int64_t begin, std::int64_t end) {
  const Positions positions{segment, begin, end};
  visit(segment.kind, [&](auto row) {
    visit(segment.dtype, [&](auto element) { fill_by<V, decltype(element)>(row, positions); });
  });
}

}  // namespace
}  // namespace fastinit

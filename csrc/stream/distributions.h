// From raw words to values: stream v1's arithmetic, once for every lane type and both precisions.
//
// Only additions, multiplications, fma, sqrt and exact conversions occur, in a fixed order, so that
// every target gives the same bits. Each distribution maps a pair of raw words (32 bits in fp32, 64
// in fp64) to a pair of elements.
#pragma once

#include <cstddef>
#include <cstdint>

#include "coefficients.h"
#include "target.h"

namespace fastinit {

// Numbers that tables hold: appended to, never changed. `visit`, below, says what each one is.
enum class Kind : std::int32_t { kConstant, kUniform, kNormal, kTruncNormal, kWords };
constexpr int kKinds = 5;

// A distribution's parameters in the arithmetic of the element type, derived once per segment
// (parameters.cpp). Unused members are zero.
template <class T>
struct Parameters {
  T shift;      // uniform's a; mean
  T scale;      // uniform's b - a; standard deviation
  T low, high;  // what the result is clamped to
  // Truncated normal, [0] for words of the lower half and [1] for those of the upper half, which
  // count from the top: Phi(x) = cdf + word width, Phi(-x) = complement - word width.
  T cdf[2], complement[2];
  T width;  // (Phi(beta) - Phi(alpha)) per unit of the word
  // 2 Phi(x) - 1 = position + 2 word width; in a symmetric window the word then counts from the
  // middle, where this is zero and needs all its digits.
  T position[2];
  bool from_middle;
};

namespace {

template <class T>
struct Format;

template <>
struct Format<float> {
  static constexpr int kRawBits = 32;
  static constexpr int kDropped = 0;                            // low bits of the raw word not used
  static constexpr float kUnit = 0x1p-32f;                      // of the word, as a fraction of 1
  static constexpr float kExponentUnit = 0x1p-23f;              // of what exponent_to_float gives
  static constexpr std::uint32_t kMinusTwo = 0xC0000000u;       // bits of -2
  static constexpr std::uint32_t kMinusTwoUnits = 0xB0000000u;  // bits of -2 kUnit
  static constexpr std::uint32_t kRootHalf = 0x3F3504F3u;       // bits of sqrt(1/2)
  static constexpr std::uint32_t kExponent = 0xFF800000u;       // sign and exponent
  FASTINIT_DEVICE static constexpr const auto& log() { return coefficients::kLog32; }
  FASTINIT_DEVICE static constexpr const auto& sin() { return coefficients::kSin32; }
  FASTINIT_DEVICE static constexpr const auto& cos() { return coefficients::kCos32; }
  FASTINIT_DEVICE static constexpr const auto& quantile() {
    return coefficients::kQuantileCentral32;
  }
};

template <>
struct Format<double> {
  static constexpr int kRawBits = 64;
  static constexpr int kDropped = 11;
  static constexpr double kUnit = 0x1p-53;
  static constexpr double kExponentUnit = 1.0;
  static constexpr std::uint64_t kMinusTwo = 0xC000000000000000u;
  static constexpr std::uint64_t kMinusTwoUnits = 0xBCB0000000000000u;
  static constexpr std::uint64_t kRootHalf = 0x3FE6A09E667F3BCDu;
  static constexpr std::uint64_t kExponent = 0xFFF0000000000000u;
  FASTINIT_DEVICE static constexpr const auto& log() { return coefficients::kLog64; }
  FASTINIT_DEVICE static constexpr const auto& sin() { return coefficients::kSin64; }
  FASTINIT_DEVICE static constexpr const auto& cos() { return coefficients::kCos64; }
  FASTINIT_DEVICE static constexpr const auto& quantile() {
    return coefficients::kQuantileCentral64;
  }
};

constexpr double kLn2 = 0.69314718055994530942;
constexpr double kTwoPi = 6.2831853071795864769;
constexpr double kRootTwo = 1.41421353816986083984;    // a float, in fp64 too: its product is exact
constexpr double kRootHalfPi = 1.2533141373155002512;  // dx/dv at the centre of the normal

template <class A, std::size_t kTerms>
FASTINIT_DEVICE inline typename A::Float horner(typename A::Float x,
                                                const double (&coefficients)[kTerms]) {
  using T = typename A::Real;
  auto sum = A::splat(static_cast<T>(coefficients[kTerms - 1]));
  FASTINIT_UNROLL
  for (std::size_t k = kTerms - 1; k > 0; --k) {
    sum = A::fma(sum, x, A::splat(static_cast<T>(coefficients[k - 1])));
  }
  return sum;
}

// Even and odd powers apart: one more multiplication than Horner's rule, half its latency. `square`
// is x^2. The coefficients are scaled by powers of two: scale, scale * step, scale * step^2, ...
template <class A, std::size_t kTerms>
FASTINIT_DEVICE inline typename A::Float two_chains(typename A::Float x, typename A::Float square,
                                                    const double (&coefficients)[kTerms],
                                                    double scale = 1.0, double step = 1.0) {
  using T = typename A::Real;
  typename A::Float term[kTerms];
  FASTINIT_UNROLL
  for (std::size_t k = 0; k < kTerms; ++k, scale *= step) {
    term[k] = A::splat(static_cast<T>(scale * coefficients[k]));
  }
  typename A::Float sum[2] = {term[(kTerms - 1) / 2 * 2], term[(kTerms - 2) / 2 * 2 + 1]};
  FASTINIT_UNROLL
  for (std::size_t k = kTerms - 2; k > 0; --k) {
    sum[(k - 1) % 2] = A::fma(sum[(k - 1) % 2], square, term[k - 1]);
  }
  return A::fma(sum[1], x, sum[0]);
}

// Powers by their remainder modulo four apart: for long polynomials, a quarter of the latency.
template <class A, std::size_t kTerms>
FASTINIT_DEVICE inline typename A::Float four_chains(typename A::Float x,
                                                     const double (&coefficients)[kTerms]) {
  using T = typename A::Real;
  const auto square = x * x;
  const auto fourth = square * square;
  typename A::Float sum[4];
  FASTINIT_UNROLL
  for (std::size_t k = kTerms - 4; k < kTerms; ++k) {
    sum[k % 4] = A::splat(static_cast<T>(coefficients[k]));
  }
  FASTINIT_UNROLL
  for (std::size_t k = kTerms - 4; k > 0; --k) {
    sum[(k - 1) % 4] =
        A::fma(sum[(k - 1) % 4], fourth, A::splat(static_cast<T>(coefficients[k - 1])));
  }
  return A::fma(A::fma(sum[3], x, sum[2]), square, A::fma(sum[1], x, sum[0]));
}

// 1 where a word is in the upper half, else 0; `s` has its sign as a signed integer.
template <class A>
FASTINIT_DEVICE inline typename A::Float upper_half(typename A::Bits word, typename A::Float) {
  using T = typename A::Real;
  return A::select(word, A::splat(T(1)), A::splat(T(0)));
}

// `factor` log(2^k (1 + f)), with k given as A::exponent_to_float gives it, g = `factor` f, |f| <
// 0.42. The factor is a power of two, or minus one, so that it enters without a rounding.
template <class A>
FASTINIT_DEVICE inline typename A::Float scaled_log(typename A::Float k, typename A::Float g,
                                                    double factor) {
  using T = typename A::Real;
  const auto k_unit = A::splat(static_cast<T>(factor * kLn2 * Format<T>::kExponentUnit));
  const auto square = g * g;
  const auto tail = two_chains<A>(g, square, Format<T>::log(), 1 / factor, 1 / factor);
  return A::fma(square, tail, A::fma(k, k_unit, g));
}

// -2 log u, u = (word + 1/2) unit, for every word to a few ulp.
//
// As a signed integer a word of the upper half is exactly (u - 1) / unit - 1/2, so the argument of
// log1p is formed without the cancellation of u - 1, which fp32 cannot afford.
template <class A>
FASTINIT_DEVICE inline typename A::Float minus_two_log(typename A::Bits word) {
  using T = typename A::Real;
  using F = Format<T>;
  const auto s = A::centred_word_to_float(word) + A::splat(T(0.5));
  const auto origin = upper_half<A>(word, s);  // u = origin + s * unit
  const auto u = A::fma(s, A::splat(F::kUnit), origin);
  const auto k = (A::bits(u) - A::splat_bits(F::kRootHalf)) & A::splat_bits(F::kExponent);
  const auto scale = A::from_bits(A::splat_bits(F::kMinusTwo) - k);            // -2 2^-k
  const auto unit_scale = A::from_bits(A::splat_bits(F::kMinusTwoUnits) - k);  // -2 2^-k unit
  const auto g = A::fma(s, unit_scale, A::fma(origin, scale, A::splat(T(2))));
  return scaled_log<A>(A::exponent_to_float(k), g, -2.0);
}

// -log y for a normal y > 0.
template <class A>
FASTINIT_DEVICE inline typename A::Float minus_log(typename A::Float y) {
  using T = typename A::Real;
  using F = Format<T>;
  const auto k = (A::bits(y) - A::splat_bits(F::kRootHalf)) & A::splat_bits(F::kExponent);
  const auto g = A::splat(T(1)) - A::from_bits(A::bits(y) - k);
  return scaled_log<A>(A::exponent_to_float(k), g, -1.0);
}

template <class A>
struct CosSin {
  typename A::Float cos, sin;
};

// What is left of word * unit after the nearest quarter turn, in [-1/8, 1/8) turns.
template <class A>
FASTINIT_DEVICE inline typename A::Float rest_of_turn(typename A::Bits word) {
  using T = typename A::Real;
  using F = Format<T>;
  using Raw = decltype(F::kRootHalf);
  if constexpr (F::kDropped == 0) {
    return A::signed_to_float(A::template shl<2>(word)) * A::splat(F::kUnit / 4);
  } else {
    constexpr Raw kEighth = Raw{1} << (F::kRawBits - 3);
    const auto rest = (word + A::splat_bits(kEighth)) & A::splat_bits(2 * kEighth - 1);
    const auto offset = A::template shr<F::kDropped>(rest) - A::splat_bits(kEighth >> F::kDropped);
    return A::signed_to_float(offset) * A::splat(F::kUnit);
  }
}

// Cosine and sine of 2 pi (word * unit). The quadrant is split off in integers, exactly.
template <class A>
FASTINIT_DEVICE inline CosSin<A> cos_sin_turns(typename A::Bits word) {
  using T = typename A::Real;
  using F = Format<T>;
  using Raw = decltype(F::kRootHalf);
  constexpr Raw kEighth = Raw{1} << (F::kRawBits - 3);
  const auto shifted = word + A::splat_bits(kEighth);  // top two bits: the nearest quadrant
  const auto t = rest_of_turn<A>(word);
  const auto z = t * t;
  const auto sin = A::fma(t, A::splat(static_cast<T>(kTwoPi)), t * horner<A>(z, F::sin()));
  const auto cos = A::fma(z, horner<A>(z, F::cos()), A::splat(T(1)));
  const auto swap = A::template shl<1>(shifted);  // odd quadrants exchange the two
  const auto top = A::splat_bits(Raw{1} << (F::kRawBits - 1));
  const auto sin_sign = shifted & top;
  const auto cos_sign = (shifted + A::splat_bits(2 * kEighth)) & top;
  return {A::from_bits(A::bits(A::select(swap, sin, cos)) ^ cos_sign),
          A::from_bits(A::bits(A::select(swap, cos, sin)) ^ sin_sign)};
}

template <class A, std::size_t kTerms>
FASTINIT_DEVICE inline typename A::Float piece(typename A::Float s,
                                               const double (&coefficients)[kTerms],
                                               double middle) {
  const auto x = s - A::splat(static_cast<typename A::Real>(middle));
  return two_chains<A>(x, x * x, coefficients);
}

// `result`, replaced by an outer piece of the quantile where `s` > `from`. The piece is evaluated
// only when some lane needs it: that saves time and cannot change a value.
template <class A, std::size_t kTerms>
FASTINIT_DEVICE inline typename A::Float beyond(typename A::Real from, typename A::Float s,
                                                const double (&coefficients)[kTerms], double middle,
                                                typename A::Float result) {
  const auto outside = A::bits(A::splat(from) - s);
  if (!A::any(outside)) return result;
  return A::select(outside, piece<A>(s, coefficients, middle), result);
}

// x / v, where x = Phi^-1((1 + v) / 2), as a function of q = 1 - v^2, for q >= kQuantileCentral:
// |x| < 3.1, all but a five-hundredth of the normal distribution. See fit_coefficients.py.
constexpr double kQuantileCentral = 0x1p-8;

template <class A>
FASTINIT_DEVICE inline typename A::Float central_quantile_ratio(typename A::Float q) {
  namespace c = coefficients;
  using T = typename A::Real;
  constexpr double kMiddle =
      sizeof(T) == 4 ? c::kQuantileCentral32Middle : c::kQuantileCentral64Middle;
  const auto t = A::sqrt(A::sqrt(q));
  const auto rise = four_chains<A>(t - A::splat(T(kMiddle)), Format<T>::quantile());
  return A::fma(A::splat(T(1)) - t, rise, A::splat(T(kRootHalfPi)));
}

// The same for q < kQuantileCentral, down to the smallest that the arithmetic holds.
template <class A>
FASTINIT_DEVICE inline typename A::Float tail_quantile_ratio(typename A::Float q) {
  namespace c = coefficients;
  using T = typename A::Real;
  const auto s = A::sqrt(A::max(minus_log<A>(q), A::splat(T(0))));
  if constexpr (sizeof(T) == 4) {
    auto d = piece<A>(s, c::kQuantileTail32, c::kQuantileTail32Middle);
    d = beyond<A>(T(4.75), s, c::kQuantileFar32, c::kQuantileFar32Middle, d);
    return A::fma(s, A::splat(T(kRootTwo)), d);
  } else {
    auto d = piece<A>(s, c::kQuantileTail64, c::kQuantileTail64Middle);
    d = beyond<A>(T(4.25), s, c::kQuantileDeep64, c::kQuantileDeep64Middle, d);
    d = beyond<A>(T(6.5), s, c::kQuantileFar64, c::kQuantileFar64Middle, d);
    d = beyond<A>(T(12.5), s, c::kQuantileFarthest64, c::kQuantileFarthest64Middle, d);
    return A::fma(s, A::splat(T(kRootTwo)), d);
  }
}

template <class A>
struct Pair {
  typename A::Float even, odd;
};

// A distribution D maps raw words to elements: D(even, odd). One whose common case is cheaper than
// its rare ones has kHasRareCase, and D.common(even, odd, rare), which sets the top bit of `rare`
// in the lanes where its result is not D's.

// The words themselves, for tests of the generator.
template <class A>
struct Words {
  static constexpr bool kHasRareCase = false;
  FASTINIT_DEVICE explicit Words(const Parameters<typename A::Real>&) {}
  FASTINIT_DEVICE Pair<A> operator()(typename A::Bits even, typename A::Bits odd) const {
    return {A::from_bits(even), A::from_bits(odd)};
  }
};

template <class A>
struct Uniform {
  static constexpr bool kHasRareCase = false;
  typename A::Float unit, low, width, high;

  FASTINIT_DEVICE explicit Uniform(const Parameters<typename A::Real>& p)
      : unit(A::splat(Format<typename A::Real>::kUnit)),
        low(A::splat(p.shift)),
        width(A::splat(p.scale)),
        high(A::splat(p.high)) {}
  FASTINIT_DEVICE typename A::Float one(typename A::Bits word) const {
    return A::min(A::fma(A::word_to_float(word) * unit, width, low), high);
  }
  FASTINIT_DEVICE Pair<A> operator()(typename A::Bits even, typename A::Bits odd) const {
    return {one(even), one(odd)};
  }
};

// Box and Muller, "A note on the generation of random normal deviates", 1958.
template <class A>
struct Normal {
  static constexpr bool kHasRareCase = false;
  typename A::Float mean, std;

  FASTINIT_DEVICE explicit Normal(const Parameters<typename A::Real>& p)
      : mean(A::splat(p.shift)), std(A::splat(p.scale)) {}
  FASTINIT_DEVICE Pair<A> operator()(typename A::Bits even, typename A::Bits odd) const {
    const auto radius = A::sqrt(minus_two_log<A>(even));
    const auto angle = cos_sin_turns<A>(odd);
    return {A::fma(radius * angle.cos, std, mean), A::fma(radius * angle.sin, std, mean)};
  }
};

// Inverse CDF of u = (word + 1/2) unit, moved into [Phi(alpha), Phi(beta)]. Phi(x) and Phi(-x) are
// formed apart, each half of the words from its own end, so that neither tail loses its digits.
template <class A>
class TruncNormal {
 public:
  static constexpr bool kHasRareCase = true;

  FASTINIT_DEVICE explicit TruncNormal(const Parameters<typename A::Real>& p)
      : mean(A::splat(p.shift)),
        std(A::splat(p.scale)),
        low(A::splat(p.low)),
        high(A::splat(p.high)),
        cdf{A::splat(p.cdf[0]), A::splat(p.cdf[1])},
        four_complements{A::splat(4 * p.complement[0]), A::splat(4 * p.complement[1])},
        width(A::splat(p.width)),
        minus_four_widths(A::splat(-4 * p.width)),
        twice_width(A::splat(2 * p.width)),
        position{A::splat(p.position[0]), A::splat(p.position[1])},
        origin(A::splat_bits(p.from_middle ? kTop : 0)) {}

  FASTINIT_DEVICE Pair<A> operator()(typename A::Bits even, typename A::Bits odd) const {
    return {exact(even), exact(odd)};
  }
  FASTINIT_DEVICE Pair<A> common(typename A::Bits even, typename A::Bits odd,
                                 typename A::Bits& rare) const {
    const auto p = place(even), q = place(odd);
    rare = rare | in_tail(p) | in_tail(q);
    return {value(p, central_quantile_ratio<A>(p.q)), value(q, central_quantile_ratio<A>(q.q))};
  }

 private:
  using F = Format<typename A::Real>;
  static constexpr auto kTop = decltype(F::kRootHalf){1} << (F::kRawBits - 1);

  struct Place {  // of an element in the standard normal distribution
    typename A::Float v, q;
  };
  FASTINIT_DEVICE Place place(typename A::Bits word) const {
    const auto from_end = A::centred_word_to_float(word);
    const auto from_origin = A::centred_word_to_float(word ^ origin);
    const auto below = A::fma(from_end, width, A::select(word, cdf[1], cdf[0]));
    const auto four_above = A::fma(from_end, minus_four_widths,
                                   A::select(word, four_complements[1], four_complements[0]));
    const auto v = A::fma(from_origin, twice_width, A::select(word, position[1], position[0]));
    return {v, below * four_above};
  }
  FASTINIT_DEVICE static typename A::Bits in_tail(const Place& p) {
    return A::bits(p.q - A::splat(static_cast<typename A::Real>(kQuantileCentral)));
  }
  FASTINIT_DEVICE typename A::Float value(const Place& p, typename A::Float ratio) const {
    return A::max(A::min(A::fma(p.v * ratio, std, mean), high), low);
  }
  FASTINIT_DEVICE typename A::Float exact(typename A::Bits word) const {
    const auto p = place(word);
    auto ratio = central_quantile_ratio<A>(p.q);
    if (A::any(in_tail(p))) ratio = A::select(in_tail(p), tail_quantile_ratio<A>(p.q), ratio);
    return value(p, ratio);
  }

  typename A::Float mean, std, low, high, cdf[2], four_complements[2], width, minus_four_widths,
      twice_width, position[2];
  typename A::Bits origin;
};

// A row for each kind: its name, and what it draws from. A constant draws from nothing.
struct ConstantRow {
  const char* name;
};
template <template <class> class D>
struct RandomRow {
  const char* name;
};

// Calls `f` with a kind's row. No default: the compiler names a kind that is forgotten.
template <class Function>
FASTINIT_DEVICE inline void visit(Kind kind, const Function& f) {
  switch (kind) {
    case Kind::kConstant:
      return f(ConstantRow{"constant"});
    case Kind::kUniform:
      return f(RandomRow<Uniform>{"uniform"});
    case Kind::kNormal:
      return f(RandomRow<Normal>{"normal"});
    case Kind::kTruncNormal:
      return f(RandomRow<TruncNormal>{"trunc_normal"});
    case Kind::kWords:
      return f(RandomRow<Words>{"words"});
  }
}

}  // namespace
}  // namespace fastinit

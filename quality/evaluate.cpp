// The kernels' own arithmetic on given words instead of Philox's, so that a function of one word
// can be examined for all of them. Everything after the generator is csrc/'s: distributions,
// rounding to the element type, the order of the store.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../csrc/cpu/fill.h"
#include "../csrc/stream/lanes_scalar.h"
#include "../csrc/table/parameters.h"
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "../csrc/cpu/lanes_avx2.h"
#endif

namespace fastinit {
namespace {

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
using Lanes = Avx2;
constexpr const char* kLanes = "avx2";
#else
using Lanes = Scalar;
constexpr const char* kLanes = "scalar";
#endif

// Beside the kinds of a segment: the two halves of Box and Muller's method.
constexpr int kLogRadius = 100, kCosSin = 101;

template <class A>
struct LogRadius {
  static constexpr bool kHasRareCase = false;
  explicit LogRadius(const Parameters<typename A::Real>&) {}
  Pair<A> operator()(typename A::Bits even, typename A::Bits odd) const {
    return {A::sqrt(minus_two_log<A>(even)), A::sqrt(minus_two_log<A>(odd))};
  }
};

template <class A>
struct CosOfEvenSinOfOdd {
  static constexpr bool kHasRareCase = false;
  explicit CosOfEvenSinOfOdd(const Parameters<typename A::Real>&) {}
  Pair<A> operator()(typename A::Bits even, typename A::Bits odd) const {
    return {cos_sin_turns<A>(even).cos, cos_sin_turns<A>(odd).sin};
  }
};

// `words` as Philox would deliver them, four to a block; `blocks` a multiple of V::kBlocks.
template <class V, class Element, template <class> class Distribution>
void transform(const Parameters<typename Storage<V, Element>::Arithmetic::Real>& parameters,
               const std::uint32_t* words, std::int64_t blocks, Element* out) {
  using Store = Storage<V, Element>;
  using A = typename Store::Arithmetic;
  constexpr int kPerBlock = 16 / static_cast<int>(sizeof(typename A::Real));
  const Distribution<A> distribution(parameters);
  constexpr bool kNarrow = sizeof(typename V::Word) == 4 * V::kBlocks;
  using Lane = std::conditional_t<kNarrow, std::uint32_t, std::uint64_t>;
  Lane block_of_lane[V::kBlocks];
  const auto order = V::template blocks_from<Element>(0);
  std::memcpy(block_of_lane, &order, sizeof order);
  for (std::int64_t block = 0; block < blocks; block += V::kBlocks, words += 4 * V::kBlocks) {
    Lane lanes[4][V::kBlocks];
    for (int lane = 0; lane < V::kBlocks; ++lane) {
      for (int k = 0; k < 4; ++k) lanes[k][lane] = words[4 * block_of_lane[lane] + k];
    }
    typename V::Word delivered[4];
    std::memcpy(delivered, lanes, sizeof lanes);
    if constexpr (kNarrow) {  // an exchange of lanes, its own inverse
      for (int k : {1, 3}) delivered[k] = V::in_order(delivered[k]);
    }
    typename A::Bits even_bits[A::kPairs], odd_bits[A::kPairs];
    A::pairs(delivered, even_bits, odd_bits);
    typename A::Float even[A::kPairs], odd[A::kPairs];
    for (int p = 0; p < A::kPairs; ++p) {
      auto rare = A::splat_bits(0);
      Pair<A> pair;
      if constexpr (Distribution<A>::kHasRareCase) {
        pair = distribution.common(even_bits[p], odd_bits[p], rare);
      }
      if (!Distribution<A>::kHasRareCase || A::any(rare)) {
        pair = distribution(even_bits[p], odd_bits[p]);
      }
      even[p] = pair.even;
      odd[p] = pair.odd;
    }
    Store::store(out + block * kPerBlock, even, odd);
  }
}

template <class Element>
bool transform_as(int function, const Segment& segment, const std::uint32_t* words,
                  std::int64_t blocks, void* memory) {
  auto* const out = static_cast<Element*>(memory);
  const auto& parameters = [&]() -> const auto& {
    if constexpr (sizeof(Element) == 8) {
      return segment.double_precision;
    } else {
      return segment.single_precision;
    }
  }();
  switch (function) {
    case static_cast<int>(Kind::kUniform):
      transform<Lanes, Element, Uniform>(parameters, words, blocks, out);
      return true;
    case static_cast<int>(Kind::kNormal):
      transform<Lanes, Element, Normal>(parameters, words, blocks, out);
      return true;
    case static_cast<int>(Kind::kTruncNormal):
      transform<Lanes, Element, TruncNormal>(parameters, words, blocks, out);
      return true;
    case kLogRadius:
      transform<Lanes, Element, LogRadius>(parameters, words, blocks, out);
      return true;
    case kCosSin:
      transform<Lanes, Element, CosOfEvenSinOfOdd>(parameters, words, blocks, out);
      return true;
    default:
      return false;
  }
}

bool derive(int function, int dtype, const double* p, Segment& segment) {
  segment.dtype = static_cast<DType>(dtype);
  if (function >= kLogRadius) return true;
  segment.kind = static_cast<Kind>(function);
  try {
    derive_parameters(segment, {p[0], p[1], p[2], p[3]});
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

bool transform_any(int function, const Segment& segment, const std::uint32_t* words,
                   std::int64_t blocks, void* out) {
  switch (segment.dtype) {
    case DType::kFloat32:
      return transform_as<float>(function, segment, words, blocks, out);
    case DType::kFloat64:
      return transform_as<double>(function, segment, words, blocks, out);
    case DType::kFloat16:
      return transform_as<Half>(function, segment, words, blocks, out);
    case DType::kBFloat16:
      return transform_as<BFloat16>(function, segment, words, blocks, out);
    default:
      return false;
  }
}

// Bit patterns of floating-point numbers in an unsigned order that is theirs; a NaN comes out
// beyond the infinity of its sign, so that it cannot hide between two extremes.
template <class Raw>
Raw ordered(Raw bits) {
  constexpr Raw kTop = Raw(Raw{1} << (8 * sizeof(Raw) - 1));
  return bits & kTop ? Raw(~bits) : Raw(bits | kTop);
}

template <class Raw>
void widen(const std::vector<std::uint64_t>& memory, std::size_t count, std::uint64_t* range) {
  const auto* const bits = reinterpret_cast<const Raw*>(memory.data());
  auto low = static_cast<Raw>(range[0]), high = static_cast<Raw>(range[1]);
  for (std::size_t n = 0; n < count; ++n) {
    const Raw key = ordered(bits[n]);
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  range[0] = low;
  range[1] = high;
}

// |value - exact| / 2^e, 2^e <= max(|exact|, floor) < 2^(e + 1), as bits: those of numbers that are
// not negative are ordered as the numbers are, with NaN on top.
std::int64_t relative_error(float value, double exact, double floor) {
  const double size = std::fabs(exact) > floor ? std::fabs(exact) : floor;
  const auto exponent = bit_cast<std::int64_t>(size) & std::int64_t{0x7FF} << 52;
  return bit_cast<std::int64_t>(std::fabs(value - exact) / bit_cast<double>(exponent));
}

const long double kRootHalf = std::sqrt(0.5L);

long double normal_density(long double x) {
  return 0.398942280401432677939946059934L * std::exp(-0.5L * x * x);
}

}  // namespace
}  // namespace fastinit

using namespace fastinit;

extern "C" {

const char* lanes() { return kLanes; }

int block_multiple() { return Lanes::kBlocks; }

// What a fill would write for these words. 0 if it refuses the parameters.
int evaluate(int function, int dtype, const double* p, const std::uint32_t* words,
             std::int64_t blocks, void* out) {
  Segment segment{};
  return derive(function, dtype, p, segment) &&
         transform_any(function, segment, words, blocks, out);
}

// The smallest and the largest value for the 32-bit words first, first + 1, ..., `count` of them (a
// multiple of 2^16), as keys of `ordered`. For functions of one word each.
int extremes(int function, int dtype, const double* p, std::uint64_t first, std::uint64_t count,
             std::uint64_t* range) {
  constexpr std::size_t kTile = 1 << 14;
  Segment segment{};
  if (!derive(function, dtype, p, segment) || segment.dtype == DType::kFloat64) return 0;
  std::vector<std::uint32_t> words(kTile);
  std::vector<std::uint64_t> out(kTile);
  range[0] = ~std::uint64_t{0};
  range[1] = 0;
  for (std::uint64_t begin = first; begin < first + count; begin += kTile) {
    for (std::size_t n = 0; n < kTile; ++n) words[n] = static_cast<std::uint32_t>(begin + n);
    if (!transform_any(function, segment, words.data(), kTile / 4, out.data())) return 0;
    if (itemsize(segment.dtype) == 4) {
      widen<std::uint32_t>(out, kTile, range);
    } else {
      widen<std::uint16_t>(out, kTile, range);
    }
  }
  return 1;
}

// Largest and total error in ulp of fp32 (see relative_error), and the index of the largest.
// `count` is a multiple of 1024.
std::int64_t compare(const float* values, const double* exact, std::int64_t count, double floor,
                     double* largest, double* total) {
  constexpr int kTile = 1024, kSums = 8;
  std::int64_t errors[kTile], most = -1, at = 0;
  double sums[kSums] = {};
  for (std::int64_t begin = 0; begin < count; begin += kTile) {
    std::int64_t here = 0;
    for (int n = 0; n < kTile; ++n) {
      errors[n] = relative_error(values[begin + n], exact[begin + n], floor);
      here = errors[n] > here ? errors[n] : here;
    }
    for (int n = 0; n < kTile; n += kSums) {
      for (int k = 0; k < kSums; ++k) sums[k] += bit_cast<double>(errors[n + k]);
    }
    if (here > most) {
      most = here;
      at = begin + (std::find(errors, errors + kTile, here) - errors);
    }
  }
  *largest = 0x1p23 * bit_cast<double>(most);
  *total = 0;
  for (const double sum : sums) *total += 0x1p23 * sum;
  return at;
}

// How far each value lies from the quantile Phi^-1(Phi(a) + u (Phi(b) - Phi(a))) of its
// u = (bits + 1/2) 2^-53: one step of Newton's method in long double. The value is within a few
// parts in 10^16 of the root, so that what the step leaves is of the order of 10^-31.
void quantile_errors(double a, double b, const std::uint64_t* bits, const double* values,
                     std::int64_t count, double* errors) {
  const long double left_a = 0.5L * std::erfc(-a * kRootHalf);
  const long double left_b = 0.5L * std::erfc(-b * kRootHalf);
  const long double right_a = 0.5L * std::erfc(a * kRootHalf);
  const long double right_b = 0.5L * std::erfc(b * kRootHalf);
  const long double half_a = 0.5L * std::erf(a * kRootHalf);
  const long double half_b = 0.5L * std::erf(b * kRootHalf);
  for (std::int64_t n = 0; n < count; ++n) {
    const auto whole = static_cast<long double>(bits[n]);
    const long double u = (whole + 0.5L) * 0x1p-53L;
    const long double rest = (0x1p53L - whole - 0.5L) * 0x1p-53L;
    const long double x = values[n];
    long double excess;  // Phi(x) less what it should be, from the end that keeps its digits
    if (x > 1) {
      excess = rest * right_a + u * right_b - 0.5L * std::erfc(x * kRootHalf);
    } else if (x < -1) {
      excess = 0.5L * std::erfc(-x * kRootHalf) - (rest * left_a + u * left_b);
    } else {
      const long double middle = 0.5L * (half_a + half_b);
      excess = 0.5L * std::erf(x * kRootHalf) - (middle + (u - 0.5L) * (half_b - half_a));
    }
    errors[n] = static_cast<double>(excess / normal_density(x));
  }
}

}  // extern "C"

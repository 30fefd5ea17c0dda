#include "parameters.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "../stream/coefficients.h"
#include "../stream/lanes_scalar.h"

namespace fastinit {
namespace {

// exp(y), y <= 0.
double exponential(double y) {
  constexpr double kLog2e = 1.4426950408889634;
  constexpr double kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45;
  const double n = std::nearbyint(y * kLog2e);
  const double r = std::fma(-n, kLn2Low, std::fma(-n, kLn2High, y));
  double sum = 1.0;
  for (int k = 14; k > 0; --k) sum = std::fma(sum, r / k, 1.0);  // Taylor, |r| <= ln(2) / 2
  return std::ldexp(sum, static_cast<int>(n));
}

// exp(x^2 / 2) Phi(-x), x >= 0, by Clenshaw's recurrence.
double mills(double x) {
  constexpr int kTerms = sizeof coefficients::kMills / sizeof coefficients::kMills[0];
  const double t = (x - 4.0) / (x + 4.0);
  double b1 = 0.0, b2 = 0.0;
  for (int k = kTerms - 1; k > 0; --k) {
    const double b0 = std::fma(2.0 * t, b1, coefficients::kMills[k] - b2);
    b2 = b1;
    b1 = b0;
  }
  return std::fma(t, b1, coefficients::kMills[0] - b2);
}

// Phi(x) - 1/2, without the cancellation near 0 that would blur a narrow window there.
double normal_centre(double x) {
  if (x > 1) return 0.5 - normal_tail(x);
  if (x < -1) return normal_tail(-x) - 0.5;
  constexpr double kDensityAtZero = 0.3989422804014327;
  const double y = 0.5 * x * x;
  double sum = 0.0;  // of (-y)^k / (k! (2 k + 1)), from the last term that counts
  for (int k = 16; k >= 0; --k) sum = std::fma(-y / (k + 1), sum, 1.0 / (2 * k + 1));
  return kDensityAtZero * x * sum;
}

// The values of a 16-bit type that matter here, as floats.
float round_to(DType dtype, float x) {
  using Single = Scalar::Single;
  if (dtype == DType::kBFloat16) {
    const auto all = Single::bits(x);
    return Single::from_bits((all + 0x7FFFu + (all >> 16 & 1u)) & 0xFFFF0000u);
  }
  if (dtype == DType::kFloat16) {
    if (!(std::fabs(x) < 65520.0f)) return std::copysign(std::numeric_limits<float>::infinity(), x);
    // Adding and taking away 1.5 * 2^k rounds to the unit 2^(k - 23) of the value's binade.
    int exponent = 0;
    std::frexp(x, &exponent);
    const float magic = std::ldexp(1.5f, (exponent < -13 ? -13 : exponent) + 12);
    return (x + magic) - magic;
  }
  return x;
}

// The largest value of the type below x, which is one of its values.
float below(DType dtype, float x) {
  const float next = std::nextafter(x, -std::numeric_limits<float>::infinity());
  if (dtype == DType::kFloat32) return next;
  if (dtype == DType::kBFloat16) {
    // Toward minus infinity in the upper half of the word: a truncation, except for negatives.
    const auto all = Scalar::Single::bits(next);
    return Scalar::Single::from_bits(next < 0 ? (all + 0xFFFFu) & 0xFFFF0000u : all & 0xFFFF0000u);
  }
  if (std::isinf(x)) return x > 0 ? 65504.0f : x;
  int exponent = 0;
  std::frexp(next, &exponent);
  const float unit = std::ldexp(1.0f, (exponent < -13 ? -13 : exponent) - 11);
  return std::floor(next / unit) * unit;
}

[[noreturn]] void refuse(const char* what, double value) {
  throw std::invalid_argument(std::string(what) + ", got " + std::to_string(value));
}

// Finite in the arithmetic of the dtype: fp32 for the 16-bit types too.
void require_in_range(const Segment& s, const char* what, double value) {
  const double largest = s.dtype == DType::kFloat64 ? std::numeric_limits<double>::max()
                                                    : std::numeric_limits<float>::max();
  if (!(std::fabs(value) <= largest)) refuse(what, value);
}

using Arguments = std::array<double, 4>;

void derive(ConstantRow, Segment& s, const Arguments& p) {
  const double value = p[0];
  const auto single = static_cast<float>(value);
  switch (s.dtype) {
    case DType::kFloat64:
      s.constant_bits = bit_cast<std::uint64_t>(value);
      return;
    case DType::kFloat16:
      s.constant_bits = std::isnan(single) ? 0x7E00u : Scalar::Single::to_half(single);
      return;
    case DType::kBFloat16:
      s.constant_bits = Scalar::Single::bits(round_to(s.dtype, single)) >> 16;
      return;
    default:
      s.constant_bits = bit_cast<std::uint32_t>(single);
      return;
  }
}

// `cast` is 1 for what was drawn in fp32 and rounded to 16 bits since: b may then come out.
void derive(RandomRow<Uniform>, Segment& s, const Arguments& p) {
  const double a = p[0], b = p[1], cast = p[2];
  require_in_range(s, "uniform: a must be within the range of the dtype", a);
  require_in_range(s, "uniform: b must be within the range of the dtype", b);
  if (a > b) refuse("uniform: a must not exceed b; b - a is negative", b - a);
  if (cast != 0 && cast != 1) refuse("uniform: cast must be 0 or 1", cast);
  require_in_range(s, "uniform: b - a must be within the range of the dtype", b - a);
  auto& d = s.double_precision;
  d.shift = a;
  d.scale = b - a;
  const double below_b = std::nextafter(b, -std::numeric_limits<double>::infinity());
  d.high = below_b < a ? a : below_b;
  auto& f = s.single_precision;
  f.shift = static_cast<float>(a);
  f.scale = static_cast<float>(b - a);
  const DType drawn = cast == 1 ? DType::kFloat32 : s.dtype;
  const float low = round_to(drawn, f.shift);
  const float high = round_to(drawn, static_cast<float>(b));
  const float below_high = below(drawn, high);
  f.high = below_high < low ? low : below_high;
}

void derive(RandomRow<Normal>, Segment& s, const Arguments& p) {
  const double mean = p[0], std = p[1];
  require_in_range(s, "normal: mean must be within the range of the dtype", mean);
  require_in_range(s, "normal: std must be within the range of the dtype", std);
  if (std < 0) refuse("normal: std must not be negative", std);
  s.double_precision.shift = mean;
  s.double_precision.scale = std;
  s.single_precision.shift = static_cast<float>(mean);
  s.single_precision.scale = static_cast<float>(std);
}

void derive(RandomRow<TruncNormal>, Segment& s, const Arguments& p) {
  const double mean = p[0], std = p[1], a = p[2], b = p[3];
  require_in_range(s, "trunc_normal: mean must be within the range of the dtype", mean);
  require_in_range(s, "trunc_normal: std must be within the range of the dtype", std);
  if (!(std > 0)) refuse("trunc_normal: std must be positive", std);
  if (!(a <= b)) refuse("trunc_normal: a must not exceed b; b - a is", b - a);
  const double alpha = (a - mean) / std, beta = (b - mean) / std;
  const double nearer = alpha > 0 ? alpha : beta < 0 ? -beta : 0.0;
  if (!(nearer <= truncation_reach(s.dtype))) {
    refuse("trunc_normal: the nearer of a and b lies too many standard deviations from the mean",
           nearer);
  }
  auto& d = s.double_precision;
  d.shift = mean;
  d.scale = std;
  d.low = a;
  d.high = b;
  const double lower_tail = normal_tail(-alpha), upper_tail = normal_tail(beta);
  double width = alpha > 1   ? normal_tail(alpha) - upper_tail
                 : beta < -1 ? normal_tail(-beta) - lower_tail
                             : normal_centre(beta) - normal_centre(alpha);
  if (width < 0) width = 0;
  // A word stands for the middle of its interval: the half is part of the constants.
  const auto window = [=](auto& p, double unit) {
    using T = std::decay_t<decltype(p.width)>;
    const double step = width * unit;
    p.cdf[0] = static_cast<T>(lower_tail + step / 2);
    p.cdf[1] = static_cast<T>(normal_tail(-beta) + step / 2);
    p.complement[0] = static_cast<T>(normal_tail(alpha) - step / 2);
    p.complement[1] = static_cast<T>(upper_tail - step / 2);
    p.width = static_cast<T>(step);
    // In proportion to the width as rounded: the position is then 0 where it ought to be.
    const double scale = step > 0 ? static_cast<double>(p.width) / step : 1.0;
    p.from_middle = alpha == -beta;
    p.position[0] = static_cast<T>(((p.from_middle ? 0 : 2 * normal_centre(alpha)) + step) * scale);
    p.position[1] = static_cast<T>(((p.from_middle ? 0 : 2 * normal_centre(beta)) + step) * scale);
  };
  window(d, 0x1p-53);
  window(s.single_precision, 0x1p-32);
  auto& f = s.single_precision;
  f.shift = static_cast<float>(mean);
  f.scale = static_cast<float>(std);
  f.low = static_cast<float>(a);
  f.high = static_cast<float>(b);
}

void derive(RandomRow<Words>, Segment&, const Arguments&) {}

double largest_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return std::numeric_limits<double>::max();
    case DType::kFloat16:
      return 65504.0;
    case DType::kBFloat16:
      return 0x1.FEp127;
    default:
      return std::numeric_limits<float>::max();
  }
}

bool served(ConstantRow, DType, double largest, const Arguments& p) {
  return std::fabs(p[0]) <= largest || !std::isfinite(p[0]);
}

bool served(RandomRow<Uniform>, DType, double largest, const Arguments& p) {
  const double width = p[1] - p[0];
  return -largest <= p[0] && p[1] <= largest && 0 <= width && width <= largest;
}

bool served(RandomRow<Normal>, DType, double largest, const Arguments& p) {
  return std::fabs(p[0]) <= largest && 0 <= p[1] && p[1] <= largest;
}

bool served(RandomRow<TruncNormal>, DType dtype, double largest, const Arguments& p) {
  const double mean = p[0], std = p[1], a = p[2], b = p[3];
  if (!(std::fabs(mean) <= largest && 0 < std && std <= largest && a <= b)) return false;
  const double nearest = std::fmax(std::fmax((a - mean) / std, (mean - b) / std), 0.0);
  return nearest <= truncation_reach(dtype);
}

bool served(RandomRow<Words>, DType, double, const Arguments&) { return false; }

}  // namespace

double normal_tail(double x) {
  if (x < 0) return 1.0 - normal_tail(-x);
  if (x > 38.5) return 0.0;
  const double square = x * x;
  const double rest = std::fma(x, x, -square);  // what the rounding of x * x lost
  const double e = exponential(-0.5 * square);
  return std::fma(e, -0.5 * rest, e) * mills(x);
}

double truncation_reach(DType dtype) { return dtype == DType::kFloat64 ? 36.0 : 10.5; }

bool is_served(Kind kind, DType dtype, const std::array<double, 4>& p) {
  bool is = false;
  visit(kind, [&](auto row) { is = served(row, dtype, largest_of(dtype), p); });
  return is;
}

void derive_parameters(Segment& s, const std::array<double, 4>& p) {
  if (s.kind != Kind::kTruncNormal) return visit(s.kind, [&](auto row) { derive(row, s, p); });
  // Those of a truncated normal take most of a microsecond, and many tensors have the same.
  thread_local Segment last{};
  thread_local Arguments of_last{};
  if (last.dtype != s.dtype || last.kind != s.kind ||
      std::memcmp(of_last.data(), p.data(), sizeof p) != 0) {
    last.kind = Kind::kConstant;  // should it be refused
    last.dtype = s.dtype;
    derive(RandomRow<TruncNormal>{}, last, p);
    last.kind = s.kind;
    of_last = p;
  }
  s.single_precision = last.single_precision;
  s.double_precision = last.double_precision;
}

}  // namespace fastinit

// One instruction set against the scalar reference, bit for bit, over random segments of every
// kind and dtype: the test of an instruction set that runs in emulation.
//
//   isa_equality SEGMENTS    prints what was compared and a digest of the values, the same on
//                            every processor; exit status 1 on the first difference
//
// A quarter as many again have extreme parameters, and count for the comparison alone.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "../../csrc/cpu/isa.h"
#include "../../csrc/table/table.h"
#include "rules.h"

#ifndef ISA_UNDER_TEST
#error "compile with -DISA_UNDER_TEST=kIsaAvx512 or another"
#endif

namespace fastinit {
extern const Isa ISA_UNDER_TEST;
}

using namespace fastinit;

namespace {

// The first answer published with Philox4x32-10: counter and key zero.
bool knows_the_published_words() {
  std::uint32_t words[4] = {};
  Request request{};
  request.kind = static_cast<int>(Kind::kWords);
  request.dtype = static_cast<int>(DType::kUInt32);
  request.pointer = reinterpret_cast<std::uint64_t>(words);
  request.box = {{4, 1, 1}};
  ISA_UNDER_TEST.fill(make_segment(request), 0, 4);
  const std::uint32_t published[] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
  return std::memcmp(words, published, sizeof words) == 0;
}

// FNV-1a.
std::uint64_t digest(std::uint64_t before, const std::vector<std::byte>& bytes) {
  for (const std::byte byte : bytes) {
    before = (before ^ static_cast<std::uint64_t>(byte)) * 0x100000001B3u;
  }
  return before;
}

// The number of elements, whose bytes `expected` then has at `offset`; 0 where the two differ.
std::int64_t compared(Request request, std::vector<std::byte>& expected, std::size_t offset) {
  std::vector<std::byte> actual(expected.size());
  request.pointer = reinterpret_cast<std::uint64_t>(expected.data() + offset);
  Segment segment = make_segment(request);
  kIsaScalar.fill(segment, 0, segment.count);
  segment.data = actual.data() + offset;
  ISA_UNDER_TEST.fill(segment, 0, segment.count);
  if (expected == actual) return segment.count;
  std::printf("%s differs from scalar: kind %d, dtype %d, start %lld, parameters %a %a %a %a\n",
              ISA_UNDER_TEST.name, static_cast<int>(request.kind), static_cast<int>(request.dtype),
              static_cast<long long>(request.start), request.parameters[0], request.parameters[1],
              request.parameters[2], request.parameters[3]);
  return 0;
}

// Of all magnitudes that a dtype has, subnormal and huge, with few digits as often as with many.
double extreme(std::mt19937_64& random, DType dtype) {
  const bool is_double = dtype == DType::kFloat64;
  const auto exponent = static_cast<int>(random() % (is_double ? 2100 : 280));
  const double digits = random() % 2 == 0 ? 1.0 : std::ldexp(double(random() >> 11), -52);
  const double sign = random() % 2 == 0 ? 1.0 : -1.0;
  if (random() % 8 == 0) return 0.0 * sign;
  return sign * std::ldexp(digits, exponent - (is_double ? 1076 : 152));
}

std::array<double, 4> extreme_parameters(std::mt19937_64& random, Kind kind, DType dtype) {
  const double x = extreme(random, dtype), y = extreme(random, dtype);
  const double width = std::fabs(y);
  if (kind == Kind::kUniform) {
    const double cast = random() % 4 == 0;
    if (random() % 3 == 0) return {-width, width, cast, 0};
    if (random() % 3 == 0) return {-width, 0, cast, 0};
    return {x, x + width, cast, 0};
  }
  if (kind == Kind::kNormal) return {x, width, 0, 0};
  const double reach = 1 + double(random() % 8);
  return {x, width, x - reach * width, random() % 2 == 0 ? x + width : x + reach * width};
}

}  // namespace

int main(int argc, char** argv) {
  const int segments = argc > 1 ? std::atoi(argv[1]) : 2000;
  std::mt19937_64 random(20240229);
  const auto below = [&](std::int64_t n) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
  };
  if (!knows_the_published_words()) {
    std::printf("%s: not Philox4x32-10\n", ISA_UNDER_TEST.name);
    return 1;
  }
  std::int64_t elements = 0;
  std::uint64_t values = 0xCBF29CE484222325u;
  for (int n = 0; n < segments; ++n) {
    Request request{};
    request.kind = n % kKinds;
    const bool words = request.kind == static_cast<int>(Kind::kWords);
    request.dtype = words ? static_cast<int>(DType::kUInt32) : n / kKinds % 4;
    const auto& choices = kParameters[request.kind];
    request.parameters =
        choices[static_cast<std::size_t>(below(static_cast<std::int64_t>(choices.size())))];
    request.seed = random();
    request.stream = random();
    request.start = n % 3 == 0 ? below(100) : below(std::int64_t{1} << (n % 3 == 1 ? 33 : 61));
    const std::int64_t size = 1 + below(3000);
    if (n % 7 == 0) {
      request.box = {{5, 7000, size}, {size, 2, 1}};
    } else {
      request.box = {{size, 1, 1}};
    }
    std::vector<std::byte> expected(40000 * 8);
    const auto count = compared(request, expected, 0);
    if (count == 0) return 1;
    elements += count;
    expected.resize(8192);  // enough of it for a digest
    values = digest(values, expected);
  }
  for (int n = 0; n < segments / 4; ++n) {
    Request request{};
    request.kind = 1 + n % 3;
    request.dtype = n / 3 % 4;
    const auto dtype = static_cast<DType>(request.dtype);
    request.parameters = extreme_parameters(random, static_cast<Kind>(request.kind), dtype);
    request.seed = random();
    request.stream = random();
    request.start = below(std::int64_t{1} << 40);
    request.box = {{1 + below(5000), 1, 1}};
    std::vector<std::byte> expected(5100 * itemsize(dtype));
    try {
      const auto count =
          compared(request, expected, static_cast<std::size_t>(below(64)) * itemsize(dtype));
      if (count == 0) return 1;
      elements += count;
    } catch (const std::invalid_argument&) {  // beyond the limits of the distribution
    }
  }
  std::printf("%s equals scalar in %lld elements of %d segments, digest %016llx\n",
              ISA_UNDER_TEST.name, static_cast<long long>(elements), segments,
              static_cast<unsigned long long>(values));
  return 0;
}

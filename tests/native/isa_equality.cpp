// One instruction set against the scalar reference, bit for bit, over random segments of every
// kind and dtype: the test of an instruction set that runs in emulation.
//
//   isa_equality SEGMENTS    prints what was compared and a digest of the values, the same on
//                            every processor; exit status 1 on the first difference
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
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
    std::vector<std::byte> expected(40000 * 8), actual(40000 * 8);
    request.pointer = reinterpret_cast<std::uint64_t>(expected.data());
    Segment segment = make_segment(request);
    kIsaScalar.fill(segment, 0, segment.count);
    segment.data = actual.data();
    ISA_UNDER_TEST.fill(segment, 0, segment.count);
    elements += segment.count;
    if (expected != actual) {
      std::printf("%s differs from scalar: segment %d, kind %d, dtype %d, start %lld\n",
                  ISA_UNDER_TEST.name, n, static_cast<int>(segment.kind),
                  static_cast<int>(segment.dtype), static_cast<long long>(request.start));
      return 1;
    }
    expected.resize(8192);  // enough of it for a digest
    values = digest(values, expected);
  }
  std::printf("%s equals scalar in %lld elements of %d segments, digest %016llx\n",
              ISA_UNDER_TEST.name, static_cast<long long>(elements), segments,
              static_cast<unsigned long long>(values));
  return 0;
}

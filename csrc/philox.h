// Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
// SC11.
//
// key = seed (low word, high word); counter = (block low, block high, stream low, stream high).
// A lane holds each 32-bit word in the low half of a 64-bit element, because a 32 x 32 -> 64 bit
// product leaves its two halves there for free. The high halves carry rubbish that nothing reads.
#pragma once

#include <cstdint>

namespace fastinit {
namespace {

constexpr int kRounds = 10;

// What does not change from block to block, spread over the lanes once per segment.
template <class V>
struct PhiloxKey {
  typename V::U64 round_low[kRounds];
  typename V::U64 round_high[kRounds];
  typename V::U64 stream_low;
  typename V::U64 stream_high;

  PhiloxKey(std::uint64_t seed, std::uint64_t stream) {
    auto low = static_cast<std::uint32_t>(seed);
    auto high = static_cast<std::uint32_t>(seed >> 32);
    for (int r = 0; r < kRounds; ++r, low += 0x9E3779B9u, high += 0xBB67AE85u) {
      round_low[r] = V::splat(std::uint64_t{low});
      round_high[r] = V::splat(std::uint64_t{high});
    }
    stream_low = V::splat(stream & 0xFFFFFFFFu);
    stream_high = V::splat(stream >> 32);
  }
};

template <class V>
struct PhiloxWords {
  typename V::U64 word[4];
};

// `kGroups` independent vectors of blocks, their rounds interleaved: one alone would wait out the
// latency of each multiplication.
template <class V, int kGroups>
inline void philox(const PhiloxKey<V>& key, const typename V::U64 (&block)[kGroups],
                   PhiloxWords<V> (&out)[kGroups]) {
  const auto multiplier0 = V::splat(std::uint64_t{0xD2511F53u});
  const auto multiplier1 = V::splat(std::uint64_t{0xCD9E8D57u});
  for (int g = 0; g < kGroups; ++g) {
    out[g] = {{block[g], V::template shr<32>(block[g]), key.stream_low, key.stream_high}};
  }
#pragma GCC unroll 10
  for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) {
      auto& w = out[g].word;
      const auto product0 = V::mul32(w[0], multiplier0);
      const auto product1 = V::mul32(w[2], multiplier1);
      w[0] = V::xor3(V::template shr<32>(product1), w[1], key.round_low[r]);
      w[1] = product1;
      w[2] = V::xor3(V::template shr<32>(product0), w[3], key.round_high[r]);
      w[3] = product0;
    }
  }
}

}  // namespace
}  // namespace fastinit

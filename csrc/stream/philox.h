// Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
// SC11.
//
// key = seed (low word, high word); counter = (block low, block high, stream low, stream high).
// A lane type says how a vector holds 32-bit words, and gives the halves of their products. Most
// keep each word in the low half of a 64-bit element, where a 32 x 32 -> 64 bit product leaves its
// halves for free. The high halves then carry rubbish that nothing reads.
#pragma once

#include <cstdint>

#include "target.h"

namespace fastinit {
namespace {

constexpr int kRounds = 10;
constexpr std::uint64_t kMultiplier0 = 0xD2511F53u;
constexpr std::uint64_t kMultiplier1 = 0xCD9E8D57u;

// A value that a GPU's compiler may not compute again: it would rather add to a key in every step
// than keep the sum in a register.
FASTINIT_DEVICE inline std::uint32_t kept(std::uint32_t key) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(key));
#endif
  return key;
}

// The words of a vector of blocks, as `pairs` takes them.
template <class V>
struct PhiloxWords {
  using Word = typename V::Word;
  using Product = typename V::Product;
  Word word[4];

  FASTINIT_DEVICE static PhiloxWords last_round(const Product& product0, const Product& product1,
                                                Word word1, Word word3, Word key0, Word key1) {
    return {{V::xor3(product1.high, word1, key0), product1.low, V::xor3(product0.high, word3, key1),
             product0.low}};
  }
};

// All of a segment's Philox that does not depend on the low word of the block: the round keys, and
// the first rounds as far as the stream and the high word of the block decide them.
template <class V>
class Philox {
  using Word = typename V::Word;

 public:
  FASTINIT_DEVICE Philox(std::uint64_t seed, std::uint64_t stream, bool keeps_keys = true)
      : stream_(stream) {
    auto low = kept(static_cast<std::uint32_t>(seed));
    auto high = kept(static_cast<std::uint32_t>(seed >> 32));
    for (int r = 0; r < kRounds; ++r, low += 0x9E3779B9u, high += 0xBB67AE85u) {
      key0_[r] = V::splat(std::uint64_t{keeps_keys ? kept(low) : low});
      key1_[r] = V::splat(std::uint64_t{keeps_keys ? kept(high) : high});
    }
  }

  // Call before `words`, for blocks whose high word is `high`.
  FASTINIT_DEVICE void prepare(std::uint64_t high) {
    const auto product = V::product(V::splat(stream_ & 0xFFFFFFFFu), V::splat(kMultiplier1));
    const auto word0 = V::xor3(product.high, V::splat(high), key0_[0]);
    const auto product0 = V::product(word0, V::splat(kMultiplier0));
    first2_ = V::splat(stream_ >> 32) ^ key1_[0];
    second0_ = product.low ^ key0_[1];
    second2_ = product0.high ^ key1_[1];
    third2_ = product0.low ^ key1_[2];
  }

  // The four words of each block, `kGroups` vectors of blocks at a time, their rounds interleaved:
  // one alone would wait out the latency of each multiplication.
  template <int kGroups>
  FASTINIT_DEVICE void words(const Word (&block)[kGroups], PhiloxWords<V> (&out)[kGroups]) const {
    const auto multiplier0 = V::splat(kMultiplier0);
    const auto multiplier1 = V::splat(kMultiplier1);
    Word four[kGroups][4];
    FASTINIT_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      auto& w = four[g];
      const auto product0 = V::product(block[g], multiplier0);
      const auto product1 = V::product(product0.high ^ first2_, multiplier1);
      w[0] = product1.high ^ second0_;
      w[1] = product1.low;
      w[2] = product0.low ^ second2_;
    }
    FASTINIT_UNROLL
    for (int r = 2; r < kRounds - 1; ++r) {
      FASTINIT_UNROLL
      for (int g = 0; g < kGroups; ++g) {
        auto& w = four[g];
        const auto product0 = V::product(w[0], multiplier0);
        const auto product1 = V::product(w[2], multiplier1);
        w[0] = V::xor3(product1.high, w[1], key0_[r]);
        w[1] = product1.low;
        w[2] = r == 2 ? product0.high ^ third2_ : V::xor3(product0.high, w[3], key1_[r]);
        w[3] = product0.low;
      }
    }
    FASTINIT_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      const auto& w = four[g];
      out[g] =
          PhiloxWords<V>::last_round(V::product(w[0], multiplier0), V::product(w[2], multiplier1),
                                     w[1], w[3], key0_[kRounds - 1], key1_[kRounds - 1]);
    }
  }

 private:
  Word key0_[kRounds], key1_[kRounds];
  Word first2_, second0_, second2_, third2_;
  std::uint64_t stream_;
};

}  // namespace
}  // namespace fastinit

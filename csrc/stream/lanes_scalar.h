// The lane type of one block at a time: the reference that every other lane type must equal.
//
// A lane type V supplies the primitive operations and nothing else:
//   V::kBlocks, Word         blocks per vector; vectors of Philox words
//   V::kAhead, kGroups, kTogether   how many vectors a step interleaves, see fill.h
//   V::product               the two halves of 32 x 32 -> 64 bits, as vectors of words
//   V::Single, V::Double     arithmetic in fp32 on 32 raw bits and in fp64 on 64 raw bits:
//                            kPairs, Float, Bits and the operations below on them
//   V::store                 a group's pairs to memory in logical order
// It may specialise PhiloxWords (what the last round leaves to `pairs`), `pack` and Storage.
// The two elements of a pair are held apart, "even" and "odd", as Box-Muller makes them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "elements.h"
#include "target.h"

namespace fastinit {
namespace {

template <class To, class From>
FASTINIT_DEVICE inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

struct Scalar {
  static constexpr int kBlocks = 1;
  static constexpr int kAhead = 1, kGroups = 1, kTogether = 1;
  using U64 = std::uint64_t;
  using Word = U64;

  FASTINIT_DEVICE static U64 splat(std::uint64_t x) { return x; }
  template <class Element>
  FASTINIT_DEVICE static U64 blocks_from(std::uint64_t first) {
    return first;
  }
  template <int kShift>
  FASTINIT_DEVICE static U64 shr(U64 x) {
    return x >> kShift;
  }
  struct Product {
    U64 high, low;
  };
  FASTINIT_DEVICE static Product product(U64 a, U64 b) {
    const auto both = std::uint64_t{static_cast<std::uint32_t>(a)} * static_cast<std::uint32_t>(b);
    return {both >> 32, both};
  }
  FASTINIT_DEVICE static U64 xor3(U64 a, U64 b, U64 c) { return a ^ b ^ c; }

  template <class T, class Raw, class SignedRaw>
  struct Arithmetic {
    using Real = T;
    using Float = T;
    using Bits = Raw;

    FASTINIT_DEVICE static Float splat(T x) { return x; }
    FASTINIT_DEVICE static Bits splat_bits(Raw x) { return x; }
    FASTINIT_DEVICE static Float fma(Float a, Float b, Float c) { return std::fma(a, b, c); }
    FASTINIT_DEVICE static Float sqrt(Float x) { return std::sqrt(x); }
    FASTINIT_DEVICE static Float min(Float a, Float b) { return a < b ? a : b; }
    FASTINIT_DEVICE static Float max(Float a, Float b) { return a > b ? a : b; }
    FASTINIT_DEVICE static Bits bits(Float x) { return bit_cast<Bits>(x); }
    FASTINIT_DEVICE static Float from_bits(Bits x) { return bit_cast<Float>(x); }
    template <int kShift>
    FASTINIT_DEVICE static Bits shl(Bits x) {
      return x << kShift;
    }
    template <int kShift>
    FASTINIT_DEVICE static Bits shr(Bits x) {
      return x >> kShift;
    }
    // `a` where the top bit of `sign` is set, else `b`.
    FASTINIT_DEVICE static Float select(Bits sign, Float a, Float b) {
      return static_cast<SignedRaw>(sign) < 0 ? a : b;
    }
    FASTINIT_DEVICE static bool any(Bits sign) { return static_cast<SignedRaw>(sign) < 0; }
    // A small two's complement integer (|x| < 2^51 in fp64), rounded to nearest.
    FASTINIT_DEVICE static Float signed_to_float(Bits x) {
      return static_cast<Float>(static_cast<SignedRaw>(x));
    }
  };

  struct Single : Arithmetic<float, std::uint32_t, std::int32_t> {
    static constexpr int kPairs = 2;
    FASTINIT_DEVICE static void pairs(const U64 (&w)[4], Bits (&even)[kPairs],
                                      Bits (&odd)[kPairs]) {
      for (int p = 0; p < kPairs; ++p) {
        even[p] = static_cast<Bits>(w[2 * p]);
        odd[p] = static_cast<Bits>(w[2 * p + 1]);
      }
    }
    FASTINIT_DEVICE static Float word_to_float(Bits x) { return static_cast<Float>(x); }
    FASTINIT_DEVICE static Float centred_word_to_float(Bits x) { return signed_to_float(x); }
    FASTINIT_DEVICE static Float exponent_to_float(Bits x) { return signed_to_float(x); }
    FASTINIT_DEVICE static Bits to_half(Float x);
  };

  struct Double : Arithmetic<double, std::uint64_t, std::int64_t> {
    static constexpr int kPairs = 1;
    FASTINIT_DEVICE static void pairs(const U64 (&w)[4], Bits (&even)[kPairs],
                                      Bits (&odd)[kPairs]) {
      even[0] = w[0] << 32 | (w[1] & 0xFFFFFFFFu);
      odd[0] = w[2] << 32 | (w[3] & 0xFFFFFFFFu);
    }
    FASTINIT_DEVICE static Float word_to_float(Bits x) { return static_cast<Float>(x >> 11); }
    FASTINIT_DEVICE static Float centred_word_to_float(Bits x) {
      return static_cast<Float>(static_cast<std::int64_t>(x) >> 11);
    }
    FASTINIT_DEVICE static Float exponent_to_float(Bits x) {
      return static_cast<Float>(static_cast<std::int64_t>(x) >> 52);
    }
  };

  template <class T, int kPairs>
  FASTINIT_DEVICE static void store(T* out, const T (&even)[kPairs], const T (&odd)[kPairs]) {
    for (int p = 0; p < kPairs; ++p) {
      out[2 * p] = even[p];
      out[2 * p + 1] = odd[p];
    }
  }
  FASTINIT_DEVICE static void store_words(void* out, const std::uint32_t (&words)[Single::kPairs]) {
    std::memcpy(out, words, sizeof words);
  }
};

// IEEE binary16, round to nearest even, in integers; no NaN reaches it.
FASTINIT_DEVICE inline Scalar::Single::Bits Scalar::Single::to_half(Float x) {
  const Bits all = bits(x);
  const Bits sign = all >> 16 & 0x8000u;
  const Bits magnitude = all & 0x7FFFFFFFu;
  if (magnitude >= 0x477FF000u) return sign | 0x7C00u;  // at or above 65520: infinity
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 1/2 lets the adder round to the subnormals' unit, 2^-24.
    return sign | (bits(from_bits(magnitude) + 0.5f) - 0x3F000000u);
  }
  return sign | ((magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u)) >> 13);
}

}  // namespace
}  // namespace fastinit

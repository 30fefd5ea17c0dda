// AVX-512 (F, DQ, BW) lanes: eight blocks a vector. Primitive operations only; see lanes_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "../stream/convert.h"
#include "../stream/elements.h"
#include "../stream/philox.h"

namespace fastinit {
namespace {

struct Avx512 {
  static constexpr int kBlocks = 8;
  static constexpr int kAhead = 4, kGroups = 4, kTogether = 4;

  struct Integers {
    __m512i v;
    friend Integers operator&(Integers a, Integers b) { return {_mm512_and_si512(a.v, b.v)}; }
    friend Integers operator|(Integers a, Integers b) { return {_mm512_or_si512(a.v, b.v)}; }
    friend Integers operator^(Integers a, Integers b) { return {_mm512_xor_si512(a.v, b.v)}; }
  };
  struct U32 : Integers {
    U32() = default;
    U32(__m512i x) : Integers{x} {}
    U32(Integers x) : Integers(x) {}
    friend U32 operator+(U32 a, U32 b) { return _mm512_add_epi32(a.v, b.v); }
    friend U32 operator-(U32 a, U32 b) { return _mm512_sub_epi32(a.v, b.v); }
  };
  struct U64 : Integers {
    U64() = default;
    U64(__m512i x) : Integers{x} {}
    U64(Integers x) : Integers(x) {}
    friend U64 operator+(U64 a, U64 b) { return _mm512_add_epi64(a.v, b.v); }
    friend U64 operator-(U64 a, U64 b) { return _mm512_sub_epi64(a.v, b.v); }
  };
  struct F32 {
    __m512 v;
    friend F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
    friend F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
    friend F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  };
  struct F64 {
    __m512d v;
    friend F64 operator+(F64 a, F64 b) { return {_mm512_add_pd(a.v, b.v)}; }
    friend F64 operator-(F64 a, F64 b) { return {_mm512_sub_pd(a.v, b.v)}; }
    friend F64 operator*(F64 a, F64 b) { return {_mm512_mul_pd(a.v, b.v)}; }
  };

  using Word = U64;

  static U64 splat(std::uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
  // All but bfloat16 leave through unpacklo/unpackhi, which take the even and the odd lanes.
  template <class Element>
  static U64 blocks_from(std::uint64_t first) {
    const auto order = std::is_same<Element, BFloat16>::value
                           ? _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)
                           : _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    return splat(first) + U64(order);
  }
  template <int kShift>
  static U64 shr(U64 x) {
    return _mm512_srli_epi64(x.v, kShift);
  }
  struct Product {
    U64 high, low;
  };
  static Product product(U64 a, U64 b) {
    const U64 both = _mm512_mul_epu32(a.v, b.v);
    return {shr<32>(both), both};
  }
  // Of two products or words, those of `b` above those of `a`.
  static U64 low_halves(U64 a, U64 b) {
    return _mm512_mask_shuffle_epi32(a.v, 0xAAAA, b.v, _MM_PERM_CCAA);
  }
  static U64 high_halves(U64 a, U64 b) {
    return _mm512_mask_shuffle_epi32(b.v, 0x5555, a.v, _MM_PERM_DDBB);
  }
  static U64 xor3(U64 a, U64 b, U64 c) { return _mm512_ternarylogic_epi64(a.v, b.v, c.v, 0x96); }

  struct Single {
    using Real = float;
    using Float = F32;
    using Bits = U32;
    static constexpr int kPairs = 1;

    static void pairs(const U64 (&w)[6], Bits (&even)[1], Bits (&odd)[1]) {
      even[0] = xor3(high_halves(w[1], w[0]), low_halves(w[2], w[3]), low_halves(w[4], w[5]));
      odd[0] = low_halves(w[1], w[0]);
    }
    static Float splat(float x) { return {_mm512_set1_ps(x)}; }
    static Bits splat_bits(std::uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
    static Float fma(Float a, Float b, Float c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
    static Float sqrt(Float x) { return {_mm512_sqrt_ps(x.v)}; }
    static Float min(Float a, Float b) { return {_mm512_min_ps(a.v, b.v)}; }
    static Float max(Float a, Float b) { return {_mm512_max_ps(a.v, b.v)}; }
    static Bits bits(Float x) { return _mm512_castps_si512(x.v); }
    static Float from_bits(Bits x) { return {_mm512_castsi512_ps(x.v)}; }
    template <int kShift>
    static Bits shl(Bits x) {
      return _mm512_slli_epi32(x.v, kShift);
    }
    template <int kShift>
    static Bits shr(Bits x) {
      return _mm512_srli_epi32(x.v, kShift);
    }
    static Float select(Bits sign, Float a, Float b) {
      return {_mm512_mask_blend_ps(_mm512_movepi32_mask(sign.v), b.v, a.v)};
    }
    static bool any(Bits sign) { return _mm512_movepi32_mask(sign.v) != 0; }
    static Float signed_to_float(Bits x) { return {_mm512_cvtepi32_ps(x.v)}; }
    static Float word_to_float(Bits x) { return {_mm512_cvtepu32_ps(x.v)}; }
    static Float centred_word_to_float(Bits x) { return signed_to_float(x); }
    static Float exponent_to_float(Bits x) { return signed_to_float(x); }
  };

  struct Double {
    using Real = double;
    using Float = F64;
    using Bits = U64;
    static constexpr int kPairs = 1;

    static void pairs(const U64 (&w)[6], Bits (&even)[1], Bits (&odd)[1]) {
      even[0] = xor_high(w[1], w[2], w[4]);
      odd[0] = xor_high(w[0], w[3], w[5]);
    }
    // The low halves of `b` and `c` on the high half of `a`.
    static Bits xor_high(U64 a, U64 b, U64 c) {
      return _mm512_mask_ternarylogic_epi32(a.v, 0xAAAA, shl<32>(b).v, shl<32>(c).v, 0x96);
    }
    static Float splat(double x) { return {_mm512_set1_pd(x)}; }
    static Bits splat_bits(std::uint64_t x) { return Avx512::splat(x); }
    static Float fma(Float a, Float b, Float c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
    static Float sqrt(Float x) { return {_mm512_sqrt_pd(x.v)}; }
    static Float min(Float a, Float b) { return {_mm512_min_pd(a.v, b.v)}; }
    static Float max(Float a, Float b) { return {_mm512_max_pd(a.v, b.v)}; }
    static Bits bits(Float x) { return _mm512_castpd_si512(x.v); }
    static Float from_bits(Bits x) { return {_mm512_castsi512_pd(x.v)}; }
    template <int kShift>
    static Bits shl(Bits x) {
      return _mm512_slli_epi64(x.v, kShift);
    }
    template <int kShift>
    static Bits shr(Bits x) {
      return Avx512::shr<kShift>(x);
    }
    static Float select(Bits sign, Float a, Float b) {
      return {_mm512_mask_blend_pd(_mm512_movepi64_mask(sign.v), b.v, a.v)};
    }
    static bool any(Bits sign) { return _mm512_movepi64_mask(sign.v) != 0; }
    static Float signed_to_float(Bits x) { return {_mm512_cvtepi64_pd(x.v)}; }
    static Float word_to_float(Bits x) { return {_mm512_cvtepi64_pd(_mm512_srli_epi64(x.v, 11))}; }
    static Float centred_word_to_float(Bits x) {
      return {_mm512_cvtepi64_pd(_mm512_srai_epi64(x.v, 11))};
    }
    static Float exponent_to_float(Bits x) {
      return {_mm512_cvtepi64_pd(_mm512_srai_epi64(x.v, 52))};
    }
  };

  static void store(float* out, const F32 (&even)[1], const F32 (&odd)[1]) {
    _mm512_storeu_ps(out, _mm512_unpacklo_ps(even[0].v, odd[0].v));
    _mm512_storeu_ps(out + 16, _mm512_unpackhi_ps(even[0].v, odd[0].v));
  }
  static void store(double* out, const F64 (&even)[1], const F64 (&odd)[1]) {
    _mm512_storeu_pd(out, _mm512_unpacklo_pd(even[0].v, odd[0].v));
    _mm512_storeu_pd(out + 8, _mm512_unpackhi_pd(even[0].v, odd[0].v));
  }
  static void store_words(void* out, const U32 (&words)[1]) {
    _mm512_storeu_si512(out, words[0].v);
  }
};

// The products of the last round, words 1 and 3 before it, and its keys. What is left of it `pairs`
// does, on halves that are in place already.
template <>
struct PhiloxWords<Avx512> {
  using Word = Avx512::U64;
  using Product = Avx512::Product;
  Word word[6];

  static PhiloxWords last_round(const Product& product0, const Product& product1, Word word1,
                                Word word3, Word key0, Word key1) {
    return {{product0.low, product1.low, word1, word3, key0, key1}};
  }
};

template <class V, class Element>
struct Storage;

// Put in order as floats: halves would have to be widened for it.
template <>
struct Storage<Avx512, Half> {
  using Arithmetic = Avx512::Single;
  static void store(Half* out, const Avx512::F32 (&even)[1], const Avx512::F32 (&odd)[1]) {
    const auto low = _mm512_unpacklo_ps(even[0].v, odd[0].v);
    const auto high = _mm512_unpackhi_ps(even[0].v, odd[0].v);
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    auto* const vectors = reinterpret_cast<__m256i*>(out);
    _mm256_storeu_si256(vectors, _mm512_cvtps_ph(low, kNearest));
    _mm256_storeu_si256(vectors + 1, _mm512_cvtps_ph(high, kNearest));
  }
};

// Both elements of a pair are rounded at once, in 16-bit lanes: the result is the upper half of a
// float, and one more where the rest is above the middle, or on it and the upper half odd.
//
// Inlined before GCC 12 looks what functions read: it then overlooks what a call passes by value.
template <>
[[gnu::always_inline]] inline Avx512::U32 pack<Avx512::Single>(BFloat16, Avx512::F32 even,
                                                               Avx512::F32 odd) {
  const auto e = _mm512_castps_si512(even.v), o = _mm512_castps_si512(odd.v);
  const auto swapped = _mm512_set4_epi32(0x0D0C0F0E, 0x09080B0A, 0x05040706, 0x01000302);
  const auto upper = _mm512_mask_shuffle_epi8(o, 0x3333333333333333u, e, swapped);
  const auto rest = _mm512_mask_shuffle_epi8(e, 0xCCCCCCCCCCCCCCCCu, o, swapped);
  const auto one = _mm512_set1_epi16(1), middle = _mm512_set1_epi16(-0x8000);
  const auto rest_or_odd = _mm512_ternarylogic_epi32(rest, upper, one, 0xF8);  // rest | upper & one
  return _mm512_mask_add_epi16(upper, _mm512_cmpgt_epu16_mask(rest_or_odd, middle), upper, one);
}

}  // namespace
}  // namespace fastinit

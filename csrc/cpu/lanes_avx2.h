// AVX2 lanes: eight blocks a vector. Primitive operations only; see lanes_scalar.h for their
// meaning.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "../stream/convert.h"
#include "../stream/elements.h"

namespace fastinit {
namespace {

struct Avx2 {
  static constexpr int kBlocks = 8;
  static constexpr int kAhead = 12, kGroups = 3, kTogether = 1;

  struct Integers {
    __m256i v;
    friend Integers operator&(Integers a, Integers b) { return {_mm256_and_si256(a.v, b.v)}; }
    friend Integers operator|(Integers a, Integers b) { return {_mm256_or_si256(a.v, b.v)}; }
    friend Integers operator^(Integers a, Integers b) { return {_mm256_xor_si256(a.v, b.v)}; }
  };
  struct U32 : Integers {
    U32() = default;
    U32(__m256i x) : Integers{x} {}
    U32(Integers x) : Integers(x) {}
    friend U32 operator+(U32 a, U32 b) { return _mm256_add_epi32(a.v, b.v); }
    friend U32 operator-(U32 a, U32 b) { return _mm256_sub_epi32(a.v, b.v); }
  };
  struct U64 : Integers {
    U64() = default;
    U64(__m256i x) : Integers{x} {}
    U64(Integers x) : Integers(x) {}
    friend U64 operator+(U64 a, U64 b) { return _mm256_add_epi64(a.v, b.v); }
    friend U64 operator-(U64 a, U64 b) { return _mm256_sub_epi64(a.v, b.v); }
  };
  struct F32 {
    __m256 v;
    friend F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
    friend F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
    friend F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  };
  struct F64 {
    __m256d v;
    friend F64 operator+(F64 a, F64 b) { return {_mm256_add_pd(a.v, b.v)}; }
    friend F64 operator-(F64 a, F64 b) { return {_mm256_sub_pd(a.v, b.v)}; }
    friend F64 operator*(F64 a, F64 b) { return {_mm256_mul_pd(a.v, b.v)}; }
  };

  using Word = U32;

  static Word splat(std::uint64_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  // `pairs` takes the blocks apart with unpacklo/unpackhi, and so do stores of 32- and 64-bit
  // elements after it.
  template <class Element>
  static Word blocks_from(std::uint64_t first) {
    const auto order = sizeof(Element) == 2 ? _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7)
                                            : _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    return splat(first) + Word(order);
  }
  // A single shuffle joins the high halves of the even lanes' products and of the odd lanes', but
  // exchanges the two lanes in the middle of each 128 bits. The low halves stay in place. They meet
  // high halves one round later, when the next shuffle has exchanged those back.
  struct Product {
    Word high, low;
  };
  static Product product(Word a, Word b) {
    const auto even = _mm256_mul_epu32(a.v, b.v);
    const auto odd = _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), b.v);
    const auto high = _mm256_shuffle_ps(_mm256_castsi256_ps(even), _mm256_castsi256_ps(odd),
                                        _MM_SHUFFLE(3, 1, 3, 1));
    return {Word(_mm256_castps_si256(high)), Word(_mm256_mullo_epi32(a.v, b.v))};
  }
  static Word xor3(Word a, Word b, Word c) { return a ^ (b ^ c); }
  // After the last round, words 1 and 3 have their middle lanes exchanged.
  static Word in_order(Word x) { return _mm256_shuffle_epi32(x.v, _MM_SHUFFLE(3, 1, 2, 0)); }

  struct Single {
    using Real = float;
    using Float = F32;
    using Bits = U32;
    static constexpr int kPairs = 2;

    static void pairs(const Word (&w)[4], Bits (&even)[2], Bits (&odd)[2]) {
      const auto word1 = in_order(w[1]), word3 = in_order(w[3]);
      even[0] = _mm256_unpacklo_epi32(w[0].v, w[2].v);
      even[1] = _mm256_unpackhi_epi32(w[0].v, w[2].v);
      odd[0] = _mm256_unpacklo_epi32(word1.v, word3.v);
      odd[1] = _mm256_unpackhi_epi32(word1.v, word3.v);
    }
    static Float splat(float x) { return {_mm256_set1_ps(x)}; }
    static Bits splat_bits(std::uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
    static Float fma(Float a, Float b, Float c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
    static Float sqrt(Float x) { return {_mm256_sqrt_ps(x.v)}; }
    static Float min(Float a, Float b) { return {_mm256_min_ps(a.v, b.v)}; }
    static Float max(Float a, Float b) { return {_mm256_max_ps(a.v, b.v)}; }
    static Bits bits(Float x) { return _mm256_castps_si256(x.v); }
    static Float from_bits(Bits x) { return {_mm256_castsi256_ps(x.v)}; }
    template <int kShift>
    static Bits shl(Bits x) {
      return _mm256_slli_epi32(x.v, kShift);
    }
    template <int kShift>
    static Bits shr(Bits x) {
      return _mm256_srli_epi32(x.v, kShift);
    }
    static Float select(Bits sign, Float a, Float b) {
      return {_mm256_blendv_ps(b.v, a.v, _mm256_castsi256_ps(sign.v))};
    }
    static bool any(Bits sign) { return _mm256_movemask_ps(_mm256_castsi256_ps(sign.v)) != 0; }
    static Float signed_to_float(Bits x) { return {_mm256_cvtepi32_ps(x.v)}; }
    // Two exact halves joined by one rounding.
    static Float word_to_float(Bits x) {
      const auto low = signed_to_float(x & splat_bits(0xFFFFu));
      return fma(signed_to_float(shr<16>(x)), splat(65536.0f), low);
    }
    static Float centred_word_to_float(Bits x) { return signed_to_float(x); }
    static Float exponent_to_float(Bits x) { return signed_to_float(x); }
    static Bits to_half(Float x) {
      return _mm256_cvtepu16_epi32(
          _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
  };

  struct Double {
    using Real = double;
    using Float = F64;
    using Bits = U64;
    static constexpr int kPairs = 2;

    static void pairs(const Word (&w)[4], Bits (&even)[2], Bits (&odd)[2]) {
      const auto word1 = in_order(w[1]), word3 = in_order(w[3]);
      even[0] = _mm256_unpacklo_epi32(word1.v, w[0].v);
      even[1] = _mm256_unpackhi_epi32(word1.v, w[0].v);
      odd[0] = _mm256_unpacklo_epi32(word3.v, w[2].v);
      odd[1] = _mm256_unpackhi_epi32(word3.v, w[2].v);
    }
    static Float splat(double x) { return {_mm256_set1_pd(x)}; }
    static Bits splat_bits(std::uint64_t x) {
      return _mm256_set1_epi64x(static_cast<long long>(x));
    }
    static Float fma(Float a, Float b, Float c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
    static Float sqrt(Float x) { return {_mm256_sqrt_pd(x.v)}; }
    static Float min(Float a, Float b) { return {_mm256_min_pd(a.v, b.v)}; }
    static Float max(Float a, Float b) { return {_mm256_max_pd(a.v, b.v)}; }
    static Bits bits(Float x) { return _mm256_castpd_si256(x.v); }
    static Float from_bits(Bits x) { return {_mm256_castsi256_pd(x.v)}; }
    template <int kShift>
    static Bits shl(Bits x) {
      return _mm256_slli_epi64(x.v, kShift);
    }
    template <int kShift>
    static Bits shr(Bits x) {
      return _mm256_srli_epi64(x.v, kShift);
    }
    static Float select(Bits sign, Float a, Float b) {
      return {_mm256_blendv_pd(b.v, a.v, _mm256_castsi256_pd(sign.v))};
    }
    static bool any(Bits sign) { return _mm256_movemask_pd(_mm256_castsi256_pd(sign.v)) != 0; }
    // Conversions through the integer that a double of known exponent holds in its fraction.
    static Float signed_to_float(Bits x) {  // |x| < 2^51
      return from_bits(x + splat_bits(0x4338000000000000u)) - splat(0x1.8p52);
    }
    static Float word_to_float(Bits x) {  // the top 53 bits: 32 and 21
      const auto magic = splat_bits(0x4330000000000000u);
      const auto low = from_bits((shr<11>(x) & splat_bits(0x1FFFFFu)) | magic) - splat(0x1p52);
      const auto high = from_bits(shr<32>(x) | magic) - splat(0x1p52);
      return fma(high, splat(0x1p21), low);
    }
    static Float centred_word_to_float(Bits x) {
      return word_to_float(x ^ splat_bits(0x8000000000000000u)) - splat(0x1p52);
    }
    static Float exponent_to_float(Bits x) {
      return signed_to_float(shr<52>(x + splat_bits(0x4000000000000000u)) - splat_bits(1024));
    }
  };

  static void store(float* out, const F32 (&even)[2], const F32 (&odd)[2]) {
    for (int p = 0; p < 2; ++p, out += 16) {
      _mm256_storeu_ps(out, _mm256_unpacklo_ps(even[p].v, odd[p].v));
      _mm256_storeu_ps(out + 8, _mm256_unpackhi_ps(even[p].v, odd[p].v));
    }
  }
  static void store(double* out, const F64 (&even)[2], const F64 (&odd)[2]) {
    for (int p = 0; p < 2; ++p, out += 8) {
      _mm256_storeu_pd(out, _mm256_unpacklo_pd(even[p].v, odd[p].v));
      _mm256_storeu_pd(out + 4, _mm256_unpackhi_pd(even[p].v, odd[p].v));
    }
  }
  static void store_words(void* out, const U32 (&words)[2]) {
    auto* const vectors = static_cast<__m256i*>(out);
    for (int p = 0; p < 2; ++p) _mm256_storeu_si256(vectors + p, words[p].v);
  }
};

// Both elements of a pair are rounded at once, in 16-bit lanes: the result is the upper half of a
// float, and one more where the rest, less one if that half is even, reaches the middle.
//
// Inlined before GCC 12 looks what functions read: it then overlooks what a call passes by value.
template <>
[[gnu::always_inline]] inline Avx2::U32 pack<Avx2::Single>(BFloat16, Avx2::F32 even,
                                                           Avx2::F32 odd) {
  const auto e = _mm256_castps_si256(even.v), o = _mm256_castps_si256(odd.v);
  const auto upper = _mm256_blend_epi16(_mm256_srli_epi32(e, 16), o, 0xAA);
  const auto rest = _mm256_blend_epi16(e, _mm256_slli_epi32(o, 16), 0xAA);
  const auto if_even = _mm256_andnot_si256(upper, _mm256_set1_epi16(1));
  const auto reaches = _mm256_srli_epi16(_mm256_subs_epu16(rest, if_even), 15);
  return _mm256_add_epi16(upper, reaches);
}

}  // namespace
}  // namespace fastinit

// AVX2 lanes: four blocks a vector. Primitive operations only; see lanes_scalar.h for their
// meaning.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "../segment.h"

namespace fastinit {
namespace {

struct Avx2 {
  static constexpr int kBlocks = 4;
  static constexpr int kGroups = 6;

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

  static U64 splat(std::uint64_t x) { return _mm256_set1_epi64x(static_cast<long long>(x)); }
  // 32- and 64-bit elements leave through unpacklo/unpackhi, which take the even and the odd lanes.
  template <class Element>
  static U64 blocks_from(std::uint64_t first) {
    const auto order =
        sizeof(Element) == 2 ? _mm256_setr_epi64x(0, 1, 2, 3) : _mm256_setr_epi64x(0, 2, 1, 3);
    return splat(first) + U64(order);
  }
  template <int kShift>
  static U64 shr(U64 x) {
    return _mm256_srli_epi64(x.v, kShift);
  }
  static U64 mul32(U64 a, U64 b) { return _mm256_mul_epu32(a.v, b.v); }
  static U64 xor3(U64 a, U64 b, U64 c) { return a ^ (b ^ c); }

  struct Single {
    using Real = float;
    using Float = F32;
    using Bits = U32;
    static constexpr int kPairs = 1;

    static void pairs(const U64 (&w)[4], Bits (&even)[1], Bits (&odd)[1]) {
      even[0] = _mm256_blend_epi32(w[0].v, _mm256_slli_epi64(w[2].v, 32), 0xAA);
      odd[0] = _mm256_blend_epi32(w[1].v, _mm256_slli_epi64(w[3].v, 32), 0xAA);
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
    static constexpr int kPairs = 1;

    static void pairs(const U64 (&w)[4], Bits (&even)[1], Bits (&odd)[1]) {
      even[0] = _mm256_blend_epi32(_mm256_slli_epi64(w[0].v, 32), w[1].v, 0x55);
      odd[0] = _mm256_blend_epi32(_mm256_slli_epi64(w[2].v, 32), w[3].v, 0x55);
    }
    static Float splat(double x) { return {_mm256_set1_pd(x)}; }
    static Bits splat_bits(std::uint64_t x) { return Avx2::splat(x); }
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
      return Avx2::shr<kShift>(x);
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

  static void store(float* out, const F32 (&even)[1], const F32 (&odd)[1]) {
    _mm256_storeu_ps(out, _mm256_unpacklo_ps(even[0].v, odd[0].v));
    _mm256_storeu_ps(out + 8, _mm256_unpackhi_ps(even[0].v, odd[0].v));
  }
  static void store(double* out, const F64 (&even)[1], const F64 (&odd)[1]) {
    _mm256_storeu_pd(out, _mm256_unpacklo_pd(even[0].v, odd[0].v));
    _mm256_storeu_pd(out + 4, _mm256_unpackhi_pd(even[0].v, odd[0].v));
  }
  static void store_words(void* out, const U32 (&words)[1]) {
    _mm256_storeu_si256(static_cast<__m256i*>(out), words[0].v);
  }
};

}  // namespace
}  // namespace fastinit

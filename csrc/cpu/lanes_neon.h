// NEON (AArch64) lanes: two blocks a vector. Primitive operations only; see lanes_scalar.h for
// their meaning. The compilers' vector types bring +, -, * and the bitwise operators along.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "../stream/elements.h"

namespace fastinit {
namespace {

struct Neon {
  static constexpr int kBlocks = 2;
  static constexpr int kAhead = 4, kGroups = 4, kTogether = 4;
  using U64 = uint64x2_t;
  using Word = U64;

  static U64 splat(std::uint64_t x) { return vdupq_n_u64(x); }
  // A block's elements are neighbours in a vector, so that stores find the
  // blocks in order.
  template <class Element>
  static U64 blocks_from(std::uint64_t first) {
    return vcombine_u64(vcreate_u64(first), vcreate_u64(first + 1));
  }
  template <int kShift>
  static U64 shr(U64 x) {
    return vshrq_n_u64(x, kShift);
  }
  struct Product {
    U64 high, low;
  };
  static Product product(U64 a, U64 b) {
    const U64 both = vmull_u32(vmovn_u64(a), vmovn_u64(b));
    return {shr<32>(both), both};
  }
  static U64 xor3(U64 a, U64 b, U64 c) { return a ^ (b ^ c); }

  // The low halves of a and b by turns.
  static uint32x4_t low_halves(U64 a, U64 b) {
    return vtrn1q_u32(vreinterpretq_u32_u64(a), vreinterpretq_u32_u64(b));
  }

  struct Single {
    using Real = float;
    using Float = float32x4_t;
    using Bits = uint32x4_t;
    static constexpr int kPairs = 1;

    static void pairs(const U64 (&w)[4], Bits (&even)[1], Bits (&odd)[1]) {
      even[0] = low_halves(w[0], w[2]);
      odd[0] = low_halves(w[1], w[3]);
    }
    static Float splat(float x) { return vdupq_n_f32(x); }
    static Bits splat_bits(std::uint32_t x) { return vdupq_n_u32(x); }
    static Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
    static Float sqrt(Float x) { return vsqrtq_f32(x); }
    // vminq and vmaxq order the zeros, which a comparison does not.
    static Float min(Float a, Float b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
    static Float max(Float a, Float b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
    static Bits bits(Float x) { return vreinterpretq_u32_f32(x); }
    static Float from_bits(Bits x) { return vreinterpretq_f32_u32(x); }
    template <int kShift>
    static Bits shl(Bits x) {
      return vshlq_n_u32(x, kShift);
    }
    template <int kShift>
    static Bits shr(Bits x) {
      if constexpr (kShift == 0) {
        return x;  // the instruction begins at 1
      } else {
        return vshrq_n_u32(x, kShift);
      }
    }
    static Float select(Bits sign, Float a, Float b) {
      return vbslq_f32(vcltzq_s32(vreinterpretq_s32_u32(sign)), a, b);
    }
    static bool any(Bits sign) { return vminvq_s32(vreinterpretq_s32_u32(sign)) < 0; }
    static Float signed_to_float(Bits x) { return vcvtq_f32_s32(vreinterpretq_s32_u32(x)); }
    static Float word_to_float(Bits x) { return vcvtq_f32_u32(x); }
    static Float centred_word_to_float(Bits x) { return signed_to_float(x); }
    static Float exponent_to_float(Bits x) { return signed_to_float(x); }
    static Bits to_half(Float x) { return vmovl_u16(vreinterpret_u16_f16(vcvt_f16_f32(x))); }
  };

  struct Double {
    using Real = double;
    using Float = float64x2_t;
    using Bits = U64;
    static constexpr int kPairs = 1;

    static void pairs(const U64 (&w)[4], Bits (&even)[1], Bits (&odd)[1]) {
      even[0] = vreinterpretq_u64_u32(low_halves(w[1], w[0]));
      odd[0] = vreinterpretq_u64_u32(low_halves(w[3], w[2]));
    }
    static Float splat(double x) { return vdupq_n_f64(x); }
    static Bits splat_bits(std::uint64_t x) { return Neon::splat(x); }
    static Float fma(Float a, Float b, Float c) { return vfmaq_f64(c, a, b); }
    static Float sqrt(Float x) { return vsqrtq_f64(x); }
    static Float min(Float a, Float b) { return vbslq_f64(vcltq_f64(a, b), a, b); }
    static Float max(Float a, Float b) { return vbslq_f64(vcgtq_f64(a, b), a, b); }
    static Bits bits(Float x) { return vreinterpretq_u64_f64(x); }
    static Float from_bits(Bits x) { return vreinterpretq_f64_u64(x); }
    template <int kShift>
    static Bits shl(Bits x) {
      return vshlq_n_u64(x, kShift);
    }
    template <int kShift>
    static Bits shr(Bits x) {
      return Neon::shr<kShift>(x);
    }
    static Float select(Bits sign, Float a, Float b) {
      return vbslq_f64(vcltzq_s64(vreinterpretq_s64_u64(sign)), a, b);
    }
    static bool any(Bits sign) {
      return static_cast<std::int64_t>(vgetq_lane_u64(sign, 0) | vgetq_lane_u64(sign, 1)) < 0;
    }
    static Float signed_to_float(Bits x) { return vcvtq_f64_s64(vreinterpretq_s64_u64(x)); }
    static Float word_to_float(Bits x) { return vcvtq_f64_u64(vshrq_n_u64(x, 11)); }
    static Float centred_word_to_float(Bits x) { return shifted_to_float<11>(x); }
    static Float exponent_to_float(Bits x) { return shifted_to_float<52>(x); }
    template <int kShift>
    static Float shifted_to_float(Bits x) {
      return vcvtq_f64_s64(vshrq_n_s64(vreinterpretq_s64_u64(x), kShift));
    }
  };

  static void store(float* out, const float32x4_t (&even)[1], const float32x4_t (&odd)[1]) {
    vst1q_f32(out, vzip1q_f32(even[0], odd[0]));
    vst1q_f32(out + 4, vzip2q_f32(even[0], odd[0]));
  }
  static void store(double* out, const float64x2_t (&even)[1], const float64x2_t (&odd)[1]) {
    vst1q_f64(out, vzip1q_f64(even[0], odd[0]));
    vst1q_f64(out + 2, vzip2q_f64(even[0], odd[0]));
  }
  static void store_words(void* out, const uint32x4_t (&words)[1]) {
    vst1q_u8(static_cast<std::uint8_t*>(out), vreinterpretq_u8_u32(words[0]));
  }
};

}  // namespace
}  // namespace fastinit

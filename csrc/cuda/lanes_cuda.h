// The lanes of a GPU: scalar code, with the instructions that the compiler would not choose.
//
// Each is exact, or rounds as the operation it stands for: the values are those of lanes_scalar.h.
#pragma once

#include "../stream/convert.h"
#include "../stream/distributions.h"
#include "../stream/lanes_scalar.h"

namespace fastinit {
namespace {

struct Cuda : Scalar {
  // The compiler, left to itself, adds the zero high halves of 64-bit factors.
  FASTINIT_DEVICE static Product product(U64 a, U64 b) {
    U64 both;
    asm("mul.wide.u32 %0, %1, %2;"
        : "=l"(both)
        : "r"(static_cast<std::uint32_t>(a)), "r"(static_cast<std::uint32_t>(b)));
    return {both >> 32, both};
  }

  struct Single : Scalar::Single {
    // Correctly rounded, as sqrt.rn is, which takes these very steps once it has found its argument
    // to be at least 2^-101 and finite. Where it is not, the result is not used: in the centre of
    // the quantile, of words that belong to the tail.
    FASTINIT_DEVICE static Float sqrt(Float x) {
      Float reciprocal;
      asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x));
      const Float root = x * reciprocal;
      return fma(fma(-root, root, x), reciprocal * 0.5f, root);
    }
    // One comparison for all that is selected by the same sign.
    FASTINIT_DEVICE static Float select(Bits sign, Float a, Float b) {
      Float selected;
      asm("slct.f32.s32 %0, %1, %2, %3;" : "=f"(selected) : "f"(b), "f"(a), "r"(sign));
      return selected;
    }
  };

  template <class T>
  FASTINIT_DEVICE static void write(T* at, const T& value) {
    __builtin_assume(__isGlobal(at));
    *at = value;
  }
};

template <>
FASTINIT_DEVICE inline float upper_half<Cuda::Single>(std::uint32_t, float s) {
  float one;
  asm("set.lt.f32.f32 %0, %1, 0f00000000;" : "=f"(one) : "f"(s));
  return one;
}

#if __CUDA_ARCH__ >= 800
template <>
FASTINIT_DEVICE inline std::uint32_t pack<Cuda::Single>(Half, float even, float odd) {
  std::uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(odd), "f"(even));
  return packed;
}

template <>
FASTINIT_DEVICE inline std::uint32_t pack<Cuda::Single>(BFloat16, float even, float odd) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(odd), "f"(even));
  return packed;
}
#endif

}  // namespace
}  // namespace fastinit

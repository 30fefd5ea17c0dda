// Two 16-bit elements from two floats: one 32-bit word, the even element in its low half. Rounded
// to nearest even; no NaN comes here.
#pragma once

#include "elements.h"
#include "target.h"

namespace fastinit {
namespace {

template <class A>
FASTINIT_DEVICE inline typename A::Bits pack(Half, typename A::Float even, typename A::Float odd) {
  return A::to_half(even) | A::template shl<16>(A::to_half(odd));
}

// In integers, in the upper half of the word: the hardware instruction of x86 flushes subnormals.
template <class A>
FASTINIT_DEVICE inline typename A::Bits pack(BFloat16, typename A::Float even,
                                             typename A::Float odd) {
  const auto rounded = [](typename A::Float x) {
    const auto all = A::bits(x);
    const auto last = A::template shr<16>(all) & A::splat_bits(1u);
    return all + A::splat_bits(0x7FFFu) + last;
  };
  return A::template shr<16>(rounded(even)) | (rounded(odd) & A::splat_bits(0xFFFF0000u));
}

}  // namespace
}  // namespace fastinit

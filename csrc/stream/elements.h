// The element types that a fill writes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "target.h"

namespace fastinit {

enum class DType : std::int32_t { kFloat32, kFloat16, kBFloat16, kFloat64, kUInt32 };

// Storage-only types: what happens in 16 bits is a conversion, never arithmetic.
struct Half {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

FASTINIT_DEVICE constexpr std::size_t itemsize(DType dtype) {
  if (dtype == DType::kFloat64) return 8;
  return dtype == DType::kFloat16 || dtype == DType::kBFloat16 ? 2 : 4;
}

// Calls `f` with an element of the type. Words of tests are 32 bits, as floats are.
template <class Function>
FASTINIT_DEVICE inline void visit(DType dtype, const Function& f) {
  switch (dtype) {
    case DType::kFloat32:
    case DType::kUInt32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
    case DType::kFloat16:
      return f(Half{});
    case DType::kBFloat16:
      return f(BFloat16{});
  }
}

}  // namespace fastinit

// What a rule's parameters become before the first element: derived once per segment, in double,
// without the platform's libm and without contraction, so that every build derives the same bits.
#pragma once

#include <array>

#include "segment.h"

namespace fastinit {

// Phi(-x), to a few ulp relative, for every x; 0 beyond x = 38.5.
double normal_tail(double x);

// How far from the mean, in standard deviations, the nearer bound of a truncated normal may lie.
// Beyond it the tail probabilities leave the range of the arithmetic.
double truncation_reach(DType dtype);

// Whether the kernels take the arguments; all others are left to torch, to carry out or to refuse.
bool is_served(Kind kind, DType dtype, const std::array<double, 4>& p);

// Fills in the derived members of a segment whose kind and dtype are set. `p` are value | a, b,
// cast | mean, std | mean, std, a, b. Throws std::invalid_argument.
void derive_parameters(Segment& segment, const std::array<double, 4>& p);

}  // namespace fastinit

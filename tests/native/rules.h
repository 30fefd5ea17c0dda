// What the native drivers draw: parameters that reach every branch of the arithmetic.
#pragma once

#include <array>
#include <vector>

#include "../../csrc/stream/distributions.h"

// Of each kind, in the order of `Kind`: both tails of the quantile, wide and far windows.
const std::vector<std::array<double, 4>> kParameters[] = {
    {{1.5, 0, 0, 0}, {-3e-5, 0, 0, 0}},
    {{0, 1, 0, 0}, {-0.05, 0.05, 0, 0}, {3, 3.0000002, 0, 0}},
    {{0, 1, 0, 0}, {1e-3, 0.02, 0, 0}},
    {{0, 1, -2, 2},
     {0, 1, -30, 30},
     {0, 0.02, 0.04, 0.08},
     {0, 1, 5, 6},
     {0, 1, -12, -10},
     {1, 3, -9, 40}},
    {{0, 0, 0, 0}},
};
static_assert(sizeof kParameters / sizeof kParameters[0] == fastinit::kKinds);

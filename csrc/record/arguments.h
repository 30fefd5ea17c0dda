// The arguments of a distribution, as code gives them.
#pragma once

#include <array>

#include "python.h"

namespace fastinit {

// Numbers as torch takes them: int (to 2^53), bool, float and NumPy's scalars, padded with zeros.
// False leaves the call to torch, to carry out or to refuse.
bool parse_arguments(PyObject* tuple, std::array<double, 4>& numbers);

}  // namespace fastinit

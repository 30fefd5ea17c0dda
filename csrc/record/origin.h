// Who asks for a fill: the line of code that calls.
#pragma once

#include "python.h"

namespace fastinit {

// "module.function, line n" of the innermost frame outside the modules that only pass a fill on.
Ref origin();

}  // namespace fastinit

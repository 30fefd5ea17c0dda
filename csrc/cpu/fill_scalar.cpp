#include "../stream/lanes_scalar.h"
#include "fill.h"
#include "isa.h"

namespace fastinit {

const Isa kIsaScalar = {"scalar", fill_positions<Scalar>};

}  // namespace fastinit

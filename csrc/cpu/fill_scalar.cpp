#include "../fill.h"
#include "isa.h"
#include "lanes_scalar.h"

namespace fastinit {

const Isa kIsaScalar = {"scalar", fill_positions<Scalar>};

}  // namespace fastinit

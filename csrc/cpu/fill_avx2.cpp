// Compiled for this instruction set alone (see setup.py). Nothing here may instantiate an inline
// function of the standard library: the linker could keep this copy of it for every caller.
#include "fill.h"
#include "isa.h"
#include "lanes_avx2.h"

namespace fastinit {

const Isa kIsaAvx2 = {"avx2", fill_positions<Avx2>};

}  // namespace fastinit

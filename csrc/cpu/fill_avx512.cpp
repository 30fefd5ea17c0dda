// Compiled for this instruction set alone (see setup.py). Nothing here may instantiate an inline
// function of the standard library: the linker could keep this copy of it for every caller.
#include "fill.h"
#include "isa.h"
#include "lanes_avx512.h"

namespace fastinit {

const Isa kIsaAvx512 = {"avx512", fill_positions<Avx512>};

}  // namespace fastinit

// Compiled for this instruction set alone (see setup.py). Nothing here may instantiate an inline
// function of the standard library: the linker could keep this copy of it for every caller.
#include "fill.h"
#include "isa.h"
#include "lanes_neon.h"

namespace fastinit {

const Isa kIsaNeon = {"neon", fill_positions<Neon>};

}  // namespace fastinit

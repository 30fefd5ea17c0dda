// machines: aarch64 arm64
// flags:
//
// setup.py reads these two lines. Nothing here may instantiate an inline function of the standard
// library: the linker could keep this copy of it, for this instruction set, for every caller.
#include "fill.h"
#include "isa.h"
#include "lanes_neon.h"

namespace fastinit {

extern const Isa kIsaNeon;
const Isa kIsaNeon = {"neon", fill_positions<Neon>};

}  // namespace fastinit

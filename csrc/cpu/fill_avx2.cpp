// machines: x86_64 amd64
// flags: -mavx2 -mfma -mf16c
//
// setup.py reads these two lines. Nothing here may instantiate an inline function of the standard
// library: the linker could keep this copy of it, for this instruction set, for every caller.
#include "fill.h"
#include "isa.h"
#include "lanes_avx2.h"

namespace fastinit {

extern const Isa kIsaAvx2;
const Isa kIsaAvx2 = {"avx2", fill_positions<Avx2>};

}  // namespace fastinit

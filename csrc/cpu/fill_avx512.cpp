// machines: x86_64 amd64
// flags: -mavx512f -mavx512dq -mavx512bw -Wno-uninitialized -Wno-maybe-uninitialized
//
// setup.py reads these two lines. Nothing here may instantiate an inline function of the standard
// library: the linker could keep this copy of it, for this instruction set, for every caller.
// GCC's own AVX-512 headers start from deliberately uninitialised registers, and warn about it.
#include "fill.h"
#include "isa.h"
#include "lanes_avx512.h"

namespace fastinit {

extern const Isa kIsaAvx512;
const Isa kIsaAvx512 = {"avx512", fill_positions<Avx512>};

}  // namespace fastinit

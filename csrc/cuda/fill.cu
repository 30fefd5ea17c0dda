// The kernel: one launch for a whole table.
#include "kernel.h"
#include "lanes_cuda.h"
#include "launch.h"

// The table is in device memory, or, if that is null, among the arguments: short tables need no
// upload, and a captured graph keeps them.
extern "C" __global__ void __launch_bounds__(fastinit::kCudaThreads, fastinit::kCudaBlocksPerSm)
    fastinit_fill(const __grid_constant__ fastinit::CudaArguments arguments) {
  const std::byte* table = arguments.table != nullptr ? arguments.table : arguments.inline_table;
  fastinit::fill_tile<fastinit::Cuda>(fastinit::CudaTable(table), blockIdx.x, threadIdx.x,
                                      fastinit::kCudaThreads);
}

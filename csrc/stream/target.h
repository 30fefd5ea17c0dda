// What tells one compiler from another: code that a GPU runs as well is marked for nvcc.
#pragma once

#if defined(__CUDACC__)
#define FASTINIT_DEVICE __device__
#define FASTINIT_ROLLED _Pragma("unroll 1")
#define FASTINIT_UNROLL _Pragma("unroll")
#else
#define FASTINIT_DEVICE
#define FASTINIT_ROLLED
#define FASTINIT_UNROLL _Pragma("GCC unroll 32")
#endif

// What marks a function or table of coefficients that runs on a GPU: nothing elsewhere.
#pragma once

#if defined(__CUDACC__)
#define FASTINIT_DEVICE __device__
#else
#define FASTINIT_DEVICE
#endif

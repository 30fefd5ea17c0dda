// What the build brought along: the kernel for the listed architectures, if there was an nvcc, and
// its source in one piece, for NVRTC.
#include "driver.h"

#if defined(FASTINIT_CUDA_FATBIN)
// In the section where NVIDIA's tools look: `cuobjdump --list-elf` shows what a library contains.
extern "C" const char fastinit_cuda_image[];
asm(".section .nv_fatbin, \"a\"\n"
    ".balign 8\n"
    ".hidden fastinit_cuda_image\n"
    ".global fastinit_cuda_image\n"
    "fastinit_cuda_image:\n"
    ".incbin \"" FASTINIT_CUDA_FATBIN
    "\"\n"
    ".previous\n");
#endif

namespace fastinit {

const char* embedded_source() {
  static const char source[] =
#include FASTINIT_CUDA_SOURCE
      ;
  return source;
}
const char* embedded_archs() { return FASTINIT_CUDA_ARCHS; }

#if defined(FASTINIT_CUDA_FATBIN)
const void* embedded_image() { return fastinit_cuda_image; }
const char* no_image_reason() { return ""; }
#else
const void* embedded_image() { return nullptr; }
const char* no_image_reason() { return FASTINIT_CUDA_REASON; }
#endif

}  // namespace fastinit

// Kernels on GPUs, through the CUDA driver: found when it is first needed, so that the same build
// serves machines with any driver, or none.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "pack.h"

namespace fastinit {

// What the driver said, with what was being done.
struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A build without an image, or an image without code for the GPU: another one may do.
struct NoKernel : CudaError {
  using CudaError::CudaError;
};

// Makes the kernel of `image` (a fatbin, a cubin or PTX) ready on a device, once: later images are
// not looked at. Throws NoKernel, and other CudaErrors.
void cuda_load(int device, const void* image);

// Whether the kernel is ready on a device.
bool cuda_is_loaded(int device);

// Whether a stream is being captured in a graph. False on devices that were not loaded.
bool cuda_is_capturing(int device, std::uint64_t stream);

// What the build brought along.
const void* embedded_image();   // null without nvcc
const char* no_image_reason();  // then
const char* embedded_archs();   // "7.5 8.0 9.0+PTX"
const char* embedded_source();  // the kernel in one piece of source, for NVRTC

// Fills on a stream of a device that was loaded, without waiting. `table` is a copy of the batch in
// the device's memory, or null: the batch then has to fit among the kernel's arguments. Throws
// CudaError, before the launch if memory is not the GPU's.
void cuda_launch(int device, std::uint64_t stream, const CudaBatch& batch, const std::byte* table);

}  // namespace fastinit

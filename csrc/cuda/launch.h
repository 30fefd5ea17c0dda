// What the host and the kernel agree on.
#pragma once

#include <cstddef>

namespace fastinit {

constexpr unsigned kCudaThreads = 256;
constexpr unsigned kCudaBlocksPerSm = 3;  // 80 registers a thread
constexpr std::size_t kCudaInlineBytes = 4096 - sizeof(void*);

struct CudaArguments {  // 4 KiB, what every CUDA version passes by value
  const std::byte* table;
  alignas(8) std::byte inline_table[kCudaInlineBytes];
};

}  // namespace fastinit

// The part of DLPack's exchange table that is used: Python Specification for DLPack, "C exchange
// API", version 1.
#pragma once

#include <cstdint>

namespace fastinit::dlpack {

constexpr const char* kCapsule = "dlpack_exchange_api";
constexpr std::uint32_t kMajor = 1;
constexpr std::int32_t kCpu = 1, kCuda = 2;

struct Device {
  std::int32_t type, index;
};
struct Format {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  Format format;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct Header {
  std::uint32_t major, minor;
  const Header* previous;
};
struct Exchange {
  Header header;
  void *allocate, *from_object, *to_object;
  int (*tensor_from_object)(void* object, Tensor* out);  // -1 with Python's error set
  void* current_stream;
};

}  // namespace fastinit::dlpack

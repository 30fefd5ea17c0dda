// A CUDA driver without a GPU: its device memory is the host's, and a launch runs the body of the
// kernel for every block and thread, in a scrambled order. Built as libcuda.so.1 by
// tests/fake_cuda.py.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "../../csrc/cuda/kernel.h"
#include "../../csrc/cuda/launch.h"
#include "../../csrc/record/dlpack.h"

namespace fastinit {
namespace {

std::int64_t written = 0, writes = 0;

// Scalar lanes that count what they write.
struct Host : Scalar {
  template <class T>
  static void write(T* at, const T& value) {
    *at = value;
    written += sizeof value;
    ++writes;
  }
};

}  // namespace
}  // namespace fastinit

namespace {

struct Launch {
  std::uint64_t stream;
  std::int64_t blocks, threads, written, writes;
  std::int32_t device, is_inline;
};

std::vector<Launch> launches;
std::string failing;  // the function that fails
int failure = 0;
int contexts[2];  // of two devices; their addresses are the handles
std::vector<void*> stack;
int capture_mode = 0;  // cudaStreamCaptureModeGlobal
bool loaded_relaxed = false;
std::uint64_t captured = ~std::uint64_t{0};  // the stream that is being captured
int pointers_asked = 0;
bool is_dry = false;  // launches are noted and not carried out

std::map<const void*, int> on_gpu;  // by address, on which device
int everything_on = -1;             // and all other memory; -1: on the CPU
fastinit::dlpack::Exchange exchange;
int (*torchs_facts)(void*, fastinit::dlpack::Tensor*);

int result(const char* function) { return failing == function ? failure : 0; }

// A step that visits every number below n once: the next odd multiplier without a common factor.
std::uint64_t scrambled(std::uint64_t n, std::uint64_t i) {
  std::uint64_t step = n / 2 + 1;
  const auto common = [](std::uint64_t a, std::uint64_t b) {
    while (b != 0) {
      const auto rest = a % b;
      a = b;
      b = rest;
    }
    return a;
  };
  while (common(n, step) != 1) ++step;
  return i * step % n;
}

}  // namespace

extern "C" {

// For the tests.
void fake_fail(const char* function, int code) {
  failing = function;
  failure = code;
}
void fake_forget() {
  launches.clear();
  pointers_asked = 0;
}
std::int64_t fake_launches() { return static_cast<std::int64_t>(launches.size()); }
Launch fake_launch(std::int64_t n) { return launches[static_cast<std::size_t>(n)]; }
std::int64_t fake_stack() { return static_cast<std::int64_t>(stack.size()); }
int fake_capture_mode() { return capture_mode; }
bool fake_loaded_relaxed() { return loaded_relaxed; }
void fake_dry(bool value) { is_dry = value; }
void fake_capture(std::uint64_t stream) { captured = stream; }
int fake_pointers_asked() { return pointers_asked; }

// DLPack's exchange table of torch, by which memory that `fake_put` names is a GPU's. The tests
// give it to the recorder.
void fake_put(void* data, int device) { on_gpu[data] = device; }
void fake_put_all(int device) {
  on_gpu.clear();
  everything_on = device;
}
void* fake_exchange(const void* torchs) {
  std::memcpy(&exchange, torchs, sizeof exchange);
  torchs_facts = exchange.tensor_from_object;
  exchange.header.previous = nullptr;
  exchange.tensor_from_object = [](void* object, fastinit::dlpack::Tensor* out) {
    const int result = torchs_facts(object, out);
    if (result != 0 || everything_on < 0) return result;
    const auto found = on_gpu.find(out->data);
    const int device = found != on_gpu.end() ? found->second : everything_on;
    if (device >= 0) out->device = {fastinit::dlpack::kCuda, device};
    return result;
  };
  return &exchange;
}

// The driver.
int cuGetExportTable(const void**, const void*) { return 500; }  // NVRTC asks, and does without
int cuInit(unsigned) { return result("cuInit"); }
int cuDeviceGet(int* device, int ordinal) {
  if (ordinal < 0 || ordinal > 1) return 101;
  *device = ordinal;
  return result("cuDeviceGet");
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = &contexts[device];
  return result("cuDevicePrimaryCtxRetain");
}
int cuCtxPushCurrent_v2(void* context) {
  if (const int code = result("cuCtxPushCurrent_v2")) return code;
  stack.push_back(context);
  return 0;
}
int cuCtxPopCurrent_v2(void** context) {
  *context = stack.back();
  stack.pop_back();
  return 0;
}
int cuModuleLoadData(void** module, const void* image) {
  *module = const_cast<void*>(image);
  loaded_relaxed = capture_mode == 2;
  return result("cuModuleLoadData");
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = module;
  return std::strcmp(name, "fastinit_fill") != 0 ? 500 : result("cuModuleGetFunction");
}
int cuLaunchKernel(void*, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void* stream, void** parameters, void** extra) {
  if (const int code = result("cuLaunchKernel")) return code;
  if (gy * gz * by * bz != 1 || stack.empty() || shared != 0 || extra != nullptr) return 1;
  using namespace fastinit;
  const auto& arguments = *static_cast<const CudaArguments*>(parameters[0]);
  const bool is_inline = arguments.table == nullptr;
  const CudaTable table(is_inline ? arguments.inline_table : arguments.table);
  written = writes = 0;
  for (std::uint64_t n = 0; n < (is_dry ? 0 : gx); ++n) {
    const auto block = static_cast<std::int64_t>(scrambled(gx, n));
    for (std::uint32_t t = 0; t < bx; ++t) {
      fill_tile<Host>(table, block, static_cast<std::uint32_t>(scrambled(bx, t)), bx);
    }
  }
  const auto device = static_cast<std::int32_t>(static_cast<int*>(stack.back()) - contexts);
  launches.push_back({reinterpret_cast<std::uint64_t>(stream), gx, bx, written, writes, device,
                      is_inline ? 1 : 0});
  return 0;
}
int cuPointerGetAttribute(void* data, int attribute, std::uint64_t pointer) {
  ++pointers_asked;
  constexpr int kMemoryType = 2, kDevice = 2;
  if (attribute != kMemoryType || pointer == 0x1000) return 1;  // unknown memory at one address
  *static_cast<int*>(data) = kDevice;
  return result("cuPointerGetAttribute");
}
int cuStreamIsCapturing(void* stream, int* status) {
  *status = reinterpret_cast<std::uint64_t>(stream) == captured ? 1 : 0;
  return stack.empty() ? 201 : result("cuStreamIsCapturing");
}
int cuThreadExchangeStreamCaptureMode(int* mode) {
  const int before = capture_mode;
  capture_mode = *mode;
  *mode = before;
  return 0;
}
int cuGetErrorName(int code, const char** name) {
  *name = code == 2     ? "CUDA_ERROR_OUT_OF_MEMORY"
          : code == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU"
          : code == 1   ? "CUDA_ERROR_INVALID_VALUE"
          : code == 100 ? "CUDA_ERROR_NO_DEVICE"
          : code == 101 ? "CUDA_ERROR_INVALID_DEVICE"
                        : nullptr;
  return *name != nullptr ? 0 : 1;
}
int cuGetErrorString(int code, const char** text) {
  *text = code == 2     ? "out of memory"
          : code == 209 ? "no kernel image is available for execution on the device"
          : code == 1   ? "invalid argument"
          : code == 100 ? "no CUDA-capable device is detected"
          : code == 101 ? "invalid device ordinal"
                        : nullptr;
  return *text != nullptr ? 0 : 1;
}
}

#include "driver.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <string>

#include "launch.h"
#include "table.h"

namespace fastinit {
namespace {

// As cuda.h declares them. The driver's interface is stable, and a header is not to be had
// everywhere.
using Result = int;
using Device = int;
using Context = struct ContextOf*;
using Module = struct ModuleOf*;
using Function = struct FunctionOf*;
using Stream = struct StreamOf*;

constexpr int kPointerMemoryType = 2;
constexpr int kCaptureModeRelaxed = 2;
constexpr Result kInvalidValue = 1;
// The image is not for this GPU, or newer than the driver; or the driver has no compiler for PTX,
// or must not use it. (An image that is compressed in a newer way is as good as none.)
constexpr Result kNoKernel[] = {
    200,  // CUDA_ERROR_INVALID_IMAGE
    209,  // CUDA_ERROR_NO_BINARY_FOR_GPU
    218,  // CUDA_ERROR_INVALID_PTX
    221,  // CUDA_ERROR_JIT_COMPILER_NOT_FOUND
    222,  // CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    223,  // CUDA_ERROR_JIT_COMPILATION_DISABLED
    300,  // CUDA_ERROR_INVALID_SOURCE
};

struct Driver {
  Result (*init)(unsigned);
  Result (*device_get)(Device*, int);
  Result (*primary_context_retain)(Context*, Device);
  Result (*context_push)(Context);
  Result (*context_pop)(Context*);
  Result (*module_load)(Module*, const void*);
  Result (*module_function)(Function*, Module, const char*);
  Result (*launch)(Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                   Stream, void**, void**);
  Result (*pointer_attribute)(void*, int, std::uint64_t);
  Result (*exchange_capture_mode)(int*);
  Result (*stream_is_capturing)(Stream, int*);
  Result (*error_name)(Result, const char**);
  Result (*error_string)(Result, const char**);

  Driver();
  void check(Result result, const std::string& what) const {
    if (result != 0) throw CudaError(described(result, what));
  }
  std::string described(Result result, const std::string& what) const {
    const char *name = nullptr, *text = nullptr;
    error_name(result, &name);
    error_string(result, &text);
    return what + ": " + (name != nullptr ? name : "CUDA error " + std::to_string(result)) +
           (text != nullptr ? std::string(": ") + text : "");
  }
};

Driver::Driver() {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw CudaError(std::string("no CUDA driver: ") + dlerror());
  const auto find = [&](auto& function, const char* name) {
    void* const symbol = dlsym(library, name);
    if (symbol == nullptr) throw CudaError(std::string("the CUDA driver lacks ") + name);
    std::memcpy(&function, &symbol, sizeof symbol);
  };
  find(init, "cuInit");
  find(device_get, "cuDeviceGet");
  find(primary_context_retain, "cuDevicePrimaryCtxRetain");
  find(context_push, "cuCtxPushCurrent_v2");
  find(context_pop, "cuCtxPopCurrent_v2");
  find(module_load, "cuModuleLoadData");
  find(module_function, "cuModuleGetFunction");
  find(launch, "cuLaunchKernel");
  find(pointer_attribute, "cuPointerGetAttribute");
  find(exchange_capture_mode, "cuThreadExchangeStreamCaptureMode");
  find(stream_is_capturing, "cuStreamIsCapturing");
  find(error_name, "cuGetErrorName");
  find(error_string, "cuGetErrorString");
  check(init(0), "starting the CUDA driver");
}

const Driver& driver() {
  static const Driver the_driver;
  return the_driver;
}

std::string named(int device) { return "CUDA device " + std::to_string(device); }

// The primary context, which torch uses too. It is retained for the life of the process, as torch's
// own is.
struct Loaded {
  Context context;
  Function function;
};

std::mutex mutex;
std::map<int, Loaded> devices;
constexpr int kMostFlags = 64;
std::atomic<std::uint64_t> loaded_devices{0};  // a bit for each, read without the mutex

Loaded loaded_on(int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = devices.find(device);
  if (found == devices.end()) throw CudaError(named(device) + ": its kernel was not loaded");
  return found->second;
}

// A context of the calling thread, while it lasts.
class Current {
 public:
  explicit Current(Context context) {
    driver().check(driver().context_push(context), "entering the CUDA context");
  }
  ~Current() {
    Context ours;
    driver().context_pop(&ours);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
};

// Loading a module is not stream work: a capture elsewhere in the process need not forbid it.
class RelaxedCapture {
 public:
  RelaxedCapture() { driver().exchange_capture_mode(&mode_); }
  ~RelaxedCapture() { driver().exchange_capture_mode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  int mode_ = kCaptureModeRelaxed;
};

// A wrong pointer would otherwise be noticed much later, by whoever waits for the device next, and
// nothing in the process could use the device any more.
void require_device_memory(const CudaBatch& batch) {
  const CudaTable table(batch.bytes.data());
  for (std::int64_t n = 0; n < table.header().segments; ++n) {
    const auto pointer = reinterpret_cast<std::uint64_t>(table.segment(n).data);
    int type = 0;
    const Result result = driver().pointer_attribute(&type, kPointerMemoryType, pointer);
    const std::string what = "segment at pointer " + std::to_string(pointer);
    driver().check(result, result == kInvalidValue ? what + " is not memory of a GPU" : what);
  }
}

}  // namespace

void cuda_load(int device, const void* image) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (devices.count(device) != 0) return;
  const Driver& d = driver();
  Device handle;
  Loaded loaded{};
  Module module;
  d.check(d.device_get(&handle, device), named(device));
  const RelaxedCapture relaxed;
  d.check(d.primary_context_retain(&loaded.context, handle), "the context of " + named(device));
  const Current current(loaded.context);
  const Result result = d.module_load(&module, image);
  if (std::find(std::begin(kNoKernel), std::end(kNoKernel), result) != std::end(kNoKernel)) {
    throw NoKernel(d.described(result, "loading the kernel on " + named(device)));
  }
  d.check(result, "loading the kernel on " + named(device));
  d.check(d.module_function(&loaded.function, module, "fastinit_fill"),
          "finding the kernel on " + named(device));
  devices.emplace(device, loaded);
  if (device < kMostFlags) loaded_devices |= std::uint64_t{1} << device;
}

bool cuda_is_loaded(int device) {
  return device >= 0 && device < kMostFlags && (loaded_devices >> device & 1) != 0;
}

bool cuda_is_capturing(int device, std::uint64_t stream) {
  if (!cuda_is_loaded(device)) return false;
  const Current current(loaded_on(device).context);
  int status = 0;
  // An error is that of the legacy stream while another one is captured.
  const Result result = driver().stream_is_capturing(reinterpret_cast<Stream>(stream), &status);
  return result != 0 || status != 0;
}

void cuda_launch(int device, std::uint64_t stream, const CudaBatch& batch, const std::byte* table) {
  if (batch.tiles == 0) return;
  const Loaded loaded = loaded_on(device);
  const Current current(loaded.context);
  if (!batch.is_from_torch) require_device_memory(batch);
  CudaArguments arguments;
  arguments.table = table;
  if (table == nullptr) {
    if (batch.bytes.size() > kCudaInlineBytes) {
      throw CudaError("a batch of " + std::to_string(batch.bytes.size()) +
                      " bytes is too long for the arguments of a kernel");
    }
    std::memcpy(arguments.inline_table, batch.bytes.data(), batch.bytes.size());
  }
  void* parameters[] = {&arguments};
  driver().check(
      driver().launch(loaded.function, static_cast<unsigned>(batch.tiles), 1, 1, kCudaThreads, 1, 1,
                      0, reinterpret_cast<Stream>(stream), parameters, nullptr),
      "launching on " + named(device));
}

}  // namespace fastinit

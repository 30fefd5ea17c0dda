#include "torch.h"

#include <stdexcept>
#include <string>
#include <string_view>

#include "../cuda/driver.h"
#include "dlpack.h"

namespace fastinit {
namespace {

struct Names {
  const dlpack::Exchange* exchange = nullptr;
  PyTypeObject *tensor = nullptr, *parameter = nullptr;
  Py_ssize_t references = 0;  // to a storage's object that only the caller has, some torch's own
  PyObject *disable, *untyped_storage, *storage_key, *nbytes, *resizable, *users, *holders,
      *is_inference, *is_neg, *increment_version, *describe, *detach, *threads, *words, *random,
      *has_mode, *is_inference_mode, *dispatch_modes, *tracing, *parts, *cuda_stream;
};
Names names;  // live as long as the process

PyObject* const* interned() {
  static PyObject* const found[] = {
      PyUnicode_InternFromString("__enter__"), PyUnicode_InternFromString("__exit__"),
      PyUnicode_InternFromString("_version"), PyUnicode_InternFromString("_cdata"),
      PyUnicode_InternFromString("_base")};
  return found;
}

PyObject* required(PyObject* dict, const char* name) {
  PyObject* found = PyDict_GetItemString(dict, name);
  if (found == nullptr) throw std::invalid_argument(std::string("bind: there is no ") + name);
  return Py_NewRef(found);
}

const dlpack::Exchange* exchange_in(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, dlpack::kCapsule)) return nullptr;
  const void* pointer = PyCapsule_GetPointer(capsule, dlpack::kCapsule);
  // Tables of older versions follow newer ones.
  for (auto* header = static_cast<const dlpack::Header*>(pointer); header != nullptr;
       header = header->previous) {
    if (header->major == dlpack::kMajor) {
      auto* table = reinterpret_cast<const dlpack::Exchange*>(header);
      return table->tensor_from_object != nullptr ? table : nullptr;
    }
  }
  return nullptr;
}

std::uint64_t unsigned_integer(PyObject* object) {
  const auto value = PyLong_AsUnsignedLongLong(object);
  if (value == static_cast<unsigned long long>(-1) && PyErr_Occurred() != nullptr) {
    throw PythonError{};
  }
  return value;
}

std::int64_t integer(PyObject* object) {
  const auto value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred() != nullptr) throw PythonError{};
  return value;
}

bool truth(const Ref& object) {
  const int value = PyObject_IsTrue(object.get());
  if (value < 0) throw PythonError{};
  return value != 0;
}

Ref call(PyObject* function, PyObject* argument) {
  return Ref::owned(PyObject_CallOneArg(function, argument));
}

// False for more dimensions than are described. As torch counts: the stride of a dimension with one
// element, or of an empty tensor, is free.
bool set_dims(Geometry& geometry, int ndim, const std::int64_t* shape,
              const std::int64_t* strides) {
  geometry.count = 1;
  bool is_contiguous = true;
  for (int d = ndim - 1; d >= 0; --d) {
    if (shape[d] != 1 && strides[d] != geometry.count) is_contiguous = false;
    geometry.count *= shape[d];
  }
  geometry.is_contiguous = is_contiguous || geometry.count == 0;
  if (ndim > kMaxDims) {
    geometry.ndim = 1;
    geometry.shape[0] = geometry.count;
    geometry.strides[0] = 1;
    return geometry.is_contiguous;
  }
  geometry.ndim = ndim;
  for (int d = 0; d < ndim; ++d) {
    geometry.shape[d] = shape[d];
    geometry.strides[d] = strides[d];
  }
  return true;
}

// By (code, bits) of DLPack; anything else has no kernels.
int dtype_of(std::uint32_t code, std::uint32_t bits) {
  if (code == 4) return static_cast<int>(DType::kBFloat16);
  if (code != 2) return -1;
  return bits == 32   ? static_cast<int>(DType::kFloat32)
         : bits == 16 ? static_cast<int>(DType::kFloat16)
         : bits == 64 ? static_cast<int>(DType::kFloat64)
                      : -1;
}

bool from_exchange(PyObject* tensor, Facts& facts) {
  dlpack::Tensor t;
  if (names.exchange->tensor_from_object(tensor, &t) != 0) {
    PyErr_Clear();
    return false;
  }
  facts.is_cpu = t.device.type == dlpack::kCpu;
  facts.is_meta = false;
  facts.gpu = t.device.type == dlpack::kCuda ? t.device.index : -1;
  auto& g = facts.geometry;
  g.pointer = reinterpret_cast<std::uint64_t>(t.data) + t.byte_offset;
  g.format = std::uint32_t{t.format.code} << 8 | t.format.bits;
  g.itemsize = (t.format.bits * t.format.lanes + 7) / 8;
  facts.dtype = dtype_of(t.format.code, t.format.bits);
  if (!set_dims(g, t.ndim, t.shape, t.strides)) return false;
  // Without memory behind it: a fake tensor, or one that is made of others.
  return g.pointer != 0 || g.count == 0;
}

// `describe` returns None or (pointer, is_cpu, is_meta, code, bits, shape, strides).
bool from_methods(PyObject* tensor, Facts& facts) {
  const Ref found = call(names.describe, tensor);
  if (found.get() == Py_None) return false;
  const auto item = [&](int n) { return PyTuple_GET_ITEM(found.get(), n); };
  facts.is_cpu = item(1) == Py_True;
  facts.is_meta = item(2) == Py_True;
  facts.gpu = -1;
  auto& g = facts.geometry;
  g.pointer = unsigned_integer(item(0));
  const auto code = integer(item(3)), bits = integer(item(4));
  g.format = static_cast<std::uint32_t>(code << 8 | bits);
  g.itemsize = static_cast<int>((bits + 7) / 8);
  facts.dtype = dtype_of(static_cast<std::uint32_t>(code), static_cast<std::uint32_t>(bits));
  constexpr int kMostDims = 64;  // torch's
  std::int64_t dims[2][kMostDims];
  const auto ndim = static_cast<int>(PyTuple_GET_SIZE(item(5)));
  if (ndim > kMostDims) return false;
  for (int d = 0; d < ndim; ++d) {
    dims[0][d] = integer(PyTuple_GET_ITEM(item(5), d));
    dims[1][d] = integer(PyTuple_GET_ITEM(item(6), d));
  }
  return set_dims(g, ndim, dims[0], dims[1]);
}

}  // namespace

// The guard of this thread, which is entered once: of nested ones the outermost does it. It is
// never freed, because threads may outlive the interpreter's end.
struct Guard {
  PyObject* object = nullptr;
  bool is_entered = false;
};
thread_local Guard guard;

Unwatched::Unwatched(PyObject* tensor) {
  if (guard.is_entered) return;
  if (tensor != nullptr && torch::is_exact(tensor) &&
      !truth(Ref::owned(PyObject_CallNoArgs(names.has_mode)))) {
    return;
  }
  if (guard.object == nullptr)
    guard.object = Ref::owned(PyObject_CallNoArgs(names.disable)).release();
  Ref::owned(PyObject_CallMethodNoArgs(guard.object, interned()[0]));
  guard.is_entered = is_outermost_ = true;
}

Unwatched::~Unwatched() {
  if (!is_outermost_) return;
  guard.is_entered = false;
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  Py_XDECREF(
      PyObject_CallMethodObjArgs(guard.object, interned()[1], Py_None, Py_None, Py_None, nullptr));
  PyErr_Restore(type, value, trace);
}

namespace torch {

void bind(PyObject* dict) {
  const auto type = [dict](const char* name) {
    return reinterpret_cast<PyTypeObject*>(required(dict, name));
  };
  names.exchange = exchange_in(required(dict, "exchange"));
  names.tensor = type("Tensor");
  names.parameter = type("Parameter");
  names.disable = required(dict, "DisableTorchFunction");
  names.untyped_storage = required(dict, "untyped_storage");
  names.storage_key = required(dict, "storage_key");

  names.nbytes = required(dict, "nbytes");
  names.resizable = required(dict, "resizable");
  names.users = required(dict, "users");
  names.holders = required(dict, "holders");
  names.is_inference = required(dict, "is_inference");
  names.is_neg = required(dict, "is_neg");
  names.increment_version = required(dict, "increment_version");
  names.describe = required(dict, "describe");
  names.detach = required(dict, "detach");
  names.threads = required(dict, "threads");
  names.words = required(dict, "words");
  names.random = required(dict, "random_");
  names.is_inference_mode = required(dict, "is_inference_mode");
  names.has_mode = required(dict, "has_mode");
  names.dispatch_modes = required(dict, "dispatch_modes");
  names.tracing = required(dict, "tracing");
  names.parts = required(dict, "parts");
  names.cuda_stream = required(dict, "cuda_stream");
  const Ref probe = Ref::owned(PyObject_CallNoArgs(names.words));
  names.references = Py_REFCNT(call(names.untyped_storage, probe.get()).get());
}

bool is_tensor(PyObject* object) { return PyObject_TypeCheck(object, names.tensor) != 0; }

bool is_exact(PyObject* tensor) {
  return Py_TYPE(tensor) == names.parameter || Py_TYPE(tensor) == names.tensor;
}

bool is_of_torch(PyObject* tensor) {
  static constexpr std::string_view kOwn = "torch.distributed.";
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(tensor));
  const Ref module = Ref::owned(PyObject_GetAttrString(type, "__module__"));
  Py_ssize_t size;
  const char* const name = PyUnicode_AsUTF8AndSize(module.get(), &size);
  if (name == nullptr) throw PythonError{};
  return std::string_view(name, static_cast<std::size_t>(size)).substr(0, kOwn.size()) == kOwn;
}

bool facts_of(PyObject* tensor, Facts& facts) {
  if (names.exchange != nullptr && from_exchange(tensor, facts)) return true;
  return from_methods(tensor, facts);
}

bool is_surely_served(const Facts& facts) {
  const auto& g = facts.geometry;
  const bool has_kernel =
      facts.is_cpu || (facts.gpu >= 0 && names.cuda_stream != Py_None && cuda_is_loaded(facts.gpu));
  if (!has_kernel || facts.dtype < 0) return false;
  const bool is_aligned = g.pointer % static_cast<std::uint64_t>(g.itemsize) == 0;
  return g.count > 0 && is_aligned && g.is_injective();
}

std::uint64_t storage_key(PyObject* tensor) {
  return unsigned_integer(call(names.storage_key, tensor).get());
}

std::uint64_t storage_key_or_none(PyObject* tensor) {
  PyObject* const key = PyObject_CallOneArg(names.storage_key, tensor);
  if (key == nullptr) {
    // NotImplementedError is one: sparse tensors, and those that torch.func wraps.
    if (!PyErr_ExceptionMatches(PyExc_RuntimeError)) throw PythonError{};
    PyErr_Clear();
    return 0;
  }
  return unsigned_integer(Ref::owned(key).get());
}

Ref storage_of(PyObject* tensor) {
  const Unwatched unwatched(tensor);
  return call(names.untyped_storage, tensor);
}

std::uint64_t key_of_storage(const Ref& storage) {
  return unsigned_integer(Ref::owned(PyObject_GetAttr(storage.get(), interned()[3])).get());
}

bool is_resizable(const Ref& storage) { return truth(call(names.resizable, storage.get())); }

bool is_traced() {
  static PyObject* const zero = PyLong_FromLong(0);  // small integers are one object each
  return Ref::owned(PyObject_CallNoArgs(names.dispatch_modes)).get() != zero ||
         Ref::owned(PyObject_CallNoArgs(names.tracing)).get() != Py_None;
}

Ref parts(PyObject* tensor) { return call(names.parts, tensor); }

bool is_inference_mode() { return truth(Ref::owned(PyObject_CallNoArgs(names.is_inference_mode))); }

std::uint64_t storage_bytes(PyObject* tensor) {
  const Unwatched unwatched(tensor);
  return unsigned_integer(call(names.nbytes, call(names.untyped_storage, tensor).get()).get());
}

std::int64_t storage_users(PyObject* tensor) {
  // Torch's count includes a Python object from the first time on that there is one: there is now.
  const Unwatched unwatched(tensor);
  const Ref storage = call(names.untyped_storage, tensor);
  if (Py_REFCNT(storage.get()) > names.references) return std::int64_t{1} << 30;  // code holds it
  const Ref number = Ref::owned(PyLong_FromUnsignedLongLong(storage_key(tensor)));
  return integer(call(names.users, number.get()).get());
}

bool is_held_by_torch(PyObject* tensor) {
  if (names.holders == Py_None) return false;
  const Unwatched unwatched(tensor);
  return integer(call(names.holders, tensor).get()) > 1;
}

bool is_neg(PyObject* tensor) {
  const Unwatched unwatched(tensor);
  return truth(call(names.is_neg, tensor));
}

bool is_inference(PyObject* tensor) {
  const Unwatched unwatched(tensor);
  // Only inference tensors have no version, which is told faster.
  if (is_exact(tensor)) {
    PyObject* const found = PyObject_GetAttr(tensor, interned()[2]);
    Py_XDECREF(found);
    if (found != nullptr) return false;
    PyErr_Clear();
  }
  return truth(call(names.is_inference, tensor));
}

Ref version(PyObject* tensor) {
  const Unwatched unwatched(tensor);
  PyObject* const found = PyObject_GetAttr(tensor, interned()[2]);
  if (found != nullptr) return Ref::owned(found);
  if (!PyErr_ExceptionMatches(PyExc_RuntimeError) &&
      !PyErr_ExceptionMatches(PyExc_AttributeError)) {
    throw PythonError{};
  }
  PyErr_Clear();
  return Ref::borrowed(Py_None);
}

void increment_versions(PyObject* tensors) { call(names.increment_version, tensors); }

bool is_view(PyObject* tensor) {
  const Unwatched unwatched(tensor);
  return Ref::owned(PyObject_GetAttr(tensor, interned()[4])).get() != Py_None;
}

Ref detached(PyObject* tensor) {
  const Unwatched unwatched(tensor);
  return call(names.detach, tensor);
}

int threads() {
  return static_cast<int>(integer(Ref::owned(PyObject_CallNoArgs(names.threads)).get()));
}

std::uint64_t cuda_stream(int device) {
  const Ref number = Ref::owned(PyLong_FromLong(device));
  return unsigned_integer(call(names.cuda_stream, number.get()).get());
}

std::uint64_t draw_seed() {
  // The words of this thread, which are never freed: threads may outlive the interpreter's end.
  thread_local PyObject* words = nullptr;
  thread_local const std::uint64_t* drawn = nullptr;
  static PyObject* const zero = PyLong_FromLong(0);
  static PyObject* const end = PyLong_FromLongLong(1LL << 32);
  if (words == nullptr) {
    Ref made = Ref::owned(PyObject_CallNoArgs(names.words));
    Facts facts;
    if (!facts_of(made.get(), facts)) throw std::runtime_error("a seed's words have no memory");
    drawn = reinterpret_cast<const std::uint64_t*>(facts.geometry.pointer);
    words = made.release();
  }
  PyObject* const arguments[] = {words, zero, end};
  Ref::owned(PyObject_Vectorcall(names.random, arguments, 3, nullptr));
  return drawn[0] | drawn[1] << 32;
}

}  // namespace torch
}  // namespace fastinit

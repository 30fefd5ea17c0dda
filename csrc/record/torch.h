// What the recorder asks of torch, which is not linked: through Python's objects and, for the facts
// of a tensor, through DLPack's exchange table, which answers without a call of a method.
#pragma once

#include "geometry.h"
#include "python.h"

namespace fastinit {

struct Facts {
  Geometry geometry;
  int dtype = -1;  // its number in the kernels' table; -1 for dtypes without kernels
  bool is_cpu = false, is_meta = false;
  int gpu = -1;  // the number of the CUDA device; -1 on others, or if only Python can tell
};

// Torch's functions call no function mode, and no subclass, while it lives. With the tensor that
// they are called for it costs little where there is neither.
class Unwatched {
 public:
  explicit Unwatched(PyObject* tensor = nullptr);
  ~Unwatched();
  Unwatched(const Unwatched&) = delete;
  Unwatched& operator=(const Unwatched&) = delete;

 private:
  bool is_outermost_ = false;
};

namespace torch {

// Takes torch's objects from a dictionary that tensors/torch_private.py makes.
void bind(PyObject* names);

bool is_tensor(PyObject* object);
// Whether the class is Tensor or Parameter itself.
bool is_exact(PyObject* tensor);
// Whether the tensor's subclass, as DTensor, is torch's own, whose code uses no more than its
// parts.
bool is_of_torch(PyObject* tensor);
// False, without an error, for a tensor without ordinary memory. DLPack does not describe those on
// meta: where many are expected, methods come first.
bool facts_of(PyObject* tensor, Facts& facts);
// Whether the kernels can write the tensor, if it is no negative view and no inference tensor; if
// not, Python has to look. On a GPU only once the kernel is loaded there.
bool is_surely_served(const Facts& facts);

// The address of the storage, its identity while it is alive; not watched by modes.
std::uint64_t storage_key(PyObject* tensor);
// The same; 0 for a tensor without a storage.
std::uint64_t storage_key_or_none(PyObject* tensor);
// The tensors with memory of their own that a tensor is made of, itself if it is one: a list; None
// if that is not known (tensors/parts.py).
Ref parts(PyObject* tensor);
// The Python object of the storage, and its address.
Ref storage_of(PyObject* tensor);
std::uint64_t key_of_storage(const Ref& storage);
// Whether the storage is torch's own memory.
bool is_resizable(const Ref& storage);
bool is_inference_mode();
std::uint64_t storage_bytes(PyObject* tensor);
// How many tensors share the tensor's storage; 2^30 if torch does not tell.
std::int64_t storage_users(PyObject* tensor);
// Whether torch itself holds the tensor, as a gradient, unseen by Python's count of references.
bool is_held_by_torch(PyObject* tensor);

// Whether what torch does is recorded, as by a dispatch mode or torch.jit.trace: a fill of the
// kernels would not be.
bool is_traced();
bool is_inference(PyObject* tensor);
// Whether values are read with the other sign, as those of the imaginary part of a conjugate.
bool is_neg(PyObject* tensor);
// Autograd's count of writes; None if it keeps none.
Ref version(PyObject* tensor);
// Tells autograd about writes of all tensors of a sequence.
void increment_versions(PyObject* tensors);
Ref detached(PyObject* tensor);
// Whether autograd knows the tensor as a view, which holds the other one.
bool is_view(PyObject* tensor);
int threads();
// The address of the current stream of a GPU for which `is_surely_served` holds.
std::uint64_t cuda_stream(int device);
// Two words of torch's default generator, the first one low.
std::uint64_t draw_seed();

}  // namespace torch
}  // namespace fastinit

#include "gpu.h"

#include <memory>

#include "../cuda/driver.h"
#include "../cuda/launch.h"
#include "objects.h"

namespace fastinit {

Ref as_python(const Place& place) {
  if (!place.is_on_gpu()) return Ref::borrowed(Py_None);
  return Ref::owned(PyObject_CallFunction(classes.place, "iK", place.device,
                                          static_cast<unsigned long long>(place.stream)));
}

Place place_of(PyObject* told) {
  Place place;
  unsigned long long stream = 0;
  if (told != Py_None && !PyArg_ParseTuple(told, "iK", &place.device, &stream)) throw PythonError{};
  place.stream = stream;
  return place;
}

Place current_place(int device) { return {device, torch::cuda_stream(device)}; }

bool launch_now(const std::vector<Segment>& table, int device) {
  const std::vector<CudaBatch> batches = pack_for_cuda(table, kCudaInlineBytes);
  for (const CudaBatch& batch : batches) {
    if (batch.bytes.size() > kCudaInlineBytes) return false;
  }
  const Place place = current_place(device);
  const WithoutGil without_gil;  // a full queue of launches blocks
  for (const CudaBatch& batch : batches) cuda_launch(device, place.stream, batch, nullptr);
  return true;
}

Ref in_capsule(std::vector<Segment>&& rows) {
  using Rows = std::vector<Segment>;
  auto owned = std::make_unique<Rows>(std::move(rows));
  Ref capsule = Ref::owned(PyCapsule_New(owned.get(), kRowsCapsule, [](PyObject* object) {
    delete static_cast<Rows*>(PyCapsule_GetPointer(object, kRowsCapsule));
  }));
  owned.release();
  return capsule;
}

}  // namespace fastinit

// The tensors in the arguments of a call.
#pragma once

#include "python.h"
#include "torch.h"

namespace fastinit {

// Calls f(tensor) for the tensors in nested lists, tuples and dictionaries.
template <class Function>
void each_tensor(PyObject* value, const Function& f) {
  if (torch::is_tensor(value)) {
    f(value);
  } else if (PyTuple_Check(value)) {
    for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(value); ++n)
      each_tensor(PyTuple_GET_ITEM(value, n), f);
  } else if (PyList_Check(value)) {
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(value); ++n)
      each_tensor(PyList_GET_ITEM(value, n), f);
  } else if (PyDict_Check(value)) {
    PyObject *key, *item;
    Py_ssize_t place = 0;
    while (PyDict_Next(value, &place, &key, &item)) {
      const Ref held = Ref::borrowed(item);
      each_tensor(item, f);
    }
  }
}

// Calls f(tensor, storage key) for the tensors of ordinary memory that those in a value are, or are
// made of. Returns whether it is known what all of them are made of.
template <class Function>
bool each_part(PyObject* value, const Function& f) {
  bool is_known = true;
  each_tensor(value, [&](PyObject* tensor) {
    const auto own = torch::is_exact(tensor) ? torch::storage_key_or_none(tensor) : 0;
    if (own != 0) return f(tensor, own);
    const Ref parts = torch::parts(tensor);
    is_known = is_known && parts.get() != Py_None;
    if (parts.get() == Py_None) return;
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(parts.get()); ++n) {
      PyObject* const part = PyList_GET_ITEM(parts.get(), n);
      f(part, torch::storage_key(part));
    }
  });
  return is_known;
}

}  // namespace fastinit

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

}  // namespace fastinit

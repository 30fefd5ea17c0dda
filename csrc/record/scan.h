// The tensors in the arguments of a call.
#pragma once

#include <string_view>

#include "python.h"
#include "torch.h"

namespace fastinit {

// Whether torch can use the value without a call of Python code: a number, a text, one of torch's
// or NumPy's own objects.
inline bool is_inert(PyObject* value) {
  if (PyFloat_CheckExact(value) || PyLong_CheckExact(value) || PyBool_Check(value) ||
      value == Py_None || value == Py_Ellipsis || PyUnicode_CheckExact(value) ||
      PySlice_Check(value) || PyComplex_CheckExact(value) || PyRange_Check(value)) {
    return true;
  }
  const std::string_view name = Py_TYPE(value)->tp_name;
  return name.substr(0, 6) == "torch." || name.substr(0, 6) == "numpy.";
}

// Calls f(tensor) for the tensors in nested lists, tuples and dictionaries. Returns whether all
// else is inert.
template <class Function>
bool each_tensor(PyObject* value, const Function& f) {
  bool is_all = true;
  if (torch::is_tensor(value)) {
    f(value);
  } else if (PyTuple_Check(value)) {
    for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(value); ++n)
      is_all &= each_tensor(PyTuple_GET_ITEM(value, n), f);
  } else if (PyList_CheckExact(value)) {
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(value); ++n)
      is_all &= each_tensor(PyList_GET_ITEM(value, n), f);
  } else if (PyDict_CheckExact(value) || PyODict_CheckExact(value)) {
    PyObject *key, *item;
    Py_ssize_t place = 0;
    while (PyDict_Next(value, &place, &key, &item)) {
      const Ref held = Ref::borrowed(item);
      is_all &= each_tensor(item, f);
    }
  } else {
    is_all = is_inert(value);
  }
  return is_all;
}

// Calls f(tensor, storage key) for the tensors of ordinary memory that those in a value are, or are
// made of. Returns whether it is known what all of them are made of.
template <class Function>
bool each_part(PyObject* value, const Function& f) {
  bool is_known = true;
  const bool is_inert = each_tensor(value, [&](PyObject* tensor) {
    const auto own = torch::is_exact(tensor) ? torch::storage_key_or_none(tensor) : 0;
    if (own != 0) return f(tensor, own);
    const Ref parts = torch::parts(tensor);
    // A subclass may be Python code, which may read anything.
    const bool is_plain = torch::is_exact(tensor) || torch::is_of_torch(tensor);
    is_known = is_known && parts.get() != Py_None && is_plain;
    if (parts.get() == Py_None) return;
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(parts.get()); ++n) {
      PyObject* const part = PyList_GET_ITEM(parts.get(), n);
      f(part, torch::storage_key(part));
    }
  });
  return is_known && is_inert;
}

}  // namespace fastinit

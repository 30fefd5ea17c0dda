// C++ exceptions as Python's.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>

#include "../table/table.h"
#include "python.h"

namespace fastinit {

// The new reference that `f` returns, or null with Python's error set.
template <class Function>
PyObject* guarded(const Function& f) {
  try {
    return f();
  } catch (const PythonError&) {
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

}  // namespace fastinit

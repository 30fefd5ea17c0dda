#include "arguments.h"

#include <cstring>

namespace fastinit {
namespace {

bool is_numpy_number(PyObject* value) {
  const Ref type = Ref::borrowed(reinterpret_cast<PyObject*>(Py_TYPE(value)));
  const Ref module = Ref::owned(PyObject_GetAttrString(type.get(), "__module__"));
  if (!PyUnicode_Check(module.get()) ||
      PyUnicode_CompareWithASCIIString(module.get(), "numpy") != 0) {
    return false;
  }
  const Ref numbers = Ref::owned(PyImport_ImportModule("numbers"));
  const Ref real = Ref::owned(PyObject_GetAttrString(numbers.get(), "Real"));
  const int is_real = PyObject_IsInstance(value, real.get());
  if (is_real < 0) throw PythonError{};
  return is_real == 1;
}

bool parse_number(PyObject* value, double& number) {
  if (PyLong_Check(value)) {
    constexpr long long kExact = 1LL << 53;
    int overflow = 0;
    const long long integer = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow != 0 || integer > kExact || integer < -kExact) return false;
    number = static_cast<double>(integer);
    return true;
  }
  if (!PyFloat_Check(value) && !is_numpy_number(value)) return false;
  number = PyFloat_AsDouble(value);
  if (number == -1.0 && PyErr_Occurred() != nullptr) throw PythonError{};
  return true;
}

}  // namespace

bool parse_arguments(PyObject* tuple, std::array<double, 4>& numbers) {
  numbers = {};
  const Py_ssize_t count = PyTuple_Size(tuple);
  if (count < 0) throw PythonError{};
  if (count > 4) return false;
  for (Py_ssize_t n = 0; n < count; ++n) {
    if (!parse_number(PyTuple_GET_ITEM(tuple, n), numbers[static_cast<std::size_t>(n)])) {
      return false;
    }
  }
  return true;
}

}  // namespace fastinit

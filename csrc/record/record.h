// The recorder as Python sees it: the class `Recorder`, `write`, and what they need to know.
#pragma once

#include "python.h"

namespace fastinit {

// Adds them to the module. Throws PythonError.
void add_record(PyObject* module);

}  // namespace fastinit

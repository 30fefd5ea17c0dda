// Walks through a model's modules, as tensors/walk.py and init_cfg/ ask for them.
#pragma once

#include "python.h"
#include "recorder.h"

namespace fastinit {

// Every module once, parents first: [(prefix of its parameters' names, module), ...]. Levels named
// in `transparent`, and those of `module` in the classes `wrappers`, are left out of the names.
Ref walk(PyObject* root, PyObject* transparent, PyObject* wrappers);

// The modules in the order of `Module.apply`, children before parents, each as often as it is a
// child. None where `is_walked(class)` says that a class walks by itself, or an instance does.
Ref post_order(PyObject* root, PyObject* is_walked);

// The children that have an attribute, each once: those whose class may have it, by the function
// `may_have(class)`, and those that have it in their own dictionaries.
Ref children_with(PyObject* module, PyObject* name, PyObject* may_have);

// The parameters of walked modules by their ids.
Ref parameters_by_id(PyObject* modules);

// Names the parameters and buffers of walked modules. Where the class is not Tensor or Parameter
// itself, or the tensor has no ordinary memory, `memory_of(name, tensor)` gives the tensor to name
// or None.
void add_names(Recorder& recorder, PyObject* modules, PyObject* prefix, PyObject* memory_of);

// The ids of the module's parameters that were written since `credited` (by id, the clock), each
// once. Throws KeyError with the name of a parameter that is not in `known`.
Ref written_since(Recorder& recorder, PyObject* root, PyObject* known, PyObject* credited,
                  PyObject* settled);

}  // namespace fastinit

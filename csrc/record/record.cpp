#include "record.h"

#include <vector>

#include "../table/parameters.h"
#include "arguments.h"
#include "fill_now.h"
#include "modules.h"
#include "name.h"
#include "objects.h"
#include "origin.h"
#include "scan.h"

namespace fastinit {
namespace {

// --- the class ----------------------------------------------------------------------------------

PyObject* make(PyTypeObject* kind, PyObject* args, PyObject* named_args) {
  return guarded([&]() -> PyObject* {
    static const char* const names[] = {"keeps_account", "seed", "groups", nullptr};
    int keeps_account;
    unsigned long long seed;
    PyObject* groups = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, named_args, "pKO", const_cast<char**>(names),
                                     &keeps_account, &seed, &groups)) {
      return nullptr;
    }
    Ref self = Ref::owned(kind->tp_alloc(kind, 0));
    auto* const object = reinterpret_cast<RecorderObject*>(self.get());
    object->recorder = new Recorder(keeps_account != 0, seed);
    if (groups != Py_None) object->recorder->groups = Ref::borrowed(groups);
    return self.release();
  });
}

void destroy(PyObject* self) {
  PyObject_GC_UnTrack(self);
  PyTypeObject* const kind = Py_TYPE(self);
  delete reinterpret_cast<RecorderObject*>(self)->recorder;
  kind->tp_free(self);
  Py_DECREF(kind);
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  const Recorder* recorder = reinterpret_cast<RecorderObject*>(self)->recorder;
  return recorder == nullptr
             ? 0
             : recorder->each_reference([&](PyObject* object) { return visit(object, arg); });
}

int clear_references(PyObject* self) {
  delete std::exchange(reinterpret_cast<RecorderObject*>(self)->recorder, new Recorder(false, 0));
  return 0;
}

int is_waiting(PyObject* self) { return of(self).is_waiting(); }

int contains(PyObject* self, PyObject* key) {
  const auto wanted = PyLong_AsUnsignedLongLong(key);
  if (PyErr_Occurred() != nullptr) return -1;
  const Memory* memory = of(self).find(wanted);
  return memory != nullptr && !memory->records.empty();
}

PyObject* get_origin(PyObject* self, void*) {
  return Py_NewRef(of(self).origin_in_force.or_none());
}

int set_origin(PyObject* self, PyObject* value, void*) {
  of(self).origin_in_force = value == nullptr || value == Py_None ? Ref() : Ref::borrowed(value);
  return 0;
}

PyObject* get_has_casts(PyObject* self, void*) { return truth(of(self).has_casts()); }

PyObject* get_clock(PyObject* self, void*) { return number(of(self).clock); }

PyObject* get_prefix(PyObject* self, void*) { return text(of(self).prefix).release(); }

int set_prefix(PyObject* self, PyObject* value, void*) {
  Py_ssize_t size = 0;
  const char* utf8 = PyUnicode_AsUTF8AndSize(value, &size);
  if (utf8 == nullptr) return -1;
  of(self).prefix.assign(utf8, static_cast<std::size_t>(size));
  return 0;
}

PyObject* get_has_launches(PyObject* self, void*) {
  return truth(of(self).has_launches && of(self).is_waiting() && !of(self).is_running);
}

// set_streams(streams): by device, the stream on which fills may wait; others: the default one.
PyObject* get_streams(PyObject* self, void*) {
  return list_of(of(self).streams, [](const Place& place) { return as_python(place).release(); });
}

int set_streams(PyObject* self, PyObject* value, void*) {
  try {
    std::vector<Place> streams;
    const Ref places = Ref::owned(PySequence_Fast(value, "streams must be a sequence"));
    for (Py_ssize_t n = 0; n < PySequence_Fast_GET_SIZE(places.get()); ++n)
      streams.push_back(place_of(PySequence_Fast_GET_ITEM(places.get(), n)));
    of(self).streams = std::move(streams);
  } catch (const PythonError&) {
    return -1;
  }
  return 0;
}

PyObject* get_seed(PyObject* self, void*) { return number(of(self).seed); }

int set_seed(PyObject* self, PyObject* value, void*) {
  try {
    of(self).seed = key_of(value);
  } catch (const PythonError&) {
    return -1;
  }
  return 0;
}

PyGetSetDef attributes[] = {
    {"origin", get_origin, set_origin, nullptr, nullptr},
    {"has_casts", get_has_casts, nullptr, nullptr, nullptr},
    {"has_launches", get_has_launches, nullptr, nullptr, nullptr},
    {"streams", get_streams, set_streams, nullptr, nullptr},
    {"clock", get_clock, nullptr, nullptr, nullptr},
    {"seed", get_seed, set_seed, nullptr, nullptr},
    {"prefix", get_prefix, set_prefix, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

template <class Function>
PyType_Slot slot(int id, Function* function) {
  return {id, reinterpret_cast<void*>(function)};
}

// --- functions ----------------------------------------------------------------------------------

PyObject* walked(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *root, *transparent, *wrappers;
    if (!PyArg_ParseTuple(args, "OOO", &root, &transparent, &wrappers)) return nullptr;
    return walk(root, transparent, wrappers).release();
  });
}

PyObject* in_post_order(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *root, *is_walked;
    if (!PyArg_ParseTuple(args, "OO", &root, &is_walked)) return nullptr;
    Ref found = post_order(root, is_walked);
    return found ? found.release() : none();
  });
}

// versions(value): [(tensor, version), ...] of the tensors of ordinary memory in a value, and of
// those that others are made of.
PyObject* versions(PyObject*, PyObject* value) {
  return guarded([&] {
    Ref found = Ref::owned(PyList_New(0));
    each_part(value, [&](PyObject* tensor, std::uint64_t) {
      const Ref pair = Ref::owned(PyTuple_Pack(2, tensor, torch::version(tensor).get()));
      if (PyList_Append(found.get(), pair.get()) != 0) throw PythonError{};
    });
    return found.release();
  });
}

// has_tensors(value): or Python objects, which may have some.
PyObject* has_tensors(PyObject*, PyObject* value) {
  return guarded([&] {
    bool is_found = false;
    const bool is_inert = each_tensor(value, [&](PyObject*) { is_found = true; });
    return truth(is_found || !is_inert);
  });
}

PyObject* some_children(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *module, *name, *may_have;
    if (!PyArg_ParseTuple(args, "OUO", &module, &name, &may_have)) return nullptr;
    return children_with(module, name, may_have).release();
  });
}

PyObject* all_parameters(PyObject*, PyObject* modules) {
  return guarded([&] { return parameters_by_id(modules).release(); });
}

// has_instances(class, args, kwargs): whether a tensor in them is of the class.
PyObject* has_instances(PyObject*, PyObject* const* given, Py_ssize_t count) {
  return guarded([&]() -> PyObject* {
    if (count != 3) {
      PyErr_SetString(PyExc_TypeError, "has_instances takes three arguments");
      return nullptr;
    }
    bool is_found = false;
    const auto look = [&](PyObject* tensor) {
      if (is_found || torch::is_exact(tensor)) return;
      const int is_one = PyObject_IsInstance(tensor, given[0]);
      if (is_one < 0) throw PythonError{};
      is_found = is_one == 1;
    };
    each_tensor(given[1], look);
    each_tensor(given[2], look);
    return truth(is_found);
  });
}

// is_here(recorder): whether its plan is the one that is open in this thread and context.
PyObject* is_here(PyObject*, PyObject* recorder) {
  return guarded([&] {
    PyObject* value = nullptr;
    if (PyContextVar_Get(open_recorder, nullptr, &value) != 0) throw PythonError{};
    const bool is_same = value == recorder;
    Py_XDECREF(value);
    const Recorder& plan = of(recorder);
    return truth(is_same && plan.is_open && plan.thread == PyThread_get_thread_ident());
  });
}

// either(ours, function, args, kwargs): calls ours while a plan that defers is open in this thread,
// else the function. What ours leaves to torch, it may get back from other libraries' wrappers: a
// call within a call is the function's.
PyObject* either(PyObject*, PyObject* const* given, Py_ssize_t count) {
  thread_local bool is_inside = false;
  if (count != 4) {
    PyErr_SetString(PyExc_TypeError, "either takes four arguments");
    return nullptr;
  }
  try {
    if (is_inside || !here().recorder) return PyObject_Call(given[1], given[2], given[3]);
  } catch (const PythonError&) {
    return nullptr;
  }
  is_inside = true;
  PyObject* const result = PyObject_Call(given[0], given[2], given[3]);
  is_inside = false;
  return result;
}

// shape_of(tensor): None if Python has to look.
PyObject* shape_of(PyObject*, PyObject* tensor) {
  return guarded([&] {
    Facts facts;
    if (!torch::is_exact(tensor) || !torch::facts_of(tensor, facts) || facts.is_meta) return none();
    const auto& g = facts.geometry;
    if (g.ndim == 1 && g.strides[0] == 1) return none();  // may stand for more dimensions
    return shape(g).release();
  });
}

// look_for_flat(value): whether there may be parts of FSDP's flattened parameters.
PyObject* look_for_flat(PyObject*, PyObject* value) {
  may_be_flat = value == Py_True;
  return none();
}

PyObject* enable(PyObject*, PyObject* value) {
  is_enabled = value == Py_True;
  return none();
}

PyObject* bind(PyObject*, PyObject* names) {
  return guarded([&] {
    torch::bind(names);
    return none();
  });
}

PyObject* use(PyObject*, PyObject* args) {
  PyObject *fill, *copy, *cast, *place, *fallback;
  if (!PyArg_ParseTuple(args, "OOOOO", &fill, &copy, &cast, &place, &fallback)) return nullptr;
  classes = {Py_NewRef(fill), Py_NewRef(copy), Py_NewRef(cast), Py_NewRef(place),
             Py_NewRef(fallback)};
  return none();
}

PyObject* valid_parameters(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    int dtype, kind;
    PyObject* given;
    if (!PyArg_ParseTuple(args, "iiO!", &dtype, &kind, &PyTuple_Type, &given)) return nullptr;
    std::array<double, 4> p;
    const bool is_valid = parse_arguments(given, p) &&
                          is_served(static_cast<Kind>(kind), static_cast<DType>(dtype), p);
    return is_valid ? parameters_of(p).release() : none();
  });
}

PyObject* stream(PyObject*, PyObject* name) {
  return guarded([&]() -> PyObject* {
    Py_ssize_t size = 0;
    const char* utf8 = PyUnicode_AsUTF8AndSize(name, &size);
    if (utf8 == nullptr) return nullptr;
    return number(stream_of({utf8, static_cast<std::size_t>(size)}));
  });
}

// watch(list): every table that is filled here appends its number of rows; for tests.
PyObject* watch(PyObject*, PyObject* list) {
  watch_fills(list);
  return none();
}

PyObject* origin_of_call(PyObject*, PyObject*) {
  return guarded([] { return origin().release(); });
}

PyMethodDef functions[] = {
    {"is_here", is_here, METH_O, nullptr},
    {"versions", versions, METH_O, nullptr},
    {"has_tensors", has_tensors, METH_O, nullptr},
    {"has_instances", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(has_instances)),
     METH_FASTCALL, nullptr},
    {"children_with", some_children, METH_VARARGS, nullptr},
    {"parameters_by_id", all_parameters, METH_O, nullptr},
    {"walk", walked, METH_VARARGS, nullptr},
    {"post_order", in_post_order, METH_VARARGS, nullptr},
    {"either", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(either)), METH_FASTCALL,
     nullptr},
    {"shape_of", shape_of, METH_O, nullptr},
    {"enable", enable, METH_O, nullptr},
    {"look_for_flat", look_for_flat, METH_O, nullptr},
    {"bind", bind, METH_O, nullptr},
    {"use", use, METH_VARARGS, nullptr},
    {"watch", watch, METH_O, nullptr},
    {"origin", origin_of_call, METH_NOARGS, nullptr},
    {"valid_parameters", valid_parameters, METH_VARARGS, nullptr},
    {"stream_of", stream, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void add_record(PyObject* module) {
  static std::vector<PyMethodDef> methods;
  for (const PyMethodDef* some : {kMemoryMethods, kWaitingMethods, kExecutionMethods}) {
    for (; some->ml_name != nullptr; ++some) methods.push_back(*some);
  }
  methods.push_back({nullptr, nullptr, 0, nullptr});
  static PyType_Slot slots[] = {slot(Py_tp_new, make),
                                slot(Py_tp_dealloc, destroy),
                                slot(Py_tp_traverse, traverse),
                                slot(Py_tp_clear, clear_references),
                                slot(Py_nb_bool, is_waiting),
                                slot(Py_sq_contains, contains),
                                {Py_tp_methods, methods.data()},
                                {Py_tp_getset, attributes},
                                {0, nullptr}};
  static PyType_Spec spec = {"fastinit._C.Recorder", sizeof(RecorderObject), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
  const Ref type = Ref::owned(PyType_FromSpec(&spec));
  recorder_type = reinterpret_cast<PyTypeObject*>(Py_NewRef(type.get()));
  open_recorder = Ref::owned(PyContextVar_New("fastinit_recorder", nullptr)).release();
  if (PyModule_AddObjectRef(module, "open_recorder", open_recorder) != 0 ||
      PyModule_AddObjectRef(module, "Recorder", type.get()) != 0 ||
      PyModule_AddFunctions(module, functions) != 0 ||
      PyModule_AddFunctions(module, const_cast<PyMethodDef*>(kWriteFunctions)) != 0) {
    throw PythonError{};
  }
}

}  // namespace fastinit

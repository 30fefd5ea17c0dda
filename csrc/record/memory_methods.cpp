// Methods of `Recorder`: what is known of memory, and names.
#include "modules.h"
#include "objects.h"

namespace fastinit {
namespace {

PyObject* allocated(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    of(self).allocated(tensor);
    return none();
  });
}

PyObject* computed(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    Recorder& recorder = of(self);
    recorder.computed(tensor);
    return none();
  });
}

// leave(tensor): it is about to leave its memory, whose names and records stay.
PyObject* leave(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    of(self).leave(tensor);
    return none();
  });
}

// times_written(tensor): how often a write of all of it was asked for.
PyObject* times_written(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    Recorder& recorder = of(self);
    const Memory* memory = recorder.find(torch::storage_key_or_none(tensor));
    Facts facts;
    const bool is_known = memory != nullptr && torch::facts_of(tensor, facts);
    const auto& g = facts.geometry;
    const Asked* const asked = is_known ? memory->asked_at(g.pointer, g.layout()) : nullptr;
    return PyLong_FromUnsignedLong(asked != nullptr ? asked->times : 0);
  });
}

// escaped(tensor): its memory may be read and written unseen, and it may get other memory.
PyObject* escaped(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    Recorder& recorder = of(self);
    Memory& memory = recorder.memory_of(tensor);
    memory.is_escaped = true;
    recorder.keep_alias(tensor);
    return none();
  });
}

// retired(tensor): it is about to get other memory; returns the storage that it has now.
PyObject* retired(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    Recorder& recorder = of(self);
    const auto key = recorder.memory_of(tensor).key;
    recorder.keep_alias(tensor);
    return number(key);
  });
}

// call(function, args, kwargs): calls a function of torch, of which the mode sees nothing.
PyObject* call(PyObject* self, PyObject* args) {
  PyObject *function, *positional, *named;
  if (!PyArg_ParseTuple(args, "OO!O!", &function, &PyTuple_Type, &positional, &PyDict_Type,
                        &named)) {
    return nullptr;
  }
  ++of(self).calls;
  PyObject* const result = PyObject_Call(function, positional, named);
  --of(self).calls;
  return result;
}

PyObject* is_calling(PyObject* self, PyObject*) { return truth(of(self).calls > 0); }

PyObject* hold_no_views(PyObject* self, PyObject*) {
  return guarded([&] {
    of(self).hold_no_views();
    return none();
  });
}

PyObject* written_at(PyObject* self, PyObject* key) {
  return guarded([&] {
    const Memory* memory = of(self).find(key_of(key));
    return number(memory != nullptr ? memory->last_written : 0);
  });
}

PyObject* has_no_values(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    const Memory* memory = of(self).find(torch::storage_key(tensor));
    return truth(memory != nullptr && memory->is_new && memory->asked.empty());
  });
}

PyObject* is_unwritten(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    Recorder& recorder = of(self);
    const Memory* memory = recorder.find(torch::storage_key(tensor));
    if (memory == nullptr || !memory->is_new) return truth(false);
    Facts facts;
    const bool is_known = torch::facts_of(tensor, facts);
    return truth(is_known && recorder.lacks_writes(*memory, facts.geometry));
  });
}

// wrote(tensor): its memory counts as written now.
PyObject* wrote(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    of(self).wrote(tensor);
    return none();
  });
}

// copied(tensor): a copy to it that waited is executed.
PyObject* copied(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    Recorder& recorder = of(self);
    const Facts facts = required_facts(tensor);
    Memory& memory = recorder.memory_of(tensor);
    const bool is_new = memory.is_new && !covers_storage(tensor, facts);
    recorder.computed(memory);
    memory.is_new = is_new;
    return none();
  });
}

// unwritten(): [(name, tensor), ...] of named tensors that are not wholly written.
PyObject* unwritten(PyObject* self, PyObject*) {
  return guarded([&] {
    return list_of(of(self).unwritten(), [&](const Named* n) {
      return PyTuple_Pack(2, text(of(self).name(n->name).text).get(), n->tensor.get());
    });
  });
}

// early_names(): of tensors that were drawn before they had the name.
PyObject* early_names(PyObject* self, PyObject*) {
  return guarded([&] {
    return list_of(of(self).early_names(),
                   [&](const auto& e) { return text(of(self).name(e.name).text).release(); });
  });
}

PyObject* moved(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *old_key, *flat;
    long long distance;
    if (!PyArg_ParseTuple(args, "OOL", &old_key, &flat, &distance)) return nullptr;
    of(self).moved(key_of(old_key), flat, static_cast<std::uint64_t>(distance));
    return none();
  });
}

PyObject* add_name(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    const char* name;
    Py_ssize_t size;
    PyObject *tensor, *owner = nullptr;
    if (!PyArg_ParseTuple(args, "s#O|O", &name, &size, &tensor, &owner)) return nullptr;
    of(self).add_name({name, static_cast<std::size_t>(size)}, tensor, 0, owner);
    return none();
  });
}

std::vector<std::int64_t> sizes_of(PyObject* tuple) {
  std::vector<std::int64_t> found;
  for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(tuple); ++n) {
    found.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, n)));
    if (PyErr_Occurred() != nullptr) throw PythonError{};
  }
  return found;
}

// is_shard(tensor, first, shape): it is the block of a tensor of this shape that begins there.
PyObject* is_shard(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *tensor, *first, *shape;
    if (!PyArg_ParseTuple(args, "OO!O!", &tensor, &PyTuple_Type, &first, &PyTuple_Type, &shape)) {
      return nullptr;
    }
    return truth(of(self).is_shard(tensor, {sizes_of(first), sizes_of(shape)}));
  });
}

PyObject* lent(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *whole, *local;
    if (!PyArg_ParseTuple(args, "OO", &whole, &local)) return nullptr;
    of(self).lent(whole, local);
    return none();
  });
}

PyObject* returned(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *whole, *local;
    if (!PyArg_ParseTuple(args, "OO", &whole, &local)) return nullptr;
    of(self).returned(whole, local);
    return none();
  });
}

PyObject* is_alone(PyObject* self, PyObject* tensors) {
  return guarded([&] {
    const Ref sequence = Ref::owned(PySequence_Fast(tensors, "tensors must be a sequence"));
    PyObject** const first = PySequence_Fast_ITEMS(sequence.get());
    const std::vector<PyObject*> all(first, first + PySequence_Fast_GET_SIZE(sequence.get()));
    const Memory* memory = of(self).find(torch::storage_key(all.at(0)));
    return truth(memory != nullptr && of(self).is_alone(*memory, all));
  });
}

PyObject* forget(PyObject* self, PyObject* key) {
  return guarded([&] {
    if (Memory* memory = of(self).find(key_of(key))) of(self).forget(*memory);
    return none();
  });
}

PyObject* unname(PyObject* self, PyObject* key) {
  return guarded([&] {
    if (Memory* memory = of(self).find(key_of(key))) of(self).unname(*memory);
    return none();
  });
}

PyObject* is_escaped(PyObject* self, PyObject* key) {
  return guarded([&] {
    const Memory* memory = of(self).find(key_of(key));
    return truth(memory != nullptr && memory->is_escaped);
  });
}

PyObject* names(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *modules, *prefix, *memory_of;
    if (!PyArg_ParseTuple(args, "O!UO", &PyList_Type, &modules, &prefix, &memory_of)) {
      return nullptr;
    }
    add_names(of(self), modules, prefix, memory_of);
    return none();
  });
}

PyObject* since(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *root, *known, *credited, *settled;
    if (!PyArg_ParseTuple(args, "OO!O!O!", &root, &PyDict_Type, &known, &PyDict_Type, &credited,
                          &PyDict_Type, &settled)) {
      return nullptr;
    }
    return written_since(of(self), root, known, credited, settled).release();
  });
}

PyObject* follow(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject* tensor;
    unsigned long long old_key;
    if (!PyArg_ParseTuple(args, "OK", &tensor, &old_key)) return nullptr;
    of(self).follow(tensor, old_key);
    return none();
  });
}

PyObject* named(PyObject* self, PyObject* key) {
  return guarded([&] {
    const Memory* memory = of(self).find(key_of(key));
    static const std::vector<Named> nothing;
    return list_of(memory != nullptr ? memory->named : nothing, [&](const Named& n) {
      return PyTuple_Pack(2, text(of(self).name(n.name).text).get(), n.tensor.get());
    });
  });
}

}  // namespace

const PyMethodDef kMemoryMethods[] = {
    {"allocated", allocated, METH_O, nullptr},
    {"computed", computed, METH_O, nullptr},
    {"escaped", escaped, METH_O, nullptr},
    {"leave", leave, METH_O, nullptr},
    {"times_written", times_written, METH_O, nullptr},
    {"retired", retired, METH_O, nullptr},
    {"call", call, METH_VARARGS, nullptr},
    {"is_calling", is_calling, METH_NOARGS, nullptr},
    {"hold_no_views", hold_no_views, METH_NOARGS, nullptr},
    {"written_at", written_at, METH_O, nullptr},
    {"has_no_values", has_no_values, METH_O, nullptr},
    {"is_unwritten", is_unwritten, METH_O, nullptr},
    {"wrote", wrote, METH_O, nullptr},
    {"copied", copied, METH_O, nullptr},
    {"unwritten", unwritten, METH_NOARGS, nullptr},
    {"early_names", early_names, METH_NOARGS, nullptr},
    {"moved", moved, METH_VARARGS, nullptr},
    {"add_name", add_name, METH_VARARGS, nullptr},
    {"is_shard", is_shard, METH_VARARGS, nullptr},
    {"lent", lent, METH_VARARGS, nullptr},
    {"returned", returned, METH_VARARGS, nullptr},
    {"is_alone", is_alone, METH_O, nullptr},
    {"unname", unname, METH_O, nullptr},
    {"forget", forget, METH_O, nullptr},
    {"is_escaped", is_escaped, METH_O, nullptr},
    {"add_names", names, METH_VARARGS, nullptr},
    {"written_since", since, METH_VARARGS, nullptr},
    {"follow", follow, METH_VARARGS, nullptr},
    {"named", named, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace fastinit

// Methods of `Recorder`: what waits.
#include <algorithm>
#include <stdexcept>

#include "objects.h"
#include "scan.h"

namespace fastinit {
namespace {

void add(Recorder& recorder, PyObject* object) {
  PyObject* const tensor = PyTuple_GET_ITEM(object, 0);
  const Facts facts = required_facts(tensor);
  Memory& memory = recorder.memory_of(tensor);
  recorder.add(memory, parsed(recorder, object, facts), facts);
}

// record(fill) notes the write, lets it wait, and returns whether it may.
PyObject* record(PyObject* self, PyObject* object) {
  return guarded([&] {
    Recorder& recorder = of(self);
    PyObject* const tensor = PyTuple_GET_ITEM(object, 0);
    const Facts facts = required_facts(tensor);
    Memory& memory = recorder.memory_of(tensor);
    if (recorder.keeps_account) {
      if (!memory.is_inference) tell_autograd(tensor);
      recorder.asked_for(memory, facts, tensor);
    }
    Record made = parsed(recorder, object, facts);
    const bool is_fill = made.what == What::kFill;
    const Place place = is_fill ? recorder.rule(made.rule).place : Place{};
    recorder.add(memory, std::move(made), facts);
    memory.last_written = ++recorder.clock;
    return truth(may_wait(recorder, memory) && recorder.may_wait(place));
  });
}

// last_fill(tensor): the record that waits last for the tensor's memory, if it fills exactly it.
PyObject* last_fill(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    const Record* last = of(self).last_fill(tensor);
    return last != nullptr ? as_python(of(self), *last).release() : none();
  });
}

// replace_last(fill): puts a fill in the place of `last_fill(fill.tensor)`.
PyObject* replace_last(PyObject* self, PyObject* object) {
  return guarded([&] {
    Recorder& recorder = of(self);
    PyObject* const tensor = PyTuple_GET_ITEM(object, 0);
    const Facts facts = required_facts(tensor);
    Record made = parsed(recorder, object, facts);
    Record* last = recorder.last_fill(tensor);
    if (last == nullptr) throw std::invalid_argument("nothing waits for exactly this tensor");
    made.order = last->order;
    *last = std::move(made);
    Memory& memory = recorder.memory_of(tensor);
    if (recorder.keeps_account && !memory.is_inference) tell_autograd(tensor);
    memory.last_written = ++recorder.clock;
    return none();
  });
}

// may_wait(tensor): whether writes of its memory may be recorded.
PyObject* may_be_recorded(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    Recorder& recorder = of(self);
    return truth(may_wait(recorder, recorder.memory_of(tensor)));
  });
}

PyObject* added(PyObject* self, PyObject* object) {
  return guarded([&] {
    add(of(self), object);
    return none();
  });
}

PyObject* put(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *key, *records;
    if (!PyArg_ParseTuple(args, "OO!", &key, &PyList_Type, &records)) return nullptr;
    if (Memory* memory = of(self).find(key_of(key))) of(self).drop(*memory);
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(records); ++n)
      add(of(self), PyList_GET_ITEM(records, n));
    return none();
  });
}

PyObject* void_(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    Recorder& recorder = of(self);
    Memory* memory = recorder.find(torch::storage_key(tensor));
    Facts facts;
    if (memory != nullptr && !memory->records.empty() && torch::facts_of(tensor, facts)) {
      recorder.drop_covered(*memory, tensor, facts);
    }
    return none();
  });
}

PyObject* waiting_for(PyObject* self, PyObject* key) {
  return guarded([&] {
    const Memory* memory = of(self).find(key_of(key));
    static const std::vector<Record> nothing;
    return records_of(of(self), memory != nullptr ? memory->records : nothing);
  });
}

PyObject* pop(PyObject* self, PyObject* key) {
  return guarded([&] {
    Memory* memory = of(self).find(key_of(key));
    if (memory == nullptr) return PyList_New(0);
    Ref found = Ref::owned(records_of(of(self), memory->records));
    of(self).drop(*memory);
    return found.release();
  });
}

// has_unnamed(): whether memory waits in which no tensor has a name.
PyObject* has_unnamed(PyObject* self, PyObject*) {
  return guarded([&] {
    const auto all = of(self).waiting();
    return truth(std::any_of(all.begin(), all.end(),
                             [](const Memory* memory) { return memory->named.empty(); }));
  });
}

PyObject* storages(PyObject* self, PyObject*) {
  return guarded(
      [&] { return list_of(of(self).waiting(), [](const Memory* m) { return number(m->key); }); });
}

// waiting_in(value): the storages, of the tensors in a value of lists, tuples and dictionaries,
// that writes or casts from them wait for; None if it is not known what a tensor is made of.
PyObject* waiting_in(PyObject* self, PyObject* value) {
  return guarded([&] {
    Ref found = Ref::owned(PyList_New(0));
    const bool is_known = each_part(value, [&](PyObject*, std::uint64_t key) {
      const Memory* memory = of(self).find(key);
      if (memory == nullptr) return;
      if (memory->records.empty() && of(self).casts_from(*memory).empty() &&
          of(self).meeting(*memory).empty()) {
        return;
      }
      const Ref item = Ref::owned(number(key));
      if (PyList_Append(found.get(), item.get()) != 0) throw PythonError{};
    });
    return is_known ? found.release() : none();
  });
}

PyObject* cast_to(PyObject* self, PyObject* key) {
  return guarded([&] {
    const Memory* memory = of(self).find(key_of(key));
    const Record* cast = memory != nullptr ? of(self).cast_to(*memory) : nullptr;
    return cast != nullptr ? Py_NewRef(cast->object.get()) : none();
  });
}

PyObject* awaiting(PyObject* self, PyObject* key) {
  return guarded([&] {
    const Memory* memory = of(self).find(key_of(key));
    return list_of(memory != nullptr ? of(self).casts_from(*memory) : std::vector<Memory*>{},
                   [](const Memory* m) { return number(m->key); });
  });
}

PyObject* pop_casts_from(PyObject* self, PyObject* key) {
  return guarded([&] {
    const Memory* memory = of(self).find(key_of(key));
    return list_of(memory != nullptr ? of(self).casts_from(*memory) : std::vector<Memory*>{},
                   [&](Memory* m) { return of(self).pop_first(*m).object.release(); });
  });
}

PyObject* is_orphan(PyObject* self, PyObject* key) {
  return guarded([&] {
    const Memory* memory = of(self).find(key_of(key));
    return truth(memory != nullptr && of(self).is_orphan(*memory));
  });
}

PyObject* clear(PyObject* self, PyObject*) {
  return guarded([&] {
    for (Memory* memory : of(self).waiting()) of(self).drop(*memory);
    return none();
  });
}

}  // namespace

const PyMethodDef kWaitingMethods[] = {
    {"record", record, METH_O, nullptr},
    {"last_fill", last_fill, METH_O, nullptr},
    {"replace_last", replace_last, METH_O, nullptr},
    {"may_wait", may_be_recorded, METH_O, nullptr},
    {"add", added, METH_O, nullptr},
    {"put", put, METH_VARARGS, nullptr},
    {"void", void_, METH_O, nullptr},
    {"of", waiting_for, METH_O, nullptr},
    {"pop", pop, METH_O, nullptr},
    {"storages", storages, METH_NOARGS, nullptr},
    {"has_unnamed", has_unnamed, METH_NOARGS, nullptr},
    {"waiting_in", waiting_in, METH_O, nullptr},
    {"cast_to", cast_to, METH_O, nullptr},
    {"awaiting", awaiting, METH_O, nullptr},
    {"pop_casts_from", pop_casts_from, METH_O, nullptr},
    {"is_orphan", is_orphan, METH_O, nullptr},
    {"clear", clear, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace fastinit

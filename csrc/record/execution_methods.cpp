// Methods of `Recorder`: execution, and what was drawn.
#include <algorithm>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "execution.h"
#include "objects.h"

namespace fastinit {
namespace {

std::vector<Memory*> memories_of(Recorder& recorder, PyObject* keys) {
  std::vector<Memory*> found;
  std::unordered_set<Memory*> known;
  const Ref sequence = Ref::owned(PySequence_Fast(keys, "storages must be a sequence"));
  for (Py_ssize_t n = 0; n < PySequence_Fast_GET_SIZE(sequence.get()); ++n) {
    Memory* memory = recorder.find(key_of(PySequence_Fast_GET_ITEM(sequence.get(), n)));
    if (memory == nullptr) continue;
    if (known.insert(memory).second) found.push_back(memory);
    for (Memory* other : recorder.meeting(*memory)) {
      if (known.insert(other).second) found.push_back(other);
    }
  }
  return found;
}

void run(Recorder& recorder, const std::vector<Memory*>& memories, PyObject* copy,
         PyObject* launch) {
  Execution execution(recorder, memories);
  execution.draw();
  execution.run(
      [copy, &recorder](const Record& record) {
        const bool is_fill = record.what == What::kFill;
        const Ref told = is_fill ? as_python(recorder, record) : record.object;
        Ref::owned(PyObject_CallOneArg(copy, told.get()));
      },
      [launch](const Place& place, std::vector<Segment>&& rows) {
        Ref::owned(PyObject_CallFunctionObjArgs(launch, as_python(place).get(),
                                                in_capsule(std::move(rows)).get(), nullptr));
      });
}

PyObject* execute(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *keys, *copy, *launch;
    if (!PyArg_ParseTuple(args, "OOO", &keys, &copy, &launch)) return nullptr;
    run(of(self), memories_of(of(self), keys), copy, launch);
    return none();
  });
}

// finish(copy, launch): executes all but what no code holds any more, which is dropped.
PyObject* finish(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *copy, *launch;
    if (!PyArg_ParseTuple(args, "OO", &copy, &launch)) return nullptr;
    Recorder& recorder = of(self);
    std::vector<Memory*> held;
    for (Memory* memory : recorder.waiting()) {
      if (recorder.is_orphan(*memory)) {
        recorder.drop(*memory);
      } else {
        held.push_back(memory);
      }
    }
    run(recorder, held, copy, launch);
    return none();
  });
}

// closed(): no more writes are recorded.
PyObject* closed(PyObject* self, PyObject*) {
  return guarded([&] {
    of(self).give_up();
    return none();
  });
}

// book(keys): draws what waits for the storages without executing it, and drops it.
PyObject* book(PyObject* self, PyObject* keys) {
  return guarded([&] {
    Recorder& recorder = of(self);
    const auto memories = memories_of(recorder, keys);
    Execution execution(recorder, memories);
    execution.draw();
    execution.book();
    execution.remove_booked();
    execution.throw_kept();
    return none();
  });
}

PyObject* drawn_of(const Recorder& recorder, const Name& name, const Drawn& drawn) {
  const Rule& rule = recorder.rule(drawn.rule);
  const Drawn::Part* const part = drawn.part.get();
  const std::size_t ndim = drawn.is_whole() ? 0 : part->taken.box.size();
  const Ref box = drawn.is_whole() ? Ref::borrowed(Py_None)
                                   : Ref::owned(PyTuple_New(static_cast<Py_ssize_t>(ndim)));
  for (std::size_t d = 0; d < ndim; ++d) {
    const auto [size, step] = part->taken.box[d];
    const Ref pair = Ref::owned(Py_BuildValue("(LL)", size, step));
    PyTuple_SET_ITEM(box.get(), static_cast<Py_ssize_t>(d), Py_NewRef(pair.get()));
  }
  const Ref stream = text(name.label(drawn.draw));
  const Ref tail = rule.tail ? rule.tail : Ref::owned(PyTuple_New(0));
  const auto& parameters = part != nullptr ? part->parameters : rule.parameters;
  return Py_BuildValue("(iOOKLOOO)", rule.kind, parameters_of(parameters).get(), stream.get(),
                       recorder.seed_of(rule), part != nullptr ? part->taken.start : 0, box.get(),
                       origin_of(rule).get(), tail.get());
}

Ref described(const std::vector<std::int64_t>& sizes, int dtype) {
  return Ref::owned(Py_BuildValue("(Oi)", tuple_of(sizes).get(), dtype));
}

// entries(): [(name, tensor | (shape, dtype), aliases, status, drawn, writes), ...]
PyObject* entries(PyObject* self, PyObject*) {
  return guarded([&] {
    Recorder& recorder = of(self);
    return recorder.preview([&](const std::vector<Recorder::Seen>& seen) {
      return list_of(seen, [&](const Recorder::Seen& entry) -> PyObject* {
        const Name& name = recorder.name(entry.name);
        const Ref aliases = Ref::owned(list_of(
            entry.aliases, [&](std::uint32_t n) { return text(recorder.name(n).text).release(); }));
        static const std::vector<Drawn> nothing;
        const auto& all = entry.is_computed ? nothing : name.drawn;
        const Ref drawn =
            Ref::owned(list_of(all, [&](const Drawn& d) { return drawn_of(recorder, name, d); }));
        Ref what = entry.tensor;
        if (!what) what = described(entry.unnamed->shape, entry.unnamed->dtype);
        if (entry.region != nullptr) {
          const Facts facts = required_facts(entry.tensor.get());
          what = described(entry.region->shape, facts.dtype);
        }
        return Py_BuildValue("(OOOsOI)", text(name.text).get(), what.get(), aliases.get(),
                             entry.status, drawn.get(), entry.times);
      });
    });
  });
}

// order_dependent(): (name, shape, origin) of tensors for which random values were or will be drawn
// without a name; the name is the one that the tensor got later, or "#n".
PyObject* order_dependent(PyObject* self, PyObject*) {
  return guarded([&] {
    Recorder& recorder = of(self);
    return recorder.preview([&](const std::vector<Recorder::Seen>&) {
      std::unordered_map<std::uint32_t, std::uint32_t> later;
      for (const auto& early : recorder.early_names()) later.emplace(early.drawn_as, early.name);
      Ref found = Ref::owned(PyList_New(0));
      for (const Unnamed* unnamed : recorder.unnamed()) {
        const auto& drawn = recorder.name(unnamed->name).drawn;
        const auto random = std::find_if(drawn.begin(), drawn.end(), [&](const Drawn& d) {
          return recorder.rule(d.rule).kind != static_cast<int>(Kind::kConstant);
        });
        if (random == drawn.end()) continue;
        const auto named = later.find(unnamed->name);
        const auto name = named == later.end() ? unnamed->name : named->second;
        const Ref told = Ref::owned(PyTuple_Pack(3, text(recorder.name(name).text).get(),
                                                 tuple_of(unnamed->shape).get(),
                                                 origin_of(recorder.rule(random->rule)).get()));
        if (PyList_Append(found.get(), told.get()) != 0) throw PythonError{};
      }
      return found.release();
    });
  });
}

}  // namespace

const PyMethodDef kExecutionMethods[] = {
    {"execute", execute, METH_VARARGS, nullptr},
    {"finish", finish, METH_VARARGS, nullptr},
    {"closed", closed, METH_NOARGS, nullptr},
    {"book", book, METH_O, nullptr},
    {"order_dependent", order_dependent, METH_NOARGS, nullptr},
    {"entries", entries, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace fastinit

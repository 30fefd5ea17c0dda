#include "record.h"

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <unordered_set>

#include "../stream/floating_point.h"
#include "../table/parameters.h"
#include "arguments.h"
#include "execution.h"
#include "fill_now.h"
#include "guarded.h"
#include "modules.h"
#include "name.h"
#include "origin.h"
#include "recorder.h"
#include "scan.h"

namespace fastinit {
namespace {

struct Object {
  PyObject_HEAD Recorder* recorder;
};

// Python's classes of records, and where a call goes that is not served here.
struct Classes {
  PyObject *fill = nullptr, *copy = nullptr, *cast = nullptr, *write = nullptr;
};
Classes classes;
PyTypeObject* type = nullptr;

// The plan that is open in this thread.
thread_local PyObject* current = nullptr;  // a recorder, or Py_False for a plan without one
bool is_enabled = false;                   // whether the native backend is in use

Recorder& of(PyObject* self) { return *reinterpret_cast<Object*>(self)->recorder; }

std::uint64_t key_of(PyObject* number) {
  const auto key = PyLong_AsUnsignedLongLong(number);
  if (key == static_cast<unsigned long long>(-1) && PyErr_Occurred() != nullptr) {
    throw PythonError{};
  }
  return key;
}

PyObject* number(std::uint64_t key) { return PyLong_FromUnsignedLongLong(key); }

PyObject* none() { return Py_NewRef(Py_None); }

PyObject* truth(bool value) { return PyBool_FromLong(value); }

template <class Items, class Make>
PyObject* list_of(const Items& items, const Make& make) {
  Ref list = Ref::owned(PyList_New(0));
  for (const auto& item : items) {
    const Ref made = Ref::owned(make(item));
    if (PyList_Append(list.get(), made.get()) != 0) throw PythonError{};
  }
  return list.release();
}

Ref text(std::string_view s) {
  return Ref::owned(PyUnicode_FromStringAndSize(s.data(), static_cast<Py_ssize_t>(s.size())));
}

Ref shape(const Geometry& g) {
  const Ref tuple = Ref::owned(PyTuple_New(g.ndim));
  for (int d = 0; d < g.ndim; ++d)
    PyTuple_SET_ITEM(tuple.get(), d, Ref::owned(PyLong_FromLongLong(g.shape[d])).release());
  return tuple;
}

Ref parameters_of(const std::array<double, 4>& p) {
  return Ref::owned(Py_BuildValue("(dddd)", p[0], p[1], p[2], p[3]));
}

// --- records from Python, and back --------------------------------------------------------------

// A record of Python's: Fill(tensor, kind, parameters, seed, place, origin, fan_rule, tail, chain),
// Copy(tensor, source) or Cast(tensor, source).
Record parsed(Recorder& recorder, PyObject* object, const Facts& facts) {
  const auto item = [object](Py_ssize_t n) { return PyTuple_GET_ITEM(object, n); };
  Record record{};
  record.tensor = Ref::borrowed(item(0));
  record.pointer = facts.geometry.pointer;
  record.layout = facts.geometry.layout();
  if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != classes.fill) {
    const bool is_cast = reinterpret_cast<PyObject*>(Py_TYPE(object)) == classes.cast;
    record.what = is_cast ? What::kCast : What::kCopy;
    record.object = Ref::borrowed(object);
    return record;
  }
  Rule rule{};
  rule.kind = static_cast<int>(PyLong_AsLong(item(1)));
  if (!parse_arguments(item(2), rule.parameters)) {
    PyErr_SetString(PyExc_TypeError, "the parameters of a fill must be numbers");
    throw PythonError{};
  }
  if (item(3) != Py_None) {
    rule.has_seed = true;
    rule.seed = key_of(item(3));
  }
  if (item(4) != Py_None) rule.place = recorder.canonical_place(item(4));
  rule.origin = Ref::borrowed(item(5));
  if (item(6) != Py_None && recorder.groups) rule.fan_rule = Ref::borrowed(item(6));
  if (PyTuple_GET_SIZE(item(7)) > 0) rule.tail = Ref::borrowed(item(7));
  if (item(8) != Py_None) rule.chain = Ref::borrowed(item(8));
  record.what = What::kFill;
  record.rule = recorder.intern(std::move(rule));
  return record;
}

Ref as_python(const Recorder& recorder, const Record& record) {
  if (record.object) return record.object;
  const Rule& rule = recorder.rule(record.rule);
  const Ref seed = rule.has_seed ? Ref::owned(number(rule.seed)) : Ref::borrowed(Py_None);
  const Ref origin = rule.origin ? rule.origin : text("");
  const Ref tail = rule.tail ? rule.tail : Ref::owned(PyTuple_New(0));
  return Ref::owned(PyObject_CallFunction(
      classes.fill, "OiOOOOOOO", record.tensor.get(), rule.kind,
      parameters_of(rule.parameters).get(), seed.get(), rule.place.or_none(), origin.get(),
      rule.fan_rule.or_none(), tail.get(), rule.chain.or_none()));
}

PyObject* records_of(const Recorder& recorder, const std::vector<Record>& records) {
  return list_of(records, [&](const Record& r) { return as_python(recorder, r).release(); });
}

Facts required_facts(const Recorder& recorder, PyObject* tensor) {
  Facts facts;
  if (!torch::facts_of(tensor, facts, recorder.is_dry)) {
    PyErr_SetString(PyExc_ValueError, "the tensor has no ordinary memory");
    throw PythonError{};
  }
  return facts;
}

void add(Recorder& recorder, PyObject* object) {
  PyObject* const tensor = PyTuple_GET_ITEM(object, 0);
  const Facts facts = required_facts(recorder, tensor);
  Memory& memory = recorder.memory_of(tensor);
  recorder.add(memory, parsed(recorder, object, facts), facts);
}

bool may_wait(const Recorder& recorder, const Memory& memory) {
  if (memory.is_escaped) return false;
  if (!recorder.keeps_account) return !memory.named.empty();
  return memory.is_resizable;  // other memory, NumPy's for example, may be read unseen
}

void tell_autograd(PyObject* tensor) {
  const Ref one = Ref::owned(PyTuple_Pack(1, tensor));
  torch::increment_versions(one.get());
}

// --- methods: memory and names ------------------------------------------------------------------

PyObject* allocated(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    of(self).allocated(tensor);
    return none();
  });
}

PyObject* computed(PyObject* self, PyObject* tensor) {
  return guarded([&] {
    Recorder& recorder = of(self);
    Memory* memory = recorder.find(torch::storage_key(tensor));
    if (memory == nullptr) memory = &recorder.memory_of(tensor);
    recorder.computed(*memory);
    return none();
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
    const bool is_known = torch::facts_of(tensor, facts, recorder.is_dry);
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
    const Facts facts = required_facts(recorder, tensor);
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
                   [&](std::uint32_t n) { return text(of(self).name(n).text).release(); });
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

PyObject* took_over(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    unsigned long long to, from;
    if (!PyArg_ParseTuple(args, "KK", &to, &from)) return nullptr;
    Memory *target = of(self).find(to), *source = of(self).find(from);
    if (target != nullptr && source != nullptr) of(self).took_over(*target, *source);
    return none();
  });
}

PyObject* add_name(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    const char* name;
    Py_ssize_t size;
    PyObject* tensor;
    if (!PyArg_ParseTuple(args, "s#O", &name, &size, &tensor)) return nullptr;
    of(self).add_name({name, static_cast<std::size_t>(size)}, tensor);
    return none();
  });
}

PyObject* names(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *modules, *prefix, *is_strided;
    if (!PyArg_ParseTuple(args, "O!UO", &PyList_Type, &modules, &prefix, &is_strided)) {
      return nullptr;
    }
    add_names(of(self), modules, prefix, is_strided);
    return none();
  });
}

PyObject* since(PyObject* self, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *root, *known, *credited;
    if (!PyArg_ParseTuple(args, "OO!O!", &root, &PyDict_Type, &known, &PyDict_Type, &credited)) {
      return nullptr;
    }
    return written_since(of(self), root, known, credited).release();
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

// --- methods: what waits ------------------------------------------------------------------------

// record(fill) notes the write, lets it wait, and returns whether it may.
PyObject* record(PyObject* self, PyObject* object) {
  return guarded([&] {
    Recorder& recorder = of(self);
    PyObject* const tensor = PyTuple_GET_ITEM(object, 0);
    const Facts facts = required_facts(recorder, tensor);
    Memory& memory = recorder.memory_of(tensor);
    if (recorder.keeps_account) {
      if (!memory.is_inference) tell_autograd(tensor);
      recorder.asked_for(memory, facts, tensor);
    }
    recorder.add(memory, parsed(recorder, object, facts), facts);
    memory.last_written = ++recorder.clock;
    return truth(may_wait(recorder, memory));
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
    const Facts facts = required_facts(recorder, tensor);
    Record made = parsed(recorder, object, facts);
    Record* last = recorder.last_fill(tensor);
    if (last == nullptr) throw std::invalid_argument("nothing waits for exactly this tensor");
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
    if (memory != nullptr && !memory->records.empty()) {
      recorder.drop_covered(*memory, tensor, required_facts(recorder, tensor));
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

PyObject* storages(PyObject* self, PyObject*) {
  return guarded(
      [&] { return list_of(of(self).waiting(), [](const Memory* m) { return number(m->key); }); });
}

std::vector<Memory*> casts_from(Recorder& recorder, std::uint64_t key) {
  std::vector<Memory*> found;
  Memory* source = recorder.find(key);
  if (source == nullptr) return found;
  for (const std::uint64_t target : source->cast_targets) {
    Memory* memory = recorder.find(target);
    const Record* cast = memory != nullptr ? recorder.cast_to(*memory) : nullptr;
    if (cast != nullptr && torch::storage_key(PyTuple_GET_ITEM(cast->object.get(), 1)) == key) {
      found.push_back(memory);
    }
  }
  return found;
}

// waiting_in(value): the storages, of the tensors in a value of lists, tuples and dictionaries,
// that writes or casts from them wait for; None if one of the tensors has no storage to tell.
PyObject* waiting_in(PyObject* self, PyObject* value) {
  return guarded([&] {
    Ref found = Ref::owned(PyList_New(0));
    bool is_known = true;
    each_tensor(value, [&](PyObject* tensor) {
      const auto key = torch::storage_key_or_none(tensor);
      is_known = is_known && key != 0;
      const Memory* memory = of(self).find(key);
      if (memory == nullptr) return;
      if (memory->records.empty() && casts_from(of(self), key).empty()) return;
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
    return list_of(casts_from(of(self), key_of(key)),
                   [](const Memory* m) { return number(m->key); });
  });
}

PyObject* pop_casts_from(PyObject* self, PyObject* key) {
  return guarded([&] {
    return list_of(casts_from(of(self), key_of(key)),
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

// --- methods: execution -------------------------------------------------------------------------

std::vector<Memory*> memories_of(Recorder& recorder, PyObject* keys) {
  std::vector<Memory*> found;
  std::unordered_set<Memory*> known;
  const Ref sequence = Ref::owned(PySequence_Fast(keys, "storages must be a sequence"));
  for (Py_ssize_t n = 0; n < PySequence_Fast_GET_SIZE(sequence.get()); ++n) {
    Memory* memory = recorder.find(key_of(PySequence_Fast_GET_ITEM(sequence.get(), n)));
    if (memory != nullptr && known.insert(memory).second) found.push_back(memory);
  }
  return found;
}

void run(Recorder& recorder, const std::vector<Memory*>& memories, PyObject* copy,
         PyObject* launch) {
  Execution execution(recorder, memories);
  execution.draw();
  execution.run(
      [copy, &recorder](Memory& memory, const Record& record) {
        const Ref key = Ref::owned(number(memory.key));
        const bool is_fill = record.what == What::kFill;
        const Ref told = is_fill ? as_python(recorder, record) : record.object;
        Ref::owned(PyObject_CallFunctionObjArgs(copy, key.get(), told.get(), nullptr));
      },
      [launch](PyObject* place, PyObject* rows) {
        Ref::owned(PyObject_CallFunctionObjArgs(launch, place, rows, nullptr));
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
  const Ref box = drawn.is_part ? Ref::owned(PyTuple_New(static_cast<Py_ssize_t>(drawn.box.size())))
                                : Ref::borrowed(Py_None);
  for (std::size_t d = 0; d < drawn.box.size() && drawn.is_part; ++d) {
    const auto [size, step] = drawn.box[d];
    const Ref pair = Ref::owned(Py_BuildValue("(LL)", size, step));
    PyTuple_SET_ITEM(box.get(), static_cast<Py_ssize_t>(d), Py_NewRef(pair.get()));
  }
  const Ref stream =
      text(drawn.draw == 0 ? name.text : name.text + "@" + std::to_string(drawn.draw));
  const Ref origin = rule.origin ? rule.origin : text("");
  const Ref tail = rule.tail ? rule.tail : Ref::owned(PyTuple_New(0));
  return Py_BuildValue("(iOOKLOOO)", rule.kind, parameters_of(drawn.parameters).get(), stream.get(),
                       drawn.seed, drawn.start, box.get(), origin.get(), tail.get());
}

// entries(with_pending): [(name, tensor | (shape, dtype), aliases, status, drawn, writes), ...]
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
        if (!what) {
          const Ref shape = Ref::owned(
              list_of(entry.unnamed->shape, [](std::int64_t n) { return PyLong_FromLongLong(n); }));
          const Ref tuple = Ref::owned(PyList_AsTuple(shape.get()));
          what = Ref::owned(Py_BuildValue("(Oi)", tuple.get(), entry.unnamed->dtype));
        }
        return Py_BuildValue("(OOOsOI)", text(name.text).get(), what.get(), aliases.get(),
                             entry.status, drawn.get(), entry.times);
      });
    });
  });
}

// order_dependent(): names "#n" that random values were or will be drawn from.
PyObject* order_dependent(PyObject* self, PyObject*) {
  return guarded([&] {
    Recorder& recorder = of(self);
    return recorder.preview([&](const std::vector<Recorder::Seen>&) {
      std::vector<std::uint32_t> found;
      for (const std::uint32_t n : recorder.unnamed()) {
        const auto& drawn = recorder.name(n).drawn;
        if (std::any_of(drawn.begin(), drawn.end(), [&](const Drawn& d) {
              return recorder.rule(d.rule).kind != static_cast<int>(Kind::kConstant);
            })) {
          found.push_back(n);
        }
      }
      return list_of(found, [&](std::uint32_t n) { return text(recorder.name(n).text).release(); });
    });
  });
}

// --- the class ----------------------------------------------------------------------------------

PyObject* make(PyTypeObject* kind, PyObject* args, PyObject* named_args) {
  return guarded([&]() -> PyObject* {
    static const char* const names[] = {"keeps_account", "is_dry", "seed", "groups", nullptr};
    int keeps_account, is_dry;
    unsigned long long seed;
    PyObject* groups = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, named_args, "ppKO", const_cast<char**>(names),
                                     &keeps_account, &is_dry, &seed, &groups)) {
      return nullptr;
    }
    Ref self = Ref::owned(kind->tp_alloc(kind, 0));
    auto* const object = reinterpret_cast<Object*>(self.get());
    object->recorder = new Recorder(keeps_account != 0, is_dry != 0, seed);
    if (groups != Py_None) object->recorder->groups = Ref::borrowed(groups);
    return self.release();
  });
}

void destroy(PyObject* self) {
  PyObject_GC_UnTrack(self);
  PyTypeObject* const kind = Py_TYPE(self);
  delete reinterpret_cast<Object*>(self)->recorder;
  kind->tp_free(self);
  Py_DECREF(kind);
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  const Recorder* recorder = reinterpret_cast<Object*>(self)->recorder;
  return recorder == nullptr
             ? 0
             : recorder->each_reference([&](PyObject* object) { return visit(object, arg); });
}

int clear_references(PyObject* self) {
  delete std::exchange(reinterpret_cast<Object*>(self)->recorder, new Recorder(false, false, 0));
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

PyMethodDef methods[] = {
    {"allocated", allocated, METH_O, nullptr},
    {"computed", computed, METH_O, nullptr},
    {"escaped", escaped, METH_O, nullptr},
    {"retired", retired, METH_O, nullptr},
    {"written_at", written_at, METH_O, nullptr},
    {"has_no_values", has_no_values, METH_O, nullptr},
    {"is_unwritten", is_unwritten, METH_O, nullptr},
    {"wrote", wrote, METH_O, nullptr},
    {"copied", copied, METH_O, nullptr},
    {"unwritten", unwritten, METH_NOARGS, nullptr},
    {"early_names", early_names, METH_NOARGS, nullptr},
    {"moved", moved, METH_VARARGS, nullptr},
    {"took_over", took_over, METH_VARARGS, nullptr},
    {"add_name", add_name, METH_VARARGS, nullptr},
    {"add_names", names, METH_VARARGS, nullptr},
    {"written_since", since, METH_VARARGS, nullptr},
    {"follow", follow, METH_VARARGS, nullptr},
    {"named", named, METH_O, nullptr},
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
    {"waiting_in", waiting_in, METH_O, nullptr},
    {"cast_to", cast_to, METH_O, nullptr},
    {"awaiting", awaiting, METH_O, nullptr},
    {"pop_casts_from", pop_casts_from, METH_O, nullptr},
    {"is_orphan", is_orphan, METH_O, nullptr},
    {"clear", clear, METH_NOARGS, nullptr},
    {"execute", execute, METH_VARARGS, nullptr},
    {"finish", finish, METH_VARARGS, nullptr},
    {"closed", closed, METH_NOARGS, nullptr},
    {"book", book, METH_O, nullptr},
    {"order_dependent", order_dependent, METH_NOARGS, nullptr},
    {"entries", entries, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"origin", get_origin, set_origin, nullptr, nullptr},
    {"has_casts", get_has_casts, nullptr, nullptr, nullptr},
    {"clock", get_clock, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

template <class Function>
PyType_Slot slot(int id, Function* function) {
  return {id, reinterpret_cast<void*>(function)};
}

// --- write --------------------------------------------------------------------------------------

// The memory of a tensor whose fills may wait in a plan; null: Python has to look.
Memory* memory_that_waits(Recorder& recorder, PyObject* tensor) {
  if (recorder.is_dry) return nullptr;
  Memory& memory = recorder.memory_of(tensor);
  if (memory.is_inference || !memory.cast_targets.empty()) return nullptr;
  return may_wait(recorder, memory) ? &memory : nullptr;
}

void record_fill(Recorder& recorder, Memory& memory, PyObject* tensor, const Facts& facts,
                 std::uint32_t rule) {
  if (recorder.keeps_account) {
    tell_autograd(tensor);
    recorder.asked_for(memory, facts, tensor);
  }
  const auto& g = facts.geometry;
  recorder.add(memory, {Ref::borrowed(tensor), Ref(), g.pointer, g.layout(), rule, What::kFill},
               facts);
  memory.last_written = ++recorder.clock;
}

std::uint32_t rule_of(Recorder& recorder, int kind, const std::array<double, 4>& parameters,
                      PyObject* fan_rule) {
  Rule rule{};
  rule.kind = kind;
  rule.parameters = parameters;
  if (recorder.keeps_account) {
    rule.origin = recorder.origin_in_force ? recorder.origin_in_force : origin();
  }
  if (recorder.groups && fan_rule != Py_None) rule.fan_rule = Ref::borrowed(fan_rule);
  return recorder.intern(std::move(rule));
}

bool is_served_here(PyObject* tensor, Facts& facts) {
  return torch::is_exact(tensor) && torch::facts_of(tensor, facts) &&
         torch::is_surely_served(tensor, facts);
}

bool takes(const Facts& facts, int kind, const std::array<double, 4>& parameters) {
  return is_served(static_cast<Kind>(kind), static_cast<DType>(facts.dtype), parameters);
}

// Fills a tensor that belongs to no plan. False: Python has to look.
bool fill_alone(PyObject* tensor, const Facts& facts, int kind,
                const std::array<double, 4>& parameters) {
  if (torch::is_inference(tensor)) return false;
  static const std::uint64_t stream = stream_of("#0");  // on its own it has no name
  Request request{kind, facts.dtype, facts.geometry.pointer, 0, stream, 0, {}, parameters};
  if (static_cast<Kind>(kind) != Kind::kConstant) request.seed = torch::draw_seed();
  const Box box = own_box(facts.geometry);
  request.box.assign(box.dims, box.dims + box.ndim);
  const std::vector<Segment> table{make_segment(request)};
  tell_autograd(tensor);  // first: Ctrl-C may end the fill anywhere
  fill_now(table);
  return true;
}

enum class Done { kHere, kByTorch, kInPython };

// Fills the tensor now, or lets the fill wait in the open plan, unless it is torch's or Python has
// to look.
Done written(PyObject* tensor, int kind, PyObject* given, PyObject* fan_rule) {
  if (!is_enabled || current == Py_False || !torch::is_exact(tensor)) return Done::kInPython;
  const bool is_dry = current != nullptr && of(current).is_dry;
  const DefaultFloatingPoint environment;
  Facts facts;
  std::array<double, 4> parameters;
  if (is_dry || !torch::facts_of(tensor, facts)) return Done::kInPython;
  if (facts.is_cpu && facts.dtype < 0) return Done::kByTorch;
  if (!torch::is_surely_served(tensor, facts) || !parse_arguments(given, parameters) ||
      !takes(facts, kind, parameters)) {
    return Done::kInPython;
  }
  if (current == nullptr) {
    return fill_alone(tensor, facts, kind, parameters) ? Done::kHere : Done::kInPython;
  }
  Recorder& recorder = of(current);
  Memory* const memory = memory_that_waits(recorder, tensor);
  if (memory == nullptr) return Done::kInPython;
  record_fill(recorder, *memory, tensor, facts, rule_of(recorder, kind, parameters, fan_rule));
  return Done::kHere;
}

// write(tensor, kind, parameters, generator=None, fan_rule=None), see plan/write.py.
PyObject* write(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> PyObject* {
    if (count < 3 || count > 5) {
      PyErr_SetString(PyExc_TypeError, "write takes three to five arguments");
      return nullptr;
    }
    PyObject* const generator = count > 3 ? args[3] : Py_None;
    PyObject* const fan_rule = count > 4 ? args[4] : Py_None;
    if (generator == Py_None) {
      const long kind = PyLong_AsLong(args[1]);
      if (kind == -1 && PyErr_Occurred() != nullptr) return nullptr;
      const Done done = written(args[0], static_cast<int>(kind), args[2], fan_rule);
      if (done != Done::kInPython) return truth(done == Done::kHere);
    }
    return PyObject_Vectorcall(classes.write, args, static_cast<std::size_t>(count), nullptr);
  });
}

// --- layers -------------------------------------------------------------------------------------

// A parameter of a module by its name: null if there is none, or it is None. `is_known` is false
// where Python has to look.
PyObject* own(PyObject* module, PyObject* parameters, PyObject* name, bool& is_known) {
  PyObject* const found = PyDict_GetItemWithError(parameters, name);
  if (found != nullptr) return found != Py_None ? found : nullptr;
  if (PyErr_Occurred() != nullptr) throw PythonError{};
  PyObject* const other = PyObject_GetAttr(module, name);
  if (other == nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw PythonError{};
    PyErr_Clear();
    return nullptr;
  }
  is_known = other == Py_None;
  Py_DECREF(other);
  return nullptr;
}

// The law of a rule's weights: parameters, or a fan rule that gives them for a shape.
class Law {
 public:
  Law(int kind, PyObject* parameters, PyObject* fan_rule) : kind_(kind), fan_rule_(fan_rule) {
    is_known_ = fan_rule == Py_None && parse_arguments(parameters, parameters_);
  }
  int kind() const { return kind_; }
  PyObject* fan_rule() const { return fan_rule_; }
  // Null: Python has to look, and to raise.
  const std::array<double, 4>* operator()(const Geometry& g) {
    if (fan_rule_ == Py_None) return is_known_ ? &parameters_ : nullptr;
    const std::vector<std::int64_t> shape_key(g.shape, g.shape + g.ndim);
    const auto known = by_shape_.find(shape_key);
    if (known != by_shape_.end()) return &known->second;
    PyObject* const given = PyObject_CallOneArg(fan_rule_, shape(g).get());
    if (given == nullptr) {
      PyErr_Clear();
      return nullptr;
    }
    const Ref held = Ref::owned(given);
    std::array<double, 4> parameters;
    if (!parse_arguments(given, parameters)) return nullptr;
    return &by_shape_.emplace(shape_key, parameters).first->second;
  }

 private:
  const int kind_;
  PyObject* const fan_rule_;
  bool is_known_ = false;
  std::array<double, 4> parameters_;
  std::map<std::vector<std::int64_t>, std::array<double, 4>> by_shape_;
};

// A parameter that a rule writes, as far as it can be written here.
struct Target {
  PyObject* tensor = nullptr;
  Facts facts;
  Memory* memory = nullptr;
  std::array<double, 4> parameters{};
  bool look(Recorder& recorder, int kind) {
    return tensor == nullptr || (takes(facts, kind, parameters) &&
                                 (memory = memory_that_waits(recorder, tensor)) != nullptr);
  }
};

bool fill_layer(Recorder& recorder, PyObject* layer, Law& law, double bias_value) {
  static PyObject* const names[] = {PyUnicode_InternFromString("_parameters"),
                                    PyUnicode_InternFromString("weight"),
                                    PyUnicode_InternFromString("bias")};
  const Ref parameters = Ref::owned(PyObject_GetAttr(layer, names[0]));
  if (!PyDict_CheckExact(parameters.get())) return false;
  bool is_known = true;
  Target weight, bias;
  weight.tensor = own(layer, parameters.get(), names[1], is_known);
  bias.tensor = own(layer, parameters.get(), names[2], is_known);
  if (!is_known) return false;
  for (Target* target : {&weight, &bias}) {
    if (target->tensor != nullptr && !is_served_here(target->tensor, target->facts)) return false;
  }
  if (weight.tensor != nullptr) {
    const auto& g = weight.facts.geometry;
    if (law.fan_rule() != Py_None && g.ndim < 2) return false;
    const auto* found = law(g);
    if (found == nullptr) return false;
    weight.parameters = *found;
  }
  bias.parameters[0] = bias_value;
  const int constant = static_cast<int>(Kind::kConstant);
  if (!weight.look(recorder, law.kind()) || !bias.look(recorder, constant)) return false;
  if (weight.tensor != nullptr) {
    record_fill(recorder, *weight.memory, weight.tensor, weight.facts,
                rule_of(recorder, law.kind(), weight.parameters, law.fan_rule()));
  }
  if (bias.tensor != nullptr) {
    record_fill(recorder, *bias.memory, bias.tensor, bias.facts,
                rule_of(recorder, constant, bias.parameters, Py_None));
  }
  return true;
}

// fill_layers(layers, first, kind, parameters, fan_rule, bias): the number of the first layer, from
// `first` on, that Python has to write; all before it are recorded.
PyObject* fill_layers(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *layers, *parameters, *fan_rule;
    Py_ssize_t first;
    int kind;
    double bias;
    if (!PyArg_ParseTuple(args, "O!niOOd", &PyList_Type, &layers, &first, &kind, &parameters,
                          &fan_rule, &bias)) {
      return nullptr;
    }
    if (!is_enabled || current == nullptr || current == Py_False) return PyLong_FromSsize_t(first);
    const DefaultFloatingPoint environment;
    const Ref recorder = Ref::borrowed(current);
    Law law(kind, parameters, fan_rule);
    for (; first < PyList_GET_SIZE(layers); ++first) {
      const Ref layer = Ref::borrowed(PyList_GET_ITEM(layers, first));
      if (!fill_layer(of(recorder.get()), layer.get(), law, bias)) break;
    }
    return PyLong_FromSsize_t(first);
  });
}

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

// versions(value): [(tensor, version), ...] of the tensors in a value.
PyObject* versions(PyObject*, PyObject* value) {
  return guarded([&] {
    Ref found = Ref::owned(PyList_New(0));
    each_tensor(value, [&](PyObject* tensor) {
      const Ref pair = Ref::owned(PyTuple_Pack(2, tensor, torch::version(tensor).get()));
      if (PyList_Append(found.get(), pair.get()) != 0) throw PythonError{};
    });
    return found.release();
  });
}

// has_tensors(value)
PyObject* has_tensors(PyObject*, PyObject* value) {
  return guarded([&] {
    bool is_found = false;
    each_tensor(value, [&](PyObject*) { is_found = true; });
    return truth(is_found);
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

PyObject* set_current(PyObject*, PyObject* recorder) {
  Py_XSETREF(current, recorder == Py_None ? nullptr : Py_NewRef(recorder));
  return none();
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
  const bool is_recording = is_enabled && current != nullptr && current != Py_False;
  if (!is_recording || is_inside) return PyObject_Call(given[1], given[2], given[3]);
  is_inside = true;
  PyObject* const result = PyObject_Call(given[0], given[2], given[3]);
  is_inside = false;
  return result;
}

// serves(tensor): whether `write` does so itself for sure.
PyObject* serves(PyObject*, PyObject* tensor) {
  return guarded([&] {
    Facts facts;
    return truth(is_enabled && is_served_here(tensor, facts));
  });
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
  PyObject *fill, *copy, *cast, *fallback;
  if (!PyArg_ParseTuple(args, "OOOO", &fill, &copy, &cast, &fallback)) return nullptr;
  classes = {Py_NewRef(fill), Py_NewRef(copy), Py_NewRef(cast), Py_NewRef(fallback)};
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
    {"write", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(write)), METH_FASTCALL,
     nullptr},
    {"set_current", set_current, METH_O, nullptr},
    {"versions", versions, METH_O, nullptr},
    {"has_tensors", has_tensors, METH_O, nullptr},
    {"fill_layers", fill_layers, METH_VARARGS, nullptr},
    {"children_with", some_children, METH_VARARGS, nullptr},
    {"parameters_by_id", all_parameters, METH_O, nullptr},
    {"walk", walked, METH_VARARGS, nullptr},
    {"post_order", in_post_order, METH_VARARGS, nullptr},
    {"either", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(either)), METH_FASTCALL,
     nullptr},
    {"shape_of", shape_of, METH_O, nullptr},
    {"serves", serves, METH_O, nullptr},
    {"enable", enable, METH_O, nullptr},
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
  static PyType_Slot slots[] = {slot(Py_tp_new, make),
                                slot(Py_tp_dealloc, destroy),
                                slot(Py_tp_traverse, traverse),
                                slot(Py_tp_clear, clear_references),
                                slot(Py_nb_bool, is_waiting),
                                slot(Py_sq_contains, contains),
                                {Py_tp_methods, methods},
                                {Py_tp_getset, attributes},
                                {0, nullptr}};
  static PyType_Spec spec = {"fastinit._C.Recorder", sizeof(Object), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
  type = reinterpret_cast<PyTypeObject*>(Ref::owned(PyType_FromSpec(&spec)).release());
  if (PyModule_AddObjectRef(module, "Recorder", reinterpret_cast<PyObject*>(type)) != 0 ||
      PyModule_AddFunctions(module, functions) != 0) {
    throw PythonError{};
  }
}

}  // namespace fastinit

#include "objects.h"

#include "arguments.h"

namespace fastinit {

Classes classes;
PyTypeObject* recorder_type = nullptr;
PyObject* open_recorder = nullptr;
bool is_enabled = false;
bool may_be_flat = false;

bool is_stand_in(PyObject* tensor, const Facts& facts) {
  static PyObject* const names[] = {PyUnicode_InternFromString("ds_shape"),
                                    PyUnicode_InternFromString("_fsdp_flattened"),
                                    PyUnicode_InternFromString("_is_flat_param")};
  if (facts.geometry.count == 0 && PyObject_HasAttr(tensor, names[0]) == 1) return true;
  return may_be_flat &&
         (PyObject_HasAttr(tensor, names[1]) == 1 || PyObject_HasAttr(tensor, names[2]) == 1);
}

Here here() {
  if (!is_enabled) return {Ref(), false};
  PyObject* value = nullptr;
  if (PyContextVar_Get(open_recorder, nullptr, &value) != 0) throw PythonError{};
  if (value == nullptr) return {};
  Ref found = Ref::owned(value);
  if (value == Py_None) return {};
  if (Py_TYPE(value) != recorder_type) return {Ref(), false};
  // A context may be copied: to other threads, and to tasks that outlive the plan.
  const Recorder& recorder = of(value);
  const bool is_here = recorder.is_open && recorder.thread == PyThread_get_thread_ident();
  if (is_here && recorder.calls > 0) return {Ref(), false};
  return {is_here ? std::move(found) : Ref(), true};
}

std::uint64_t key_of(PyObject* number) {
  const auto key = PyLong_AsUnsignedLongLong(number);
  if (key == static_cast<unsigned long long>(-1) && PyErr_Occurred() != nullptr) {
    throw PythonError{};
  }
  return key;
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

Ref tuple_of(const std::vector<std::int64_t>& numbers) {
  const Ref list =
      Ref::owned(list_of(numbers, [](std::int64_t n) { return PyLong_FromLongLong(n); }));
  return Ref::owned(PyList_AsTuple(list.get()));
}

Ref parameters_of(const std::array<double, 4>& p) {
  return Ref::owned(Py_BuildValue("(dddd)", p[0], p[1], p[2], p[3]));
}

Taken taken_of(PyObject* told) {
  Taken taken;
  long long start;
  PyObject* box;
  if (!PyArg_ParseTuple(told, "LO!", &start, &PyTuple_Type, &box)) throw PythonError{};
  taken.start = start;
  for (Py_ssize_t d = 0; d < PyTuple_GET_SIZE(box); ++d) {
    long long size, step;
    if (!PyArg_ParseTuple(PyTuple_GET_ITEM(box, d), "LL", &size, &step)) throw PythonError{};
    taken.box.emplace_back(size, step);
  }
  return taken;
}

namespace {

Ref as_python(const std::shared_ptr<const Taken>& taken) {
  if (taken == nullptr) return Ref::borrowed(Py_None);
  const Ref box = Ref::owned(list_of(taken->box, [](const auto& dim) {
    return Py_BuildValue("(LL)", static_cast<long long>(dim.first),
                         static_cast<long long>(dim.second));
  }));
  const Ref tuple = Ref::owned(PyList_AsTuple(box.get()));
  return Ref::owned(Py_BuildValue("(LO)", static_cast<long long>(taken->start), tuple.get()));
}

}  // namespace

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
  rule.place = place_of(item(4));
  rule.origin = Ref::borrowed(item(5));
  if (item(6) != Py_None && recorder.groups) rule.fan_rule = Ref::borrowed(item(6));
  if (PyTuple_GET_SIZE(item(7)) > 0) rule.tail = Ref::borrowed(item(7));
  if (item(8) != Py_None) rule.chain = Ref::borrowed(item(8));
  if (item(9) != Py_None) record.taken = std::make_shared<const Taken>(taken_of(item(9)));
  record.what = What::kFill;
  record.rule = recorder.intern(std::move(rule));
  return record;
}

Ref origin_of(const Rule& rule) { return rule.origin ? rule.origin : text(""); }

Ref as_python(const Recorder& recorder, const Record& record) {
  if (record.object) return record.object;
  const Rule& rule = recorder.rule(record.rule);
  const Ref seed = rule.has_seed ? Ref::owned(number(rule.seed)) : Ref::borrowed(Py_None);
  const Ref tail = rule.tail ? rule.tail : Ref::owned(PyTuple_New(0));
  return Ref::owned(PyObject_CallFunction(
      classes.fill, "OiOOOOOOOO", record.tensor.get(), rule.kind,
      parameters_of(rule.parameters).get(), seed.get(), as_python(rule.place).get(),
      origin_of(rule).get(), rule.fan_rule.or_none(), tail.get(), rule.chain.or_none(),
      as_python(record.taken).get()));
}

PyObject* records_of(const Recorder& recorder, const std::vector<Record>& records) {
  return list_of(records, [&](const Record& r) { return as_python(recorder, r).release(); });
}

Facts required_facts(PyObject* tensor) {
  Facts facts;
  if (!torch::facts_of(tensor, facts)) {
    PyErr_SetString(PyExc_ValueError, "the tensor has no ordinary memory");
    throw PythonError{};
  }
  return facts;
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

}  // namespace fastinit

// What the files about the class `Recorder` share: the object, small values for Python, and records
// from Python and back.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "guarded.h"
#include "python.h"
#include "recorder.h"

namespace fastinit {

struct RecorderObject {
  PyObject_HEAD Recorder* recorder;
};
extern PyTypeObject* recorder_type;

inline Recorder& of(PyObject* self) { return *reinterpret_cast<RecorderObject*>(self)->recorder; }

// Python's classes of records and of places, and the function for calls that `write` does not
// serve.
struct Classes {
  PyObject *fill = nullptr, *copy = nullptr, *cast = nullptr, *place = nullptr, *write = nullptr;
};
extern Classes classes;

extern bool may_be_flat;  // whether parameters may be parts of FSDP's flattened ones
// Whether the tensor stands for a parameter that other ranks hold, so that Python has to refuse it:
// a part of a flattened one, or an empty one in the place of one that is partitioned.
bool is_stand_in(PyObject* tensor, const Facts& facts);
extern bool is_enabled;  // whether the native backend is in use
// The context variable of the open plan: its recorder, None, or False for a plan without one.
extern PyObject* open_recorder;

// The recorder of the plan that is open in this thread and context (an asyncio task is one).
struct Here {
  Ref recorder;          // none without a plan
  bool is_known = true;  // false where Python has to look
};
Here here();

std::uint64_t key_of(PyObject* number);
inline PyObject* number(std::uint64_t key) { return PyLong_FromUnsignedLongLong(key); }
inline PyObject* none() { return Py_NewRef(Py_None); }
inline PyObject* truth(bool value) { return PyBool_FromLong(value); }
Ref text(std::string_view s);
Ref shape(const Geometry& g);
Ref tuple_of(const std::vector<std::int64_t>& numbers);
// From Python's (start, ((size, index stride), ...)).
Taken taken_of(PyObject* told);
Ref parameters_of(const std::array<double, 4>& p);

template <class Items, class Make>
PyObject* list_of(const Items& items, const Make& make) {
  Ref list = Ref::owned(PyList_New(0));
  for (const auto& item : items) {
    const Ref made = Ref::owned(make(item));
    if (PyList_Append(list.get(), made.get()) != 0) throw PythonError{};
  }
  return list.release();
}

// A record of Python's: Fill(tensor, kind, parameters, seed, place, origin, fan_rule, tail, chain,
// part), Copy(tensor, source) or Cast(tensor, source).
Record parsed(Recorder& recorder, PyObject* object, const Facts& facts);
// Who asked for a fill, as text.
Ref origin_of(const Rule& rule);
Ref as_python(const Recorder& recorder, const Record& record);
PyObject* records_of(const Recorder& recorder, const std::vector<Record>& records);
// Throws ValueError for a tensor without ordinary memory.
Facts required_facts(PyObject* tensor);

bool may_wait(const Recorder& recorder, const Memory& memory);
void tell_autograd(PyObject* tensor);

extern const PyMethodDef kMemoryMethods[], kWaitingMethods[], kExecutionMethods[],
    kWriteFunctions[];

}  // namespace fastinit

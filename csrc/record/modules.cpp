#include "modules.h"

#include <algorithm>
#include <string>
#include <unordered_set>
#include <vector>

#include "objects.h"

namespace fastinit {
namespace {

PyObject* interned(int which) {
  static PyObject* const found[] = {
      PyUnicode_InternFromString("_modules"), PyUnicode_InternFromString("_parameters"),
      PyUnicode_InternFromString("_buffers"), PyUnicode_InternFromString("module"),
      PyUnicode_InternFromString("apply")};
  return found[which];
}
enum { kModules, kParameters, kBuffers, kModule, kApply };

// A registry of a module. Those of ScriptModules are no dictionaries, but have items.
Ref registry(PyObject* module, int which) {
  return Ref::owned(PyObject_GetAttr(module, interned(which)));
}

// Calls f(name, value) for the items that are not None.
template <class Function>
void each(const Ref& items, const Function& f) {
  if (PyDict_CheckExact(items.get())) {
    if (PyDict_GET_SIZE(items.get()) == 0) return;
    PyObject *name, *value;
    Py_ssize_t place = 0;
    while (PyDict_Next(items.get(), &place, &name, &value)) {
      if (value == Py_None) continue;
      const Ref held[] = {Ref::borrowed(name), Ref::borrowed(value)};  // f may run code
      f(name, value);
    }
    return;
  }
  const Ref pairs = Ref::owned(PyMapping_Items(items.get()));
  const Ref list = Ref::owned(PySequence_Fast(pairs.get(), "the items of a module"));
  for (Py_ssize_t n = 0; n < PySequence_Fast_GET_SIZE(list.get()); ++n) {
    PyObject* const pair = PySequence_Fast_GET_ITEM(list.get(), n);
    PyObject* const value = PyTuple_GetItem(pair, 1);
    if (value == nullptr) throw PythonError{};
    if (value != Py_None) f(PyTuple_GET_ITEM(pair, 0), value);
  }
}

bool has(const Ref& items, PyObject* name) {
  if (!PyDict_CheckExact(items.get())) return PyMapping_HasKey(items.get(), name) == 1;
  const int found = PyDict_Contains(items.get(), name);
  if (found < 0) throw PythonError{};
  return found == 1;
}

std::string_view text(PyObject* name) {
  Py_ssize_t size = 0;
  const char* utf8 = PyUnicode_AsUTF8AndSize(name, &size);
  if (utf8 == nullptr) throw PythonError{};
  return {utf8, static_cast<std::size_t>(size)};
}

struct Ahead {
  std::string prefix;
  Ref module;
};

}  // namespace

Ref walk(PyObject* root, PyObject* transparent, PyObject* wrappers) {
  Ref found = Ref::owned(PyList_New(0));
  std::unordered_set<PyObject*> seen;
  std::vector<Ahead> ahead{{"", Ref::borrowed(root)}};
  while (!ahead.empty()) {
    const Ahead now = std::move(ahead.back());
    ahead.pop_back();
    if (!seen.insert(now.module.get()).second) continue;
    const Ref prefix = Ref::owned(
        PyUnicode_FromStringAndSize(now.prefix.data(), static_cast<Py_ssize_t>(now.prefix.size())));
    const Ref entry = Ref::owned(PyTuple_Pack(2, prefix.get(), now.module.get()));
    if (PyList_Append(found.get(), entry.get()) != 0) throw PythonError{};
    const std::size_t first = ahead.size();
    each(registry(now.module.get(), kModules), [&](PyObject* name, PyObject* child) {
      int is_left_out = PySet_Contains(transparent, name);
      if (is_left_out == 0 && PyUnicode_Compare(name, interned(kModule)) == 0) {
        is_left_out = PyObject_IsInstance(now.module.get(), wrappers);
      }
      if (is_left_out < 0) throw PythonError{};
      std::string below = now.prefix;
      if (is_left_out == 0) below.append(text(name)).push_back('.');
      ahead.push_back({std::move(below), Ref::borrowed(child)});
    });
    std::reverse(ahead.begin() + static_cast<std::ptrdiff_t>(first), ahead.end());
  }
  return found;
}

Ref post_order(PyObject* root, PyObject* is_walked) {
  struct Level {
    Ref module;
    std::vector<Ref> children;
    std::size_t next = 0;
  };
  const auto enter = [&](const Ref& module, Level& level) {
    const Ref answer = Ref::owned(
        PyObject_CallOneArg(is_walked, reinterpret_cast<PyObject*>(Py_TYPE(module.get()))));
    const Ref own = Ref::owned(PyObject_GetAttrString(module.get(), "__dict__"));
    const int has_own = PyDict_Contains(own.get(), interned(kApply));
    if (has_own < 0) throw PythonError{};
    if (answer.get() != Py_True || has_own == 1) return false;
    level.module = module;
    std::unordered_set<PyObject*> seen;
    each(registry(module.get(), kModules), [&](PyObject*, PyObject* child) {
      if (seen.insert(child).second) level.children.push_back(Ref::borrowed(child));
    });
    return true;
  };
  Ref found = Ref::owned(PyList_New(0));
  std::vector<Level> levels(1);
  if (!enter(Ref::borrowed(root), levels.back())) return Ref();
  while (!levels.empty()) {
    Level& level = levels.back();
    if (level.next < level.children.size()) {
      const Ref child = level.children[level.next++];
      Level below;
      if (!enter(child, below)) return Ref();
      levels.push_back(std::move(below));
    } else {
      if (PyList_Append(found.get(), level.module.get()) != 0) throw PythonError{};
      levels.pop_back();
    }
  }
  return found;
}

Ref children_with(PyObject* module, PyObject* name, PyObject* may_have) {
  Ref found = Ref::owned(PyList_New(0));
  std::unordered_set<PyObject*> seen;
  PyTypeObject* last = nullptr;  // children are often of one class
  bool last_may = false;
  each(registry(module, kModules), [&](PyObject*, PyObject* child) {
    if (!seen.insert(child).second) return;
    if (Py_TYPE(child) != last) {
      last = Py_TYPE(child);
      const Ref answer =
          Ref::owned(PyObject_CallOneArg(may_have, reinterpret_cast<PyObject*>(last)));
      last_may = answer.get() == Py_True;
    }
    bool has_it = last_may;
    if (!has_it) {
      has_it = has(Ref::owned(PyObject_GenericGetDict(child, nullptr)), name);
      for (const int which : {kModules, kParameters, kBuffers})
        has_it = has_it || has(registry(child, which), name);
    }
    if (!has_it) return;
    if (PyList_Append(found.get(), child) != 0) throw PythonError{};
  });
  return found;
}

Ref parameters_by_id(PyObject* modules) {
  Ref found = Ref::owned(PyDict_New());
  for (Py_ssize_t n = 0; n < PyList_Size(modules); ++n) {
    PyObject* const module = PyTuple_GET_ITEM(PyList_GET_ITEM(modules, n), 1);
    each(registry(module, kParameters), [&](PyObject*, PyObject* parameter) {
      const Ref id = Ref::owned(PyLong_FromVoidPtr(parameter));
      if (PyDict_SetItem(found.get(), id.get(), parameter) != 0) throw PythonError{};
    });
  }
  return found;
}

void add_names(Recorder& recorder, PyObject* modules, PyObject* prefix, PyObject* memory_of) {
  std::string name{text(prefix)};
  const std::size_t root = name.size();
  const Unwatched unwatched;
  recorder.expect_names(static_cast<std::size_t>(PyList_Size(modules)));  // or a few more
  const auto add = [&](PyObject* key, PyObject* tensor) {
    const std::uint64_t storage = torch::is_exact(tensor) ? torch::storage_key_or_none(tensor) : 0;
    const std::size_t before = name.size();
    name.append(text(key));
    Ref memory = Ref::borrowed(tensor);
    if (storage == 0)
      memory = Ref::owned(
          PyObject_CallFunctionObjArgs(memory_of, fastinit::text(name).get(), tensor, nullptr));
    if (memory.get() != Py_None)
      recorder.add_name(name, memory.get(), storage, memory.get() == tensor ? nullptr : tensor);
    name.resize(before);
  };
  for (Py_ssize_t n = 0; n < PyList_Size(modules); ++n) {
    PyObject* const entry = PyList_GET_ITEM(modules, n);
    name.resize(root);
    name.append(text(PyTuple_GET_ITEM(entry, 0)));
    const Ref module = Ref::borrowed(PyTuple_GET_ITEM(entry, 1));
    each(registry(module.get(), kParameters), add);
    each(registry(module.get(), kBuffers), add);
  }
}

Ref written_since(Recorder& recorder, PyObject* root, PyObject* known, PyObject* credited,
                  PyObject* settled) {
  Ref found = Ref::owned(PyList_New(0));
  std::unordered_set<PyObject*> seen;
  std::vector<Ref> ahead{Ref::borrowed(root)};
  const Unwatched unwatched;
  const auto is_settled = [&](PyObject* module) {
    if (PyDict_GET_SIZE(settled) == 0) return false;
    const Ref id = Ref::owned(PyLong_FromVoidPtr(module));
    PyObject* const clock = PyDict_GetItemWithError(settled, id.get());
    if (clock == nullptr && PyErr_Occurred() != nullptr) throw PythonError{};
    return clock != nullptr && PyLong_AsUnsignedLongLong(clock) == recorder.clock;
  };
  while (!ahead.empty()) {
    const Ref module = std::move(ahead.back());
    ahead.pop_back();
    if (!seen.insert(module.get()).second || is_settled(module.get())) continue;
    each(registry(module.get(), kParameters), [&](PyObject* name, PyObject* parameter) {
      const Ref id = Ref::owned(PyLong_FromVoidPtr(parameter));
      const int is_known = PyDict_Contains(known, id.get());
      if (is_known < 0) throw PythonError{};
      if (is_known == 0) {
        PyErr_SetObject(PyExc_KeyError, name);
        throw PythonError{};
      }
      PyObject* const since = PyDict_GetItemWithError(credited, id.get());
      if (since == nullptr && PyErr_Occurred() != nullptr) throw PythonError{};
      const auto last = recorder.last_written(parameter);
      if (last > (since == nullptr ? 0 : PyLong_AsUnsignedLongLong(since)) &&
          PyList_Append(found.get(), id.get()) != 0) {
        throw PythonError{};
      }
    });
    each(registry(module.get(), kModules),
         [&](PyObject*, PyObject* child) { ahead.push_back(Ref::borrowed(child)); });
  }
  return found;
}

}  // namespace fastinit

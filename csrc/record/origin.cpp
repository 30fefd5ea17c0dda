#include "origin.h"

#include <string_view>
#include <unordered_map>

namespace fastinit {
namespace {

// Modules that only pass a fill on, and are not its origin.
constexpr std::string_view kPassing[] = {"fastinit.", "torch.nn.init", "torch.overrides",
                                         "torch.utils"};

std::string_view module_of(PyFrameObject* frame, Ref& holder) {
  holder = Ref::owned(PyObject_GetAttrString(reinterpret_cast<PyObject*>(frame), "f_globals"));
  PyObject* name = PyDict_GetItemString(holder.get(), "__name__");
  if (name == nullptr || !PyUnicode_Check(name)) return "";
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(name, &size);
  if (text == nullptr) throw PythonError{};
  return {text, static_cast<std::size_t>(size)};
}

bool is_passing(PyFrameObject* frame, PyCodeObject* code) {
  static std::unordered_map<PyCodeObject*, bool> known;  // holds its codes
  const auto found = known.find(code);
  if (found != known.end()) return found->second;
  Ref globals;
  const std::string_view name = module_of(frame, globals);
  bool passes = false;
  for (const auto prefix : kPassing) passes = passes || name.substr(0, prefix.size()) == prefix;
  if (passes) {  // few; other code comes and goes
    Py_INCREF(code);
    known.emplace(code, true);
  }
  return passes;
}

// The place in a frame's code that calls: cheaper to tell than the line.
int call_site(PyFrameObject* frame) {
#if PY_VERSION_HEX >= 0x030B0000
  return PyFrame_GetLasti(frame);
#else
  return PyFrame_GetLineNumber(frame);
#endif
}

struct Site {
  Ref code, text;
  int call = -1;
};

Ref text_of(PyFrameObject* frame, PyCodeObject* code) {
  // The last sites: code in a loop asks from the same lines again and again.
  constexpr std::size_t kSites = 64;
  static Site* const sites = new Site[kSites];  // outlives the interpreter
  const int call = call_site(frame);
  auto* const object = reinterpret_cast<PyObject*>(code);
  Site& site =
      sites[(reinterpret_cast<std::size_t>(code) / 16 + static_cast<std::size_t>(call)) % kSites];
  if (site.code.get() != object || site.call != call) {
    Ref globals;
    const std::string_view module = module_of(frame, globals);
    const Ref owner = Ref::owned(
        PyUnicode_FromStringAndSize(module.data(), static_cast<Py_ssize_t>(module.size())));
    const Ref name = Ref::owned(PyObject_GetAttrString(object, "co_name"));
    Ref text = Ref::owned(PyUnicode_FromFormat("%U.%U, line %d", owner.get(), name.get(),
                                               PyFrame_GetLineNumber(frame)));
    site = {Ref::borrowed(object), std::move(text), call};
  }
  return site.text;
}

}  // namespace

Ref origin() {
  Ref holder = Ref::borrowed(reinterpret_cast<PyObject*>(PyEval_GetFrame()));
  while (holder) {
    auto* const frame = reinterpret_cast<PyFrameObject*>(holder.get());
    auto* const code = PyFrame_GetCode(frame);
    const Ref owner = Ref::owned(reinterpret_cast<PyObject*>(code));
    if (!is_passing(frame, code)) return text_of(frame, code);
    PyFrameObject* back = PyFrame_GetBack(frame);
    holder = back != nullptr ? Ref::owned(reinterpret_cast<PyObject*>(back)) : Ref();
  }
  return Ref::owned(PyUnicode_FromString(""));
}

}  // namespace fastinit

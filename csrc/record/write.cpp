// Fills that code asks for: of one tensor, and of all layers that a rule means.
#include <map>
#include <vector>

#include "../stream/floating_point.h"
#include "../table/parameters.h"
#include "arguments.h"
#include "fill_now.h"
#include "gpu.h"
#include "name.h"
#include "objects.h"
#include "origin.h"

namespace fastinit {
namespace {

Place place_of(const Facts& facts) { return facts.gpu >= 0 ? current_place(facts.gpu) : Place{}; }

// The memory of a tensor whose fills may wait in a plan; null: Python has to look.
Memory* memory_that_waits(Recorder& recorder, PyObject* tensor, const Place& place) {
  if (!recorder.may_wait(place)) return nullptr;
  const bool is_known = recorder.knows(tensor);
  Memory& memory = recorder.memory_of(tensor);
  if (memory.is_inference || memory.has_neg || !memory.cast_targets.empty()) return nullptr;
  if (!is_known && !recorder.knows(tensor) && torch::is_neg(tensor)) return nullptr;
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
                      PyObject* fan_rule, const Place& place) {
  Rule rule{};
  rule.kind = kind;
  rule.place = place;
  rule.parameters = parameters;
  if (recorder.keeps_account) {
    rule.origin = recorder.origin_in_force ? recorder.origin_in_force : origin();
  }
  if (recorder.groups && fan_rule != Py_None) rule.fan_rule = Ref::borrowed(fan_rule);
  return recorder.intern(std::move(rule));
}

bool is_served_here(PyObject* tensor, Facts& facts) {
  return torch::is_exact(tensor) && torch::facts_of(tensor, facts) &&
         torch::is_surely_served(facts) && !is_stand_in(tensor, facts);
}

bool takes(const Facts& facts, int kind, const std::array<double, 4>& parameters) {
  return is_served(static_cast<Kind>(kind), static_cast<DType>(facts.dtype), parameters);
}

// Fills a tensor that belongs to no plan. False: Python has to look.
bool fill_alone(PyObject* tensor, const Facts& facts, int kind,
                const std::array<double, 4>& parameters) {
  if (torch::is_inference(tensor) || torch::is_neg(tensor)) return false;
  static const std::uint64_t stream = stream_of("#0");  // on its own it has no name
  Request request{kind, facts.dtype, facts.geometry.pointer, 0, stream, 0, {}, parameters};
  if (static_cast<Kind>(kind) != Kind::kConstant) request.seed = torch::draw_seed();
  const Box box = own_box(facts.geometry);
  request.box.assign(box.dims, box.dims + box.ndim);
  const std::vector<Segment> table{make_segment(request)};
  tell_autograd(tensor);  // first: Ctrl-C may end the fill anywhere
  if (facts.gpu >= 0) return launch_now(table, facts.gpu);
  fill_now(table);
  return true;
}

enum class Done { kHere, kByTorch, kInPython };

// Fills the tensor now, or lets the fill wait in the open plan, unless it is torch's or Python has
// to look.
Done written(PyObject* tensor, int kind, PyObject* given, PyObject* fan_rule) {
  if (!torch::is_exact(tensor)) return Done::kInPython;
  const Here plan = here();
  if (!plan.is_known || torch::is_traced()) return Done::kInPython;
  const DefaultFloatingPoint environment;
  Facts facts;
  std::array<double, 4> parameters;
  if (!torch::facts_of(tensor, facts) || is_stand_in(tensor, facts)) return Done::kInPython;
  if (facts.is_cpu && facts.dtype < 0) return Done::kByTorch;
  if (!torch::is_surely_served(facts) || !parse_arguments(given, parameters) ||
      !takes(facts, kind, parameters)) {
    return Done::kInPython;
  }
  if (!plan.recorder) {
    return fill_alone(tensor, facts, kind, parameters) ? Done::kHere : Done::kInPython;
  }
  Recorder& recorder = of(plan.recorder.get());
  const Place place = place_of(facts);
  Memory* const memory = memory_that_waits(recorder, tensor, place);
  if (memory == nullptr) return Done::kInPython;
  record_fill(recorder, *memory, tensor, facts,
              rule_of(recorder, kind, parameters, fan_rule, place));
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

// A parameter of a module by its name: none if there is none, or it is None. `is_known` is false
// where Python has to look.
Ref own(PyObject* module, PyObject* parameters, PyObject* name, bool& is_known) {
  PyObject* const found = PyDict_GetItemWithError(parameters, name);
  if (found != nullptr) return found != Py_None ? Ref::borrowed(found) : Ref();
  if (PyErr_Occurred() != nullptr) throw PythonError{};
  // A property, as of a parametrized weight, computes, and not always the same.
  if (PyObject_HasAttr(reinterpret_cast<PyObject*>(Py_TYPE(module)), name)) {
    is_known = false;
    return Ref();
  }
  PyObject* const other = PyObject_GetAttr(module, name);
  if (other == nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw PythonError{};
    PyErr_Clear();
    return Ref();
  }
  is_known = other == Py_None;
  Py_DECREF(other);
  return Ref();
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
      if (!PyErr_ExceptionMatches(PyExc_Exception)) throw PythonError{};  // Ctrl-C
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
  Ref tensor;
  Facts facts;
  Memory* memory = nullptr;
  Place place;
  std::array<double, 4> parameters{};
  bool look(Recorder& recorder, int kind) {
    if (!tensor) return true;
    place = place_of(facts);
    if (takes(facts, kind, parameters)) memory = memory_that_waits(recorder, tensor.get(), place);
    return memory != nullptr;
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
    if (target->tensor && !is_served_here(target->tensor.get(), target->facts)) return false;
  }
  if (weight.tensor) {
    const auto& g = weight.facts.geometry;
    if (law.fan_rule() != Py_None && g.ndim < 2) return false;
    const auto* found = law(g);
    if (found == nullptr) return false;
    weight.parameters = *found;
  }
  bias.parameters[0] = bias_value;
  const int constant = static_cast<int>(Kind::kConstant);
  if (!weight.look(recorder, law.kind()) || !bias.look(recorder, constant)) return false;
  if (weight.tensor) {
    record_fill(recorder, *weight.memory, weight.tensor.get(), weight.facts,
                rule_of(recorder, law.kind(), weight.parameters, law.fan_rule(), weight.place));
  }
  if (bias.tensor) {
    record_fill(recorder, *bias.memory, bias.tensor.get(), bias.facts,
                rule_of(recorder, constant, bias.parameters, Py_None, bias.place));
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
    const Here plan = here();
    if (!plan.recorder || torch::is_traced()) return PyLong_FromSsize_t(first);
    const DefaultFloatingPoint environment;
    Law law(kind, parameters, fan_rule);
    for (; first < PyList_GET_SIZE(layers); ++first) {
      const Ref layer = Ref::borrowed(PyList_GET_ITEM(layers, first));
      if (!fill_layer(of(plan.recorder.get()), layer.get(), law, bias)) break;
    }
    return PyLong_FromSsize_t(first);
  });
}

// serves(tensor): whether `write` does so itself for sure.
PyObject* serves(PyObject*, PyObject* tensor) {
  return guarded([&] {
    Facts facts;
    return truth(is_enabled && is_served_here(tensor, facts) && !torch::is_neg(tensor) &&
                 !torch::is_inference(tensor));
  });
}

}  // namespace

const PyMethodDef kWriteFunctions[] = {
    {"write", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(write)), METH_FASTCALL,
     nullptr},
    {"fill_layers", fill_layers, METH_VARARGS, nullptr},
    {"serves", serves, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace fastinit

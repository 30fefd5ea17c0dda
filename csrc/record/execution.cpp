// What executions draw: names, streams, rows.
#include "execution.h"

#include <algorithm>
#include <optional>
#include <string>

#include "../stream/floating_point.h"
#include "fill_now.h"
#include "name.h"
#include "objects.h"

namespace fastinit {
namespace {

std::shared_ptr<const Drawn::Part> part_of(const Box& box,
                                           const std::array<double, 4>& parameters) {
  Drawn::Part part;
  part.parameters = parameters;
  part.taken.start = box.start;
  for (int d = 0; d < box.ndim; ++d)
    part.taken.box.emplace_back(box.dims[d].size, box.dims[d].index_stride);
  return std::make_shared<const Drawn::Part>(std::move(part));
}

}  // namespace

bool are_disjoint(const std::vector<Segment>& table) {
  try {
    require_disjoint(table);
  } catch (const Overlap&) {
    return false;
  }
  return true;
}

bool share_elements(const Geometry& x, const Geometry& y) {
  // A row wants a dtype of the size, and an address; on meta, pointers are offsets.
  constexpr std::uint64_t kAnywhere = std::uint64_t{1} << 40;
  const DType dtype = x.itemsize == 8   ? DType::kFloat64
                      : x.itemsize == 2 ? DType::kFloat16
                                        : DType::kFloat32;
  if (itemsize(dtype) != static_cast<std::size_t>(x.itemsize)) return true;
  std::vector<Segment> table;
  for (const Geometry* g : {&x, &y}) {
    Request request{};
    request.kind = static_cast<int>(Kind::kConstant);
    request.dtype = static_cast<int>(dtype);
    request.pointer = kAnywhere + g->pointer;
    const Box box = own_box(*g);
    request.box.assign(box.dims, box.dims + box.ndim);
    table.push_back(make_segment(request));
  }
  return !are_disjoint(table);
}

Execution::Execution(Recorder& recorder, const std::vector<Memory*>& memories)
    : recorder_(recorder), around_() {
  for (Memory* memory : memories) {
    if (!memory->records.empty()) memories_.push_back(memory);
  }
  levels_ = memories_.empty() ? 0 : 1;
  entries_.reserve(memories_.size());
  rows_.reserve(memories_.size());
  std::unordered_map<Memory*, std::size_t> shared;
  // The first records of all memories, then the second ones: unnamed tensors are numbered so.
  std::vector<Memory*> deeper = memories_;
  for (std::size_t depth = 0; !deeper.empty(); ++depth) {
    for (Memory* memory : deeper) {
      if (memory->records.size() > 1) {
        const auto [place, is_first] = shared.try_emplace(memory, shared_.size());
        if (is_first) shared_.emplace_back();
        shared_[place->second].push_back(entries_.size());
      }
      entries_.emplace_back();
      entries_.back().memory = memory;
      entries_.back().depth = depth;
    }
    const auto is_done = [depth](const Memory* m) { return m->records.size() <= depth + 1; };
    deeper.erase(std::remove_if(deeper.begin(), deeper.end(), is_done), deeper.end());
  }
}

Execution::~Execution() {
  for (const Entry& entry : entries_) {
    if (entry.is_counted && !entry.is_booked) --recorder_.names_[entry.name].draws;
  }
}

void Execution::draw() {
  const DefaultFloatingPoint environment;
  for (Entry& entry : entries_) {
    if (record(entry).what != What::kFill) continue;
    entry.rows[0] = entry.rows[1] = rows_.size();
    entry.drawn[0] = entry.drawn[1] = drawn_.size();
    try {
      Facts facts;
      look_again(entry, facts);
      draw(entry, facts);
      entry.rows[1] = rows_.size();
      entry.drawn[1] = drawn_.size();
    } catch (const PythonError&) {
      const bool is_of_tensor = PyErr_ExceptionMatches(PyExc_ValueError) != 0 ||
                                PyErr_ExceptionMatches(PyExc_RuntimeError) != 0;
      if (!recorder_.keeps_account || !is_of_tensor) throw;
      PyObject *type, *value, *trace;
      PyErr_Fetch(&type, &value, &trace);
      Ref* const kept[] = {&error_type_, &error_value_, &error_trace_};
      PyObject* const raised[] = {type, value, trace};
      for (int n = 0; n < 3; ++n) {
        if (!has_error_) *kept[n] = Ref::borrowed(raised[n]);
        Py_XDECREF(raised[n]);
      }
      has_error_ = true;
      entry.has_failed = true;
      rows_.resize(entry.rows[0]);
      drawn_.resize(entry.drawn[0]);
    }
  }
}

// The tensor may have other memory than when the write was recorded: its storage was resized by a
// handle that nobody watches.
void Execution::look_again(const Entry& entry, Facts& facts) const {
  const Record& now = record(entry);
  PyObject* const tensor = now.tensor.get();
  const bool is_known = torch::facts_of(tensor, facts);
  const auto& g = facts.geometry;
  if (is_known && g.pointer == now.pointer) return;
  const auto bytes = torch::storage_bytes(tensor);
  if (is_known && torch::storage_key(tensor) == entry.memory->key && g.span() <= bytes) return;
  const auto& named = entry.memory->named;
  const std::string who = named.empty() ? "a tensor that waits to be filled"
                                        : recorder_.names_[named.front().name].text;
  PyErr_Format(PyExc_RuntimeError,
               "%s has lost its memory: its storage of %llu bytes was resized while the fill "
               "waited; resize storages outside of the plan, or read the tensor before",
               who.c_str(), static_cast<unsigned long long>(bytes));
  throw PythonError{};
}

// In the largest named tensor that contains it, else on its own. Of a shard it may be a part that
// this rank has nothing of.
Execution::Whereabouts Execution::whereabouts(Memory& memory, const Facts& facts,
                                              bool is_part) const {
  const auto& g = facts.geometry;
  std::optional<Whereabouts> largest;
  for (const std::size_t n : around_.of(memory, g)) {
    const Named& named = memory.named[n];
    Facts whole;
    if (!torch::facts_of(named.tensor.get(), whole)) continue;
    if (largest && whole.geometry.count <= largest->whole.count) continue;
    const Region* const region = memory.region_of(whole.geometry);
    if (is_part && g.count == 0 && region != nullptr)
      return {named.name, Box{}, whole.geometry, region};
    if (const auto box = box_in(g, whole.geometry, region))
      largest = {named.name, *box, whole.geometry, region};
  }
  if (largest) return *largest;
  const auto layout = g.layout();
  const Region* const region = memory.region_of(g);
  if (const Unnamed* unnamed = memory.unnamed_at(g.pointer, layout)) {
    return {unnamed->name, own_box(g, region), g, region};
  }
  std::string text = recorder_.prefix + "#" + std::to_string(recorder_.unnamed_count_++);
  const std::uint64_t stream = stream_of(text);
  const auto name = recorder_.new_name(std::move(text), stream);
  std::vector<std::int64_t> shape{g.shape, g.shape + g.ndim};
  if (region != nullptr) shape = region->shape;
  memory.add(Unnamed{g.pointer, layout, name, facts.dtype, std::move(shape)});
  return {name, own_box(g, region), g, region};
}

void Execution::draw(Entry& entry, const Facts& facts) {
  const Record& fill = record(entry);
  const Rule& rule = recorder_.rule(fill.rule);
  const Whereabouts at = whereabouts(*entry.memory, facts, fill.taken != nullptr);
  Name& name = recorder_.names_[at.name];
  if (!name.has_drawn) {
    name.has_drawn = true;
    // Draws from before the tensor had a name count.
    const Unnamed* const early = entry.memory->unnamed_at(at.whole.pointer, at.whole.layout());
    if (early != nullptr && early->name != at.name)
      name.draws = recorder_.names_[early->name].draws;
  }
  const auto& named = entry.memory->named;
  if (recorder_.keeps_account && !named.empty() &&
      (named.size() > 1 || named.front().name != at.name)) {
    for (const std::size_t n : around_.meeting(*entry.memory, facts.geometry)) {
      if (named[n].name == at.name) continue;
      Facts other;
      const bool is_known = torch::facts_of(named[n].tensor.get(), other);
      if (!is_known || share_elements(facts.geometry, other.geometry))
        recorder_.names_[named[n].name].disturbed = fill.order;
    }
  }
  Drawn drawn{fill.rule, name.draws++, nullptr};
  entry.name = at.name;
  entry.is_counted = true;
  const auto stream = drawn.draw == 0 ? name.stream : stream_of(name.label(drawn.draw));
  const bool is_whole = fill.taken != nullptr
                            ? at.region != nullptr && is_all(*fill.taken, *at.region)
                            : facts.geometry.count == at.whole.count;
  if (is_whole) name.filled = fill.order;
  const bool has_groups = recorder_.groups && rule.fan_rule && fill.taken == nullptr;
  if (has_groups && draw_parts(entry, facts, at, drawn, stream)) return;
  add_row(entry, facts, rule.parameters, stream, 0, at.box);
  if (!recorder_.keeps_account) return;
  if (!is_whole && fill.taken != nullptr) {
    drawn.part =
        std::make_shared<const Drawn::Part>(Drawn::Part{rule.parameters, false, *fill.taken});
  } else if (!is_whole) {
    drawn.part = part_of(at.box, rule.parameters);
  }
  drawn_.push_back(std::move(drawn));
}

// The rows of a tensor's logical matrices, as fan_groups.py gives them:
// [(parameters, [(distance, start, ((size, memory stride, index stride), ...), taken), ...]), ...],
// the parts of all but the first parameters written over the whole; False if the tensor has none.
// Of a shard the rows are those that it holds, and `taken` tells of the whole.
bool Execution::draw_parts(const Entry& entry, const Facts& facts, const Whereabouts& at,
                           const Drawn& drawn, std::uint64_t stream) {
  const auto& g = facts.geometry;
  const bool is_same = g.ndim == at.whole.ndim &&
                       std::equal(g.shape, g.shape + g.ndim, at.whole.shape) &&
                       std::equal(g.strides, g.strides + g.ndim, at.whole.strides);
  if (!is_same) return false;
  const Record& fill = record(entry);
  const Rule& rule = recorder_.rule(fill.rule);
  const Ref parameters = Ref::owned(Py_BuildValue("(dddd)", rule.parameters[0], rule.parameters[1],
                                                  rule.parameters[2], rule.parameters[3]));
  const std::string& name = recorder_.names_[at.name].text;
  const Ref text =
      Ref::owned(PyUnicode_FromStringAndSize(name.data(), static_cast<Py_ssize_t>(name.size())));
  Ref region = Ref::borrowed(Py_None);
  if (at.region != nullptr)
    region = Ref::owned(
        PyTuple_Pack(2, tuple_of(at.region->first).get(), tuple_of(at.region->shape).get()));
  const Ref groups = Ref::owned(
      PyObject_CallFunctionObjArgs(recorder_.groups.get(), text.get(), fill.tensor.get(),
                                   rule.fan_rule.get(), parameters.get(), region.get(), nullptr));
  if (groups.get() == Py_None) return false;
  const Py_ssize_t count = PyList_Size(groups.get());
  for (Py_ssize_t n = 0; n < count; ++n) {
    PyObject *values, *boxes;
    if (!PyArg_ParseTuple(PyList_GET_ITEM(groups.get(), n), "OO", &values, &boxes)) {
      throw PythonError{};
    }
    std::array<double, 4> p;
    if (!PyArg_ParseTuple(values, "dddd", &p[0], &p[1], &p[2], &p[3])) throw PythonError{};
    if (n == 0) {
      Drawn::Part whole;
      whole.parameters = p;
      whole.is_whole = true;
      drawn_.push_back({drawn.rule, drawn.draw, std::make_shared<Drawn::Part>(std::move(whole))});
    }
    if (count == 1) {
      add_row(entry, facts, p, stream, 0, at.box);
      break;
    }
    for (Py_ssize_t k = 0; k < PyList_Size(boxes); ++k) {
      long long distance, start;
      PyObject *dims, *taken;
      if (!PyArg_ParseTuple(PyList_GET_ITEM(boxes, k), "LLOO", &distance, &start, &dims, &taken)) {
        throw PythonError{};
      }
      Box box;
      box.start = start;
      for (Py_ssize_t d = 0; d < PyTuple_Size(dims); ++d) {
        long long size, memory, index;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(dims, d), "LLL", &size, &memory, &index)) {
          throw PythonError{};
        }
        box.dims[box.ndim++] = {size, memory, index};
      }
      if (box.ndim > 0) add_row(entry, facts, p, stream, distance, box);
      if (n == 0) continue;
      auto part = part_of(box, p);
      if (taken != Py_None)
        part = std::make_shared<const Drawn::Part>(Drawn::Part{p, false, taken_of(taken)});
      drawn_.push_back({drawn.rule, drawn.draw, std::move(part)});
    }
  }
  return true;
}

void Execution::add_row(const Entry& entry, const Facts& facts,
                        const std::array<double, 4>& parameters, std::uint64_t stream,
                        std::int64_t distance, const Box& box) {
  if (facts.is_meta || facts.geometry.count == 0) return;
  const Rule& rule = recorder_.rule(record(entry).rule);
  const auto offset =
      static_cast<std::uint64_t>(distance) * static_cast<std::uint64_t>(facts.geometry.itemsize);
  request_.kind = rule.kind;
  request_.dtype = facts.dtype;
  request_.pointer = facts.geometry.pointer + offset;
  request_.seed = recorder_.seed_of(rule);
  request_.stream = stream;
  request_.start = box.start;
  request_.box.assign(box.dims, box.dims + box.ndim);
  request_.parameters = parameters;
  rows_.push_back(make_segment(request_));
  has_launches_ = has_launches_ || rule.place.is_on_gpu();
}

std::vector<Segment> Execution::segments(const Entry& entry) const {
  const auto first = rows_.begin();
  return {first + static_cast<std::ptrdiff_t>(entry.rows[0]),
          first + static_cast<std::ptrdiff_t>(entry.rows[1])};
}

}  // namespace fastinit

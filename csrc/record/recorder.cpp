#include "recorder.h"

#include <algorithm>
#include <optional>

#include "name.h"

namespace fastinit {

namespace {

std::uint64_t address(PyObject* tensor) { return reinterpret_cast<std::uint64_t>(tensor); }

bool is_named(const Memory& memory, PyObject* tensor) {
  return std::any_of(memory.named.begin(), memory.named.end(),
                     [tensor](const Named& named) { return named.tensor.get() == tensor; });
}

}  // namespace

Recorder::Recorder(bool keeps_account, bool is_dry, std::uint64_t seed)
    : keeps_account(keeps_account),
      is_dry(is_dry),
      seed(seed),
      thread(PyThread_get_thread_ident()) {}

Recorder::~Recorder() = default;

// --- memory -----------------------------------------------------------------------------------

Memory* Recorder::find(std::uint64_t key) const {
  Memory* const* found = by_key_.find(key);
  return found != nullptr ? *found : nullptr;
}

Memory& Recorder::memory_of(PyObject* tensor, bool is_fresh, std::uint64_t key) {
  Memory* const* known = by_object_.find(address(tensor));
  if (known != nullptr && *known != nullptr) return **known;
  if (key != 0) {
    if (Memory* memory = find(key)) return *memory;
  }
  std::optional<Unwatched> unwatched;
  Ref storage;
  if (keeps_account && !is_fresh && !is_dry) {
    unwatched.emplace();  // with an account there is a mode
    storage = torch::storage_of(tensor);
  }
  if (key == 0) {
    key = storage ? torch::key_of_storage(storage) : torch::storage_key(tensor);
    if (Memory* memory = find(key)) return *memory;
  }
  const bool is_inference = is_fresh ? torch::is_inference_mode() : torch::is_inference(tensor);
  const bool is_neg = !is_fresh && torch::is_neg(tensor);
  const bool is_resizable = storage ? torch::is_resizable(storage) : is_fresh || is_dry;
  Memory& memory = memories_.emplace_back();
  memory.key = key;
  memory.is_inference = is_inference;
  memory.has_neg = is_neg;
  memory.is_resizable = is_resizable;
  by_key_[key] = &memory;
  hold(memory, tensor);
  return memory;
}

bool Recorder::knows(PyObject* tensor) const {
  Memory* const* known = by_object_.find(address(tensor));
  return known != nullptr && *known != nullptr;
}

void Recorder::hold(Memory& memory, PyObject* tensor) {
  if (memory.held.get() == tensor) return;
  const Ref before = std::exchange(memory.held, Ref::borrowed(tensor));
  if (before && !is_named(memory, before.get())) by_object_[address(before.get())] = nullptr;
  by_object_[address(tensor)] = &memory;
}

void Recorder::forget_object(PyObject* tensor) {
  if (Memory** known = by_object_.find(address(tensor))) *known = nullptr;
}

void Recorder::allocated(PyObject* tensor) {
  Facts facts;
  if (!torch::facts_of(tensor, facts, is_dry) || facts.geometry.count == 0) return;
  memory_of(tensor, true).is_new = true;
  held(facts);
}

void Recorder::held(const Facts& facts) {
  bytes_ += facts.geometry.span();
  if (bytes_ > bytes_to_sweep_) sweep();
}

bool Recorder::is_held_by_nobody_else(const Memory& memory) const {
  return memory.held && memory.named.empty() && is_orphan(memory);
}

void Recorder::sweep() {
  bytes_ = 0;
  std::vector<Ref> gone;
  std::vector<Record> dropped;  // objects may run code when they die: at the end
  for (std::size_t n = 0; n < memories_.size(); ++n) {
    Memory& memory = memories_[n];
    if (!memory.held) continue;
    if (!is_held_by_nobody_else(memory)) {
      Facts facts;
      if (torch::facts_of(memory.held.get(), facts, is_dry)) bytes_ += facts.geometry.span();
      continue;
    }
    if (!memory.records.empty()) rest(memory);
    for (Record& record : memory.records) dropped.push_back(std::move(record));
    memory.records.clear();
    by_key_[memory.key] = nullptr;
    forget_object(memory.held.get());
    gone.push_back(std::exchange(memory.held, Ref()));
  }
  bytes_to_sweep_ = bytes_ + std::max(kLeastToSweep, bytes_ / 50);
}

void Recorder::give_up() {
  is_open = false;
  std::vector<Ref> gone;
  for (Memory& memory : memories_) {
    if (!memory.held) continue;
    if (memory.named.empty()) by_key_[memory.key] = nullptr;
    forget_object(memory.held.get());
    gone.push_back(std::exchange(memory.held, Ref()));
  }
}

void Recorder::computed(Memory& memory) {
  memory.last_written = ++clock;
  if (!keeps_account) return;
  memory.is_new = false;
  memory.is_computed = true;
}

void Recorder::computed(PyObject* tensor) {
  const auto key = torch::storage_key_or_none(tensor);
  if (key == 0) return;  // as of a tensor that torch.func wraps
  Memory* memory = find(key);
  if (memory == nullptr) {
    memory = &memory_of(tensor, false, key);
    Facts facts;
    if (torch::facts_of(tensor, facts, is_dry)) held(facts);
  }
  computed(*memory);
}

void Recorder::wrote(PyObject* tensor) { memory_of(tensor).last_written = ++clock; }

std::uint64_t Recorder::last_written(PyObject* tensor) const {
  Memory* const* known = by_object_.find(address(tensor));
  if (known != nullptr && *known != nullptr) return (*known)->last_written;
  const Memory* memory = find(torch::storage_key_or_none(tensor));
  return memory != nullptr ? memory->last_written : 0;
}

void Recorder::asked_for(Memory& memory, const Facts& facts, PyObject* tensor) {
  const Geometry& g = facts.geometry;
  const auto layout = g.layout();
  if (Asked* known = memory.asked_at(g.pointer, layout)) {
    ++known->times;
  } else {
    memory.add(Asked{g.pointer, g.pointer + g.span(), layout, g.count, 1});
  }
  if (memory.is_computed && covers_storage(tensor, facts)) memory.is_computed = false;
}

bool Recorder::lacks_writes(const Memory& memory, const Geometry& g) const {
  if (!memory.is_new) return false;
  const auto begin = g.pointer, end = begin + g.span();
  std::int64_t most = 0;  // the elements written, if no two writes overlap
  for (const Asked& asked : memory.asked) {
    const auto first = std::max(asked.begin, begin), last = std::min(asked.end, end);
    if (first >= last) continue;
    const auto shared = static_cast<std::int64_t>(last - first) / g.itemsize;
    most += std::min(asked.count, shared);
  }
  return most < g.count;
}

void Recorder::moved(std::uint64_t old_key, PyObject* flat, std::uint64_t distance) {
  Memory& to = memory_of(flat);
  Memory* from = find(old_key);
  if (from == nullptr || from == &to) return;
  to.is_new = from->is_new;
  to.is_computed = from->is_computed;
  to.is_resizable = true;
  to.last_written = from->last_written;
  to.asked = std::move(from->asked);
  for (Asked& asked : to.asked) {
    asked.begin += distance;
    asked.end += distance;
  }
  to.unnamed = std::move(from->unnamed);
  for (Unnamed& unnamed : to.unnamed) unnamed.pointer += distance;
  for (Named& named : from->named) by_object_[address(named.tensor.get())] = &to;
  if (to.named.empty() && !from->named.empty()) named_.push_back(&to);
  to.named = std::move(from->named);
  from->asked.clear();
  from->unnamed.clear();
  from->named.clear();
  from->forget_places();
  to.forget_places();
}

void Recorder::took_over(Memory& memory, Memory& source) {
  memory.asked = std::move(source.asked);
  source.asked.clear();
  memory.forget_places();
  source.forget_places();
}

// --- names ------------------------------------------------------------------------------------

std::uint32_t Recorder::new_name(std::string&& text, std::uint64_t stream) {
  names_.push_back({std::move(text), stream, 0, false, false, {}});
  return static_cast<std::uint32_t>(names_.size() - 1);
}

std::uint32_t Recorder::name_of(std::string_view text) {
  const std::uint64_t stream = stream_of(text);
  std::uint32_t& known = by_stream_[std::max<std::uint64_t>(stream, 1)];
  if (known == 0) known = new_name(std::string(text), stream) + 1;
  return known - 1;
}

void Recorder::expect_names(std::size_t count) {
  by_key_.reserve(count);
  by_object_.reserve(count);
  by_stream_.reserve(count);
}

void Recorder::add_name(std::string_view text, PyObject* tensor, std::uint64_t key) {
  Memory& memory = memory_of(tensor, false, key);
  knows_meeting_ = false;
  if (memory.named.empty()) named_.push_back(&memory);
  memory.named.push_back({name_of(text), Ref::borrowed(tensor)});
  by_object_[address(tensor)] = &memory;
}

void Recorder::follow(PyObject* tensor, std::uint64_t old_key) {
  Memory* const home = find(old_key);
  Memory& to = memory_of(tensor);
  if (home == nullptr || home == &to) return;
  knows_meeting_ = false;
  const bool is_first = to.named.empty();
  auto& old = home->named;
  for (auto named = old.begin(); named != old.end();) {
    if (named->tensor.get() != tensor) {
      ++named;
      continue;
    }
    names_[named->name].drawn.clear();
    to.named.push_back(std::move(*named));
    named = old.erase(named);
  }
  if (is_first && !to.named.empty()) named_.push_back(&to);
  if (is_named(to, tensor)) by_object_[address(tensor)] = &to;  // it lives as long as this
}

std::vector<Memory*> Recorder::meeting(const Memory& memory) {
  if (keeps_account) return {};
  if (!knows_meeting_) {
    std::vector<Extent> extents;
    for (Memory* one : named_) {
      for (const Named& named : one->named) {
        Facts facts;
        if (!torch::facts_of(named.tensor.get(), facts, is_dry)) continue;
        const auto begin = facts.geometry.pointer;
        extents.push_back({begin, begin + facts.geometry.span(), one});
      }
    }
    meeting_ = memories_that_meet(std::move(extents));
    knows_meeting_ = true;
  }
  std::vector<Memory*> found;
  if (!std::binary_search(meeting_.begin(), meeting_.end(), &memory)) return found;
  for (Memory* one : meeting_) {
    if (!one->records.empty()) found.push_back(one);
  }
  return found;
}

// --- records ----------------------------------------------------------------------------------

std::vector<Memory*> Recorder::waiting() const {
  std::vector<Memory*> found;
  found.reserve(waiting_count_);
  for (Memory* memory : waiting_) {
    if (memory != nullptr) found.push_back(memory);
  }
  return found;
}

std::uint32_t Recorder::intern(Rule&& rule) {
  constexpr std::size_t kRecent = 8;  // a layer's code asks for a few in turn
  const std::size_t oldest = rules_.size() > kRecent ? rules_.size() - kRecent : 0;
  for (std::size_t n = rules_.size(); n > oldest; --n) {
    if (rules_[n - 1] == rule) return static_cast<std::uint32_t>(n - 1);
  }
  rules_.push_back(std::move(rule));
  return static_cast<std::uint32_t>(rules_.size() - 1);
}

Ref Recorder::canonical_place(PyObject* place) {
  for (const Ref& known : places_) {
    const int is_same = PyObject_RichCompareBool(known.get(), place, Py_EQ);
    if (is_same < 0) throw PythonError{};
    if (is_same == 1) return known;
  }
  places_.push_back(Ref::borrowed(place));
  return places_.back();
}

void Recorder::wait(Memory& memory) {
  memory.place = waiting_.size();
  waiting_.push_back(&memory);
  ++waiting_count_;
}

void Recorder::rest(Memory& memory) {
  waiting_[memory.place] = nullptr;
  if (--waiting_count_ == 0) waiting_.clear();
}

void Recorder::add(Memory& memory, Record&& record, const Facts& facts) {
  drop_covered(memory, record.tensor.get(), facts);
  if (record.what == What::kCast) {
    has_casts_ = true;
    memory.is_new = false;
    // The source is the second item of Python's record.
    const auto source = torch::storage_key(PyTuple_GET_ITEM(record.object.get(), 1));
    // The source is known: fills of it wait, or casts.
    Memory& from = memory_of(PyTuple_GET_ITEM(record.object.get(), 1), false, source);
    auto& targets = from.cast_targets;
    if (std::find(targets.begin(), targets.end(), memory.key) == targets.end()) {
      targets.push_back(memory.key);
    }
  }
  if (memory.records.empty()) wait(memory);
  record.order = ++order;
  memory.add(std::move(record));
}

void Recorder::drop_covered(Memory& memory, PyObject* tensor, const Facts& facts) {
  if (memory.records.empty()) return;
  if (covers_storage(tensor, facts)) return drop(memory);
  const auto pointer = facts.geometry.pointer, layout = facts.geometry.layout();
  Record* const covered = memory.record_at(pointer, layout);
  if (covered == nullptr) return;
  const Record gone = std::move(*covered);
  memory.records.erase(memory.records.begin() + (covered - memory.records.data()));
  if (memory.records.empty()) rest(memory);
}

// Objects may run code when they die: the recorder has to be in order before.
void Recorder::drop(Memory& memory) {
  if (memory.records.empty()) return;
  const std::vector<Record> gone = std::move(memory.records);
  memory.records.clear();
  rest(memory);
}

Record Recorder::pop_first(Memory& memory) {
  Record first = std::move(memory.records.front());
  memory.records.erase(memory.records.begin());
  if (memory.records.empty()) rest(memory);
  return first;
}

void Recorder::keep_alias(PyObject* tensor) {
  Memory* memory = find(torch::storage_key(tensor));
  forget_object(tensor);
  if (memory == nullptr) return;
  const auto is_it = [tensor](const Record& record) {
    return record.what == What::kFill && record.tensor.get() == tensor;
  };
  const bool is_held = memory->held.get() == tensor;
  if (!is_held && std::none_of(memory->records.begin(), memory->records.end(), is_it)) return;
  const Ref alias = torch::detached(tensor);
  for (Record& record : memory->records) {
    if (is_it(record)) record.tensor = alias;
  }
  if (is_held) hold(*memory, alias.get());
}

void Recorder::hold_no_views() {
  for (Memory& memory : memories_) {
    if (!memory.held || is_named(memory, memory.held.get())) continue;
    if (!torch::is_view(memory.held.get())) continue;
    const Ref alias = torch::detached(memory.held.get());
    hold(memory, alias.get());
  }
}

Record* Recorder::last_fill(PyObject* tensor) {
  Memory* memory = find(torch::storage_key(tensor));
  Facts facts;
  if (memory == nullptr || memory->records.empty() || !memory->cast_targets.empty() ||
      !torch::facts_of(tensor, facts, is_dry)) {
    return nullptr;
  }
  Record& last = memory->records.back();
  const auto& g = facts.geometry;

  // Without an account, storages may lie over each other: a write of the other may have come since.
  const bool is_last = keeps_account || last.order == order;
  const bool is_same = last.pointer == g.pointer && last.layout == g.layout();
  return last.what == What::kFill && is_same && is_last ? &last : nullptr;
}

const Record* Recorder::cast_to(const Memory& memory) const {
  return !memory.records.empty() && memory.records.front().what == What::kCast
             ? &memory.records.front()
             : nullptr;
}

bool Recorder::is_orphan(const Memory& memory) const {
  if (!memory.named.empty() || (!memory.held && memory.records.empty())) return false;
  std::vector<PyObject*> held;  // once for each of our references
  if (memory.held) held.push_back(memory.held.get());
  std::int64_t holders = 0;
  for (const Record& record : memory.records) {
    if (record.what == What::kFill) {
      held.push_back(record.tensor.get());
    } else {  // Python's record holds an alias of its own
      ++holders;
    }
  }
  std::sort(held.begin(), held.end());
  for (auto one = held.begin(); one != held.end(); ++holders) {
    const auto next = std::find_if(one, held.end(), [one](PyObject* o) { return o != *one; });
    if (Py_REFCNT(*one) > next - one) return false;
    one = next;
  }
  for (const std::uint64_t target : memory.cast_targets) {
    const Memory* found = find(target);
    const Record* cast = found == nullptr ? nullptr : cast_to(*found);
    if (cast != nullptr &&
        torch::storage_key(PyTuple_GET_ITEM(cast->object.get(), 1)) == memory.key) {
      ++holders;
    }
  }
  PyObject* const any = memory.held ? memory.held.get() : memory.records.front().tensor.get();
  return torch::storage_users(any) <= holders;
}

int Recorder::each_reference(const std::function<int(PyObject*)>& visit) const {
  const auto see = [&visit](const Ref& ref) { return ref ? visit(ref.get()) : 0; };
  for (const Memory& memory : memories_) {
    if (const int stop = see(memory.held)) return stop;
    for (const Record& record : memory.records) {
      if (const int stop = see(record.tensor)) return stop;
      if (const int stop = see(record.object)) return stop;
    }
    for (const Named& named : memory.named) {
      if (const int stop = see(named.tensor)) return stop;
    }
  }
  for (const Rule& rule : rules_) {
    for (const Ref* ref : {&rule.place, &rule.origin, &rule.fan_rule, &rule.tail, &rule.chain}) {
      if (const int stop = see(*ref)) return stop;
    }
  }
  if (const int stop = see(origin_in_force)) return stop;
  return see(groups);
}

}  // namespace fastinit

// The recorder of a plan: what waits, and who still holds its memory.
#include <algorithm>

#include "../cuda/driver.h"
#include "recorder.h"

namespace fastinit {

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

bool Recorder::may_wait(const Place& place) const {
  if (!place.is_on_gpu()) return true;
  const auto own = std::find_if(streams.begin(), streams.end(),
                                [&](const Place& p) { return p.device == place.device; });
  const std::uint64_t stream = own != streams.end() ? own->stream : 0;
  return place.stream == stream && !cuda_is_capturing(place.device, place.stream);
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
  const Region* const region = record.taken ? memory.region_of(facts.geometry) : nullptr;
  if (record.taken && !(region != nullptr && is_all(*record.taken, *region))) {
    drop_parts(memory, [&record](const Record& other) { return *other.taken == *record.taken; });
  } else {
    drop_covered(memory, record.tensor.get(), facts);
  }
  if (record.what == What::kCast) {
    has_casts_ = true;
    memory.is_new = false;
    // The source is the second item of Python's record.
    PyObject* const source = PyTuple_GET_ITEM(record.object.get(), 1);
    // The source is known: fills of it wait, or casts.
    Memory& from = memory_of(source, false, torch::storage_key(source));
    Facts of_source;
    if (keeps_account && torch::facts_of(source, of_source)) {
      asked_for(memory, facts.geometry, from, of_source.geometry);
    }
    auto& targets = from.cast_targets;
    if (std::find(targets.begin(), targets.end(), memory.key) == targets.end()) {
      targets.push_back(memory.key);
    }
  }
  if (memory.records.empty()) wait(memory);
  // A copy or cast to other memory than the CPU's: it, or the fills that it takes over.
  const bool is_on_gpu = record.what == What::kFill ? rules_[record.rule].place.is_on_gpu()
                                                    : !facts.is_cpu && !facts.is_meta;
  has_launches = has_launches || is_on_gpu;
  record.order = ++order;
  memory.add(std::move(record));
}

// Of parts of a shard, whatever of them this rank has: on all ranks the same records wait.
void Recorder::drop_parts(Memory& memory, const std::function<bool(const Record&)>& is_covered) {
  std::vector<Record> gone, kept;
  for (Record& record : memory.records) {
    const bool goes = record.taken != nullptr && is_covered(record);
    (goes ? gone : kept).push_back(std::move(record));
  }
  memory.records = std::move(kept);
  if (!gone.empty() && memory.records.empty()) rest(memory);
}

void Recorder::drop_covered(Memory& memory, PyObject* tensor, const Facts& facts) {
  if (memory.records.empty()) return;
  if (covers_storage(tensor, facts)) return drop(memory);
  const auto& g = facts.geometry;
  if (Record* const covered = memory.record_at(g.pointer, g.layout())) {
    const Record gone = std::move(*covered);
    memory.records.erase(memory.records.begin() + (covered - memory.records.data()));
    if (memory.records.empty()) rest(memory);
  }
  // A shard may lie in a larger storage, whose rest belongs to nobody.
  if (memory.records.empty() || memory.region_of(g) == nullptr) return;
  drop_parts(memory, [&](const Record& other) {
    const bool is_within = other.pointer >= g.pointer && other.pointer < g.pointer + g.span();
    return memory.shards.size() == 1 || is_within;
  });
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

void Recorder::leave(PyObject* tensor) {
  Memory* const memory = find(torch::storage_key_or_none(tensor));
  if (memory == nullptr) return;
  const Ref alias = torch::detached(tensor);
  for (Named& named : memory->named) {
    if (named.tensor.get() != tensor) continue;
    forget_object(tensor);
    named.tensor = alias;
    by_object_[reinterpret_cast<std::uint64_t>(alias.get())] = memory;
  }
  keep_alias(tensor);
}

void Recorder::hold_no_views() {
  for (Memory& memory : memories_) {
    if (!memory.held || memory.has_name(memory.held.get())) continue;
    if (!torch::is_view(memory.held.get())) continue;
    const Ref alias = torch::detached(memory.held.get());
    hold(memory, alias.get());
  }
}

Record* Recorder::last_fill(PyObject* tensor) {
  Memory* memory = find(torch::storage_key(tensor));
  Facts facts;
  if (memory == nullptr || memory->records.empty() || !casts_from(*memory).empty() ||
      !torch::facts_of(tensor, facts)) {
    return nullptr;
  }
  Record& last = memory->records.back();
  const auto& g = facts.geometry;
  // Without an account, storages may lie over each other: a write of the other may have come since.
  const bool is_last = keeps_account || last.order == order;
  const bool is_same = last.pointer == g.pointer && last.layout == g.layout();
  // Of a shard, what is all that this rank holds may be a part or a view of the whole.
  const bool is_fill = last.what == What::kFill && last.taken == nullptr;
  return is_fill && is_same && is_last ? &last : nullptr;
}

const Record* Recorder::cast_to(const Memory& memory) const {
  return !memory.records.empty() && memory.records.front().what == What::kCast
             ? &memory.records.front()
             : nullptr;
}

std::vector<Memory*> Recorder::casts_from(const Memory& memory) const {
  std::vector<Memory*> found;
  for (const std::uint64_t target : memory.cast_targets) {
    Memory* other = find(target);
    const Record* cast = other != nullptr ? cast_to(*other) : nullptr;
    if (cast != nullptr &&
        torch::storage_key(PyTuple_GET_ITEM(cast->object.get(), 1)) == memory.key) {
      found.push_back(other);
    }
  }
  return found;
}

bool Recorder::is_orphan(const Memory& memory) const {
  if (!memory.named.empty() || (!memory.held && memory.records.empty())) return false;
  return is_alone(memory);
}

bool Recorder::is_alone(const Memory& memory, const std::vector<PyObject*>& tensors) const {
  const auto is_given = [&tensors](PyObject* tensor) {
    return std::find(tensors.begin(), tensors.end(), tensor) != tensors.end();
  };
  std::vector<PyObject*> held;  // once for each of our references
  for (const Named& named : memory.named) held.push_back(named.tensor.get());
  if (memory.held) held.push_back(memory.held.get());
  std::int64_t holders = 0;
  for (const Record& record : memory.records) {
    held.push_back(record.tensor.get());
    if (record.what != What::kFill) held.push_back(record.tensor.get());  // by Python's record
  }
  std::sort(held.begin(), held.end());
  for (auto one = held.begin(); one != held.end(); ++holders) {
    const auto next = std::find_if(one, held.end(), [one](PyObject* o) { return o != *one; });
    const bool is_held = Py_REFCNT(*one) > next - one || torch::is_held_by_torch(*one);
    if (is_held && !is_given(*one)) return false;
    one = next;
  }
  for (PyObject* const tensor : tensors) {
    if (!std::binary_search(held.begin(), held.end(), tensor)) ++holders;
  }
  holders += static_cast<std::int64_t>(casts_from(memory).size());
  if (held.empty() && tensors.empty()) return true;
  return torch::storage_users(held.empty() ? tensors.front() : held.front()) <= holders;
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
      if (const int stop = see(named.owner)) return stop;
    }
  }
  for (const Rule& rule : rules_) {
    for (const Ref* ref : {&rule.origin, &rule.fan_rule, &rule.tail, &rule.chain}) {
      if (const int stop = see(*ref)) return stop;
    }
  }
  if (const int stop = see(origin_in_force)) return stop;
  return see(groups);
}

}  // namespace fastinit

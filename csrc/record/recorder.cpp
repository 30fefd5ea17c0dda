// The recorder of a plan: memory and names.
#include "recorder.h"

#include <algorithm>
#include <optional>

#include "name.h"

namespace fastinit {

namespace {

std::uint64_t address(PyObject* tensor) { return reinterpret_cast<std::uint64_t>(tensor); }

}  // namespace

Recorder::Recorder(bool keeps_account, std::uint64_t seed)
    : keeps_account(keeps_account), seed(seed), thread(PyThread_get_thread_ident()) {}

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
  if (keeps_account && !is_fresh) {
    unwatched.emplace();  // with an account there is a mode
    storage = torch::storage_of(tensor);
  }
  if (key == 0) {
    key = storage ? torch::key_of_storage(storage) : torch::storage_key(tensor);
    if (Memory* memory = find(key)) return *memory;
  }
  const bool is_inference = is_fresh ? torch::is_inference_mode() : torch::is_inference(tensor);
  const bool is_neg = !is_fresh && torch::is_neg(tensor);
  const bool is_resizable = storage ? torch::is_resizable(storage) : is_fresh;
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
  if (before && !memory.has_name(before.get())) by_object_[address(before.get())] = nullptr;
  by_object_[address(tensor)] = &memory;
}

void Recorder::forget_object(PyObject* tensor) {
  if (Memory** known = by_object_.find(address(tensor))) *known = nullptr;
}

void Recorder::allocated(PyObject* tensor) {
  Facts facts;
  if (!torch::facts_of(tensor, facts)) return;
  memory_of(tensor, true).is_new = true;  // an empty shard is as new as those of other ranks
  held(facts);
}

void Recorder::held(const Facts& facts) {
  bytes_ += facts.geometry.span();
  if (bytes_ > bytes_to_sweep_) sweep();
}

// Nor by what waits to be copied from it.
bool Recorder::is_held_by_nobody_else(const Memory& memory) const {
  return memory.held && memory.named.empty() && is_orphan(memory) && casts_from(memory).empty();
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
      if (torch::facts_of(memory.held.get(), facts)) bytes_ += facts.geometry.span();
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
    if (torch::facts_of(tensor, facts)) held(facts);
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

void Recorder::asked_for(Memory& memory, const Geometry& g, const Memory& other,
                         const Geometry& geometry) {
  const Asked* const asked = other.asked_at(geometry.pointer, geometry.layout());
  if (asked == nullptr) return;
  if (Asked* const known = memory.asked_at(g.pointer, g.layout())) {
    known->times += asked->times;
  } else {
    memory.add(Asked{g.pointer, g.pointer + g.span(), g.layout(), g.count, asked->times});
  }
}

bool Recorder::is_shard(PyObject* tensor, Region&& region) {
  Facts facts;
  if (!torch::facts_of(tensor, facts)) return false;
  const auto& g = facts.geometry;
  Memory& memory = memory_of(tensor);
  if (memory.region_of(g) == nullptr)
    memory.shards.push_back({g.pointer, g.layout(), std::move(region)});
  return std::any_of(memory.shards.begin(), memory.shards.end(),
                     [&g](const Shard& other) { return other.pointer != g.pointer; });
}

void Recorder::lent(PyObject* whole, PyObject* local) {
  Memory& to = memory_of(whole);
  Facts loan, shard;
  if (!torch::facts_of(whole, loan) || !torch::facts_of(local, shard)) return;
  const Memory& from = memory_of(local);
  for (const Named& named : from.named) {
    Facts facts;
    if (!torch::facts_of(named.tensor.get(), facts)) continue;
    if (facts.geometry == shard.geometry)
      to.named.push_back({named.name, Ref::borrowed(whole), Ref()});
  }
  if (!to.named.empty()) named_.push_back(&to);
  to.is_lent = true;
  to.is_new = from.is_new;
  to.is_computed = from.is_computed;
  const auto& g = shard.geometry;
  if (const Asked* asked = from.asked_at(g.pointer, g.layout())) {
    const auto& w = loan.geometry;
    to.add(Asked{w.pointer, w.pointer + w.span(), w.layout(), w.count, asked->times});
  }
  if (const Unnamed* unnamed = from.unnamed_at(g.pointer, g.layout())) {
    Unnamed same = *unnamed;
    same.pointer = loan.geometry.pointer;
    same.layout = loan.geometry.layout();
    same.is_lent = true;
    to.add(std::move(same));
  }
}

void Recorder::returned(PyObject* whole, PyObject* local) {
  Memory& from = memory_of(whole);
  Facts loan, shard;
  if (!torch::facts_of(whole, loan) || !torch::facts_of(local, shard)) return;
  Memory& to = memory_of(local);
  if (!lacks_writes(from, loan.geometry)) to.is_new = false;
  to.is_computed = from.is_computed;
  to.last_written = ++clock;
  const auto& g = shard.geometry;
  Asked* const asked = from.asked_at(loan.geometry.pointer, loan.geometry.layout());
  Asked* const before = to.asked_at(g.pointer, g.layout());
  if (asked != nullptr && before != nullptr) {
    before->times = asked->times;
  } else if (asked != nullptr) {
    to.add(Asked{g.pointer, g.pointer + g.span(), g.layout(), g.count, asked->times});
  }
  for (Unnamed& unnamed : from.unnamed) {
    const auto& w = loan.geometry;
    const bool is_all = unnamed.pointer == w.pointer && unnamed.layout == w.layout();
    if (is_all && to.unnamed_at(g.pointer, g.layout()) == nullptr) {
      unnamed.pointer = g.pointer;
      unnamed.layout = g.layout();
      unnamed.is_lent = false;
      to.add(std::move(unnamed));
    }
  }
  from.unnamed.clear();
  from.forget_places();
}

void Recorder::forget(Memory& memory) {
  unname(memory);
  by_key_[memory.key] = nullptr;
  if (!memory.held) return;
  forget_object(memory.held.get());
  const Ref gone = std::exchange(memory.held, Ref());
}

void Recorder::unname(Memory& memory) {
  const std::vector<Named> gone = std::move(memory.named);
  memory.named.clear();
  if (memory.is_lent) {
    auto& own = memory.unnamed;
    own.erase(std::remove_if(own.begin(), own.end(), [](const Unnamed& u) { return u.is_lent; }),
              own.end());
    memory.forget_places();
  }
  memory.is_lent = false;
  for (const Named& named : gone) {
    if (named.tensor.get() != memory.held.get()) forget_object(named.tensor.get());
    if (named.owner) forget_object(named.owner.get());
  }
  named_.erase(std::remove(named_.begin(), named_.end(), &memory), named_.end());
  knows_meeting_ = false;
}

// --- names ------------------------------------------------------------------------------------

std::uint32_t Recorder::new_name(std::string&& text, std::uint64_t stream) {
  names_.push_back({std::move(text), stream, 0, false, 0, 0, {}});
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

void Recorder::add_name(std::string_view text, PyObject* tensor, std::uint64_t key,
                        PyObject* owner) {
  Memory& memory = memory_of(tensor, false, key);
  knows_meeting_ = false;
  if (memory.named.empty()) named_.push_back(&memory);
  memory.named.push_back(
      {name_of(text), Ref::borrowed(tensor), owner != nullptr ? Ref::borrowed(owner) : Ref()});
  by_object_[address(tensor)] = &memory;
  if (owner != nullptr) by_object_[address(owner)] = &memory;
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
  if (to.has_name(tensor)) by_object_[address(tensor)] = &to;  // it lives as long as this
}

std::vector<Memory*> Recorder::meeting(const Memory& memory) {
  if (keeps_account) return {};
  if (!knows_meeting_) {
    std::vector<Extent> extents;
    for (Memory* one : named_) {
      for (const Named& named : one->named) {
        Facts facts;
        if (!torch::facts_of(named.tensor.get(), facts)) continue;
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

}  // namespace fastinit

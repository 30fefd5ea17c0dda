// What reports and manifests tell; the latter with what waits counted as executed.
#include <algorithm>
#include <deque>
#include <map>

#include "execution.h"
#include "recorder.h"

namespace fastinit {
namespace {

// Draws while it lives leave the recorder as it was.
class Trial {
 public:
  Trial(std::deque<Name>& names, std::uint32_t& count, std::vector<Memory*> memories)
      : names_(names), count_(count), saved_count_(count), memories_(std::move(memories)) {
    for (const Name& name : names_) saved_.push_back({name.draws, name.has_drawn, name.drawn});
  }
  ~Trial() {
    const auto first = static_cast<std::uint32_t>(saved_.size());
    for (Memory* memory : memories_) {
      auto& own = memory->unnamed;
      const auto is_new = [first](const Unnamed& unnamed) { return unnamed.name >= first; };
      own.erase(std::remove_if(own.begin(), own.end(), is_new), own.end());
    }
    while (names_.size() > saved_.size()) names_.pop_back();
    for (std::size_t n = 0; n < saved_.size(); ++n) {
      names_[n].draws = saved_[n].draws;
      names_[n].has_drawn = saved_[n].has_drawn;
      names_[n].drawn = std::move(saved_[n].drawn);
    }
    count_ = saved_count_;
  }
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;

 private:
  struct Saved {
    std::uint32_t draws;
    bool has_drawn;
    std::vector<Drawn> drawn;
  };
  std::deque<Name>& names_;
  std::vector<Saved> saved_;
  std::uint32_t& count_;
  const std::uint32_t saved_count_;
  std::vector<Memory*> memories_;
};

std::uint32_t times_asked(const Memory& memory, const Geometry& g) {
  const Asked* const asked = memory.asked_at(g.pointer, g.layout());
  return asked != nullptr ? asked->times : 0;
}

bool is_computed(const Memory& memory) {
  return memory.is_computed ||
         std::any_of(memory.records.begin(), memory.records.end(),
                     [](const Record& record) { return record.what != What::kFill; });
}

}  // namespace

std::vector<std::uint32_t> Recorder::early_names() const {
  std::vector<std::uint32_t> found;
  for (const Memory* memory : named_) {
    for (const Named& named : memory->named) {
      Facts facts;
      if (!torch::facts_of(named.tensor.get(), facts, is_dry)) continue;
      const auto& g = facts.geometry;
      if (memory->unnamed_at(g.pointer, g.layout()) != nullptr) found.push_back(named.name);
    }
  }
  return found;
}

std::vector<const Named*> Recorder::unwritten() const {
  std::vector<const Named*> found;
  for (const Memory* memory : named_) {
    if (!memory->is_new) continue;
    for (const Named& named : memory->named) {
      Facts facts;
      const bool is_there = torch::facts_of(named.tensor.get(), facts, is_dry) &&
                            torch::storage_key(named.tensor.get()) == memory->key;
      if (!is_there || !lacks_writes(*memory, facts.geometry)) continue;
      const auto is_same = [&](const Named* n) { return n->tensor == named.tensor; };
      if (std::none_of(found.begin(), found.end(), is_same)) found.push_back(&named);
    }
  }
  return found;
}

std::vector<std::uint32_t> Recorder::unnamed() const {
  std::vector<std::uint32_t> found;
  for (const Memory& memory : memories_) {
    for (const Unnamed& unnamed : memory.unnamed) found.push_back(unnamed.name);
  }
  std::sort(found.begin(), found.end());
  return found;
}

PyObject* Recorder::preview(const std::function<PyObject*(const std::vector<Seen>&)>& make) {
  std::vector<Memory*> held;
  for (Memory* memory : waiting()) {
    if (!is_orphan(*memory)) held.push_back(memory);
  }
  const Trial trial(names_, unnamed_count_, held);
  Execution execution(*this, held);
  execution.draw();
  execution.throw_kept();
  execution.book();
  return make(seen());
}

std::vector<Recorder::Seen> Recorder::seen() {
  std::vector<Seen> found;
  const auto add = [&found](Seen one) { found.push_back(std::move(one)); };
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::size_t> places;  // of one memory
  std::vector<std::pair<const Memory*, const Unnamed*>> others;
  for (const Memory& memory : memories_) {
    for (const Unnamed& unnamed : memory.unnamed) others.emplace_back(&memory, &unnamed);
  }
  std::sort(others.begin(), others.end(),
            [](const auto& x, const auto& y) { return x.second->name < y.second->name; });
  std::unordered_map<const Unnamed*, bool> has_name;
  for (const Memory* memory : named_) {
    places.clear();
    for (const Named& named : memory->named) {
      Facts facts;
      const bool is_known = torch::facts_of(named.tensor.get(), facts, is_dry);
      if (!is_known || torch::storage_key(named.tensor.get()) != memory->key) {
        // It has other memory since, unknown to the plan.
        add({named.name, named.tensor, nullptr, {}, "computed", true, 0});
        continue;
      }
      const auto& g = facts.geometry;
      const auto layout = g.layout();
      const auto [same, is_first] = places.try_emplace({g.pointer, layout}, found.size());
      if (!is_first) {
        found[same->second].aliases.push_back(named.name);
        continue;
      }
      if (const Unnamed* unnamed = memory->unnamed_at(g.pointer, layout)) has_name[unnamed] = true;
      add({named.name,
           named.tensor,
           nullptr,
           {},
           lacks_writes(*memory, g) ? "unwritten" : nullptr,
           is_computed(*memory),
           times_asked(*memory, g)});
    }
  }
  for (const auto& [memory, unnamed] : others) {
    if (has_name.count(unnamed) != 0) continue;
    const Asked* const asked = memory->asked_at(unnamed->pointer, unnamed->layout);
    add({unnamed->name,
         Ref(),
         unnamed,
         {},
         nullptr,
         is_computed(*memory),
         asked != nullptr ? asked->times : 0});
  }
  return found;
}

}  // namespace fastinit

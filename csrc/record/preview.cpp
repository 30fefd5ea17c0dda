// What reports and manifests tell; the latter with what waits counted as executed.
#include <algorithm>
#include <deque>
#include <map>
#include <unordered_set>

#include "execution.h"
#include "recorder.h"

namespace fastinit {
namespace {

// Draws while it lives leave the recorder as it was.
class Trial {
 public:
  Trial(std::deque<Name>& names, std::uint32_t& count, std::vector<Memory*> memories)
      : names_(names), count_(count), saved_count_(count), memories_(std::move(memories)) {
    for (const Name& name : names_)
      saved_.push_back({name.draws, name.has_drawn, name.filled, name.disturbed, name.drawn});
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
      names_[n].filled = saved_[n].filled;
      names_[n].disturbed = saved_[n].disturbed;
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
    std::uint64_t filled, disturbed;
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

struct Whole {
  Geometry geometry;
  std::size_t entry;
};

// Of the named tensors of a storage, those that share elements with a larger one: fills of them are
// told as its, and what they hold is not told by fills of their own. Of two that merely overlap,
// neither is.
std::vector<std::size_t> told_by_others(std::vector<Whole>& wholes) {
  std::vector<std::size_t> found;
  std::sort(wholes.begin(), wholes.end(),
            [](const Whole& x, const Whole& y) { return x.geometry.pointer < y.geometry.pointer; });
  for (std::size_t n = 0; n < wholes.size(); ++n) {
    const Geometry& x = wholes[n].geometry;
    for (std::size_t k = n + 1; k < wholes.size(); ++k) {
      const Geometry& y = wholes[k].geometry;
      if (y.pointer >= x.pointer + x.span()) break;
      if (x.itemsize != y.itemsize || !share_elements(x, y)) continue;
      if (!box_in(x, y)) found.push_back(wholes[k].entry);
      if (!box_in(y, x)) found.push_back(wholes[n].entry);
      if (box_in(y, x) && box_in(x, y)) found.push_back(std::max(wholes[n].entry, wholes[k].entry));
    }
  }
  return found;
}

bool is_computed(const Memory& memory) {
  return memory.is_computed ||
         std::any_of(memory.records.begin(), memory.records.end(),
                     [](const Record& record) { return record.what != What::kFill; });
}

}  // namespace

std::vector<Recorder::Early> Recorder::early_names() const {
  std::vector<Early> found;
  for (const Memory* memory : named_) {
    for (const Named& named : memory->named) {
      Facts facts;
      if (!torch::facts_of(named.tensor.get(), facts)) continue;
      const auto& g = facts.geometry;
      if (const Unnamed* unnamed = memory->unnamed_at(g.pointer, g.layout()))
        found.push_back({named.name, unnamed->name});
    }
  }
  return found;
}

std::vector<const Named*> Recorder::unwritten() const {
  std::vector<const Named*> found;
  for (const Memory* memory : named_) {
    if (!memory->is_new || memory->is_lent) continue;
    for (const Named& named : memory->named) {
      Facts facts;
      const bool is_there = torch::facts_of(named.tensor.get(), facts) &&
                            torch::storage_key(named.tensor.get()) == memory->key;
      if (!is_there || !lacks_writes(*memory, facts.geometry)) continue;
      const auto is_same = [&](const Named* n) { return n->tensor == named.tensor; };
      if (std::none_of(found.begin(), found.end(), is_same)) found.push_back(&named);
    }
  }
  return found;
}

std::vector<const Unnamed*> Recorder::unnamed() const {
  std::vector<const Unnamed*> found;
  for (const Memory& memory : memories_) {
    for (const Unnamed& unnamed : memory.unnamed) {
      if (!unnamed.is_lent) found.push_back(&unnamed);
    }
  }
  std::sort(found.begin(), found.end(),
            [](const Unnamed* x, const Unnamed* y) { return x->name < y->name; });
  return found;
}

PyObject* Recorder::preview(const std::function<PyObject*(const std::vector<Seen>&)>& make) {
  const std::vector<Memory*> all = waiting();
  const Trial trial(names_, unnamed_count_, all);
  const auto draw = [this](const std::vector<Memory*>& memories) {
    Execution execution(*this, memories);
    execution.draw();
    execution.throw_kept();
    execution.book();
  };
  // As a plan ends: what a cast is made from comes first, and alone.
  std::unordered_set<Memory*> drawn;
  const std::function<void(Memory*)> draw_source = [&](Memory* memory) {
    const Record* const cast = cast_to(*memory);
    if (cast == nullptr) return;
    Memory* const source = find(torch::storage_key(PyTuple_GET_ITEM(cast->object.get(), 1)));
    if (source == nullptr || !drawn.insert(source).second) return;
    draw_source(source);
    draw({source});
  };
  std::vector<Memory*> held;
  for (Memory* memory : all) {
    if (is_orphan(*memory)) continue;
    draw_source(memory);
    held.push_back(memory);
  }
  held.erase(
      std::remove_if(held.begin(), held.end(), [&](Memory* m) { return drawn.count(m) != 0; }),
      held.end());
  draw(held);
  return make(seen());
}

std::vector<Recorder::Seen> Recorder::seen() {
  std::vector<Seen> found;
  const auto add = [&found](Seen one) { found.push_back(std::move(one)); };
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::size_t> places;  // of one memory
  std::vector<std::pair<const Memory*, const Unnamed*>> others;
  for (const Memory& memory : memories_) {
    for (const Unnamed& unnamed : memory.unnamed) {
      if (!unnamed.is_lent) others.emplace_back(&memory, &unnamed);
    }
  }
  std::sort(others.begin(), others.end(),
            [](const auto& x, const auto& y) { return x.second->name < y.second->name; });
  std::unordered_map<const Unnamed*, bool> has_name;
  for (const Memory* memory : named_) {
    if (memory->is_lent) continue;
    places.clear();
    std::vector<Whole> wholes;
    for (const Named& named : memory->named) {
      Facts facts;
      const bool is_known = torch::facts_of(named.tensor.get(), facts);
      if (!is_known || torch::storage_key(named.tensor.get()) != memory->key) {
        // It has other memory since, unknown to the plan.
        add({named.name, named.tensor, nullptr, nullptr, {}, "computed", true, 0});
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
           memory->region_of(g),
           {},
           lacks_writes(*memory, g) ? "unwritten" : nullptr,
           is_computed(*memory) || names_[named.name].is_disturbed(),
           times_asked(*memory, g)});
      wholes.push_back({g, found.size() - 1});
    }
    for (const std::size_t entry : told_by_others(wholes)) found[entry].is_computed = true;
  }
  for (const auto& [memory, unnamed] : others) {
    if (has_name.count(unnamed) != 0) continue;
    const Asked* const asked = memory->asked_at(unnamed->pointer, unnamed->layout);
    add({unnamed->name,
         Ref(),
         unnamed,
         nullptr,
         {},
         nullptr,
         is_computed(*memory),
         asked != nullptr ? asked->times : 0});
  }
  return found;
}

}  // namespace fastinit

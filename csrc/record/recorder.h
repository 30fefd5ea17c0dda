// The recorder of a plan: which memory has which writes waiting, which name, and what was drawn.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "memory.h"

namespace fastinit {

class Recorder {
 public:
  Recorder(bool keeps_account, std::uint64_t seed);
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  // --- memory
  Memory* find(std::uint64_t key) const;
  // `is_fresh`: torch has just allocated it. `key`: of its storage, if the caller knows it.
  Memory& memory_of(PyObject* tensor, bool is_fresh = false, std::uint64_t key = 0);
  bool knows(PyObject* tensor) const;  // as one that is held or has a name
  void allocated(PyObject* tensor);
  void computed(Memory& memory);
  void computed(PyObject* tensor);
  void wrote(PyObject* tensor);
  // The clock at the last write to the tensor's memory; 0 if there was none.
  std::uint64_t last_written(PyObject* tensor) const;
  static constexpr std::uint64_t kLeastToSweep = std::uint64_t{1} << 24;
  void asked_for(Memory& memory, const Facts& facts, PyObject* tensor);
  // What was asked for of other memory, which is cast to this, was asked for of this.
  static void asked_for(Memory& memory, const Geometry& g, const Memory& other,
                        const Geometry& geometry);
  bool lacks_writes(const Memory& memory, const Geometry& geometry) const;
  void forget_object(PyObject* tensor);
  // `flat`, all of other memory `distance` bytes away, takes the place of a storage.
  void moved(std::uint64_t old_key, PyObject* flat, std::uint64_t distance);
  // The tensor is a part of a larger one. Returns whether its storage has parts of others.
  bool is_shard(PyObject* tensor, Region&& region);
  // `whole`, a tensor of its own, takes the place of the shard `local`, under its names.
  void lent(PyObject* whole, PyObject* local);
  // `local` takes its place again: it counts as written as `whole` is.
  void returned(PyObject* whole, PyObject* local);
  // The tensors of the memory have no names any more.
  void unname(Memory& memory);
  // Holds it no longer. Nothing waits for it.
  void forget(Memory& memory);

  // --- names
  void expect_names(std::size_t count);  // makes room
  // `owner`: the DTensor whose local part the tensor is.
  void add_name(std::string_view text, PyObject* tensor, std::uint64_t key = 0,
                PyObject* owner = nullptr);
  void follow(PyObject* tensor, std::uint64_t old_key);
  struct Early {
    std::uint32_t name, drawn_as;
  };
  std::vector<Early> early_names() const;
  // Named tensors of which part is certainly unwritten, each under its first name.
  std::vector<const Named*> unwritten() const;
  std::vector<const Unnamed*> unnamed() const;  // in order
  const Name& name(std::uint32_t n) const { return names_[n]; }

  // --- records
  // The memory that waits, if this one and it are among those with names that lie over each other,
  // as by torch.from_numpy: what is done with one has to be done with all. In plans with an account
  // such memory does not wait.
  std::vector<Memory*> meeting(const Memory& memory);
  bool is_waiting() const { return waiting_count_ > 0; }
  bool has_casts() const { return has_casts_; }
  std::vector<Memory*> waiting() const;
  std::uint32_t intern(Rule&& rule);
  // Whether a fill that is to be launched there may wait: only in the order of its own stream.
  bool may_wait(const Place& place) const;
  const Rule& rule(std::uint32_t n) const { return rules_[n]; }
  std::uint64_t seed_of(const Rule& rule) const { return rule.has_seed ? rule.seed : seed; }
  void add(Memory& memory, Record&& record, const Facts& facts);
  void drop_parts(Memory& memory, const std::function<bool(const Record&)>& is_covered);
  void drop_covered(Memory& memory, PyObject* tensor, const Facts& facts);
  void drop(Memory& memory);
  // Gives up the memory that no code holds any more.
  void sweep();
  // Holds no memory for its key any more: no plan is open for new writes.
  void give_up();
  Record pop_first(Memory& memory);
  // Holds no view any more, which would hold the tensor that it is one of.
  void hold_no_views();
  // Tensor objects that waiting records hold keep their memory although they get other memory.
  void keep_alias(PyObject* tensor);
  // Likewise those that have names.
  void leave(PyObject* tensor);
  // The last record of the tensor's memory, if it fills exactly this tensor; else null.
  Record* last_fill(PyObject* tensor);
  bool is_orphan(const Memory& memory) const;
  // Whether code holds no tensor of the memory but these.
  bool is_alone(const Memory& memory, const std::vector<PyObject*>& tensors = {}) const;
  const Record* cast_to(const Memory& memory) const;
  // The memory with a waiting cast from this one.
  std::vector<Memory*> casts_from(const Memory& memory) const;

  // --- for manifests, with what waits counted as executed
  struct Seen {
    std::uint32_t name;
    Ref tensor;              // none for one without a name,
    const Unnamed* unnamed;  // of which this is known
    const Region* region;    // of what it is a part of; null without
    std::vector<std::uint32_t> aliases;
    const char* status;  // "unwritten", "computed", or null if what was drawn tells
    bool is_computed;
    std::uint32_t times;  // that a write was asked for
  };
  PyObject* preview(const std::function<PyObject*(const std::vector<Seen>&)>& make);

  int each_reference(const std::function<int(PyObject*)>& visit) const;

  // Carries out a copy or cast, or the tail of a fill.
  using Copy = std::function<void(const Record&)>;
  using Launch = std::function<void(const Place&, std::vector<Segment>&& rows)>;
  const bool keeps_account;
  std::uint64_t seed;
  const unsigned long thread;  // in which the plan was opened
  bool is_open = true;
  int calls = 0;        // of torch that the mode has let through, and sees nothing of
  std::string prefix;   // of the names of tensors without one
  Ref origin_in_force;  // text of the rule of an init_cfg; none: code itself asks
  // Of each GPU the stream that was current when the plan was opened; of others the default one.
  std::vector<Place> streams;
  bool is_running = false;    // while an execution is
  bool has_launches = false;  // whether what waits may be work of a GPU
  Ref groups;                 // of the fan groups, see fan_groups.py; none without
  std::uint64_t clock = 0;
  std::uint64_t order = 0;

 private:
  friend class Execution;
  std::uint32_t name_of(std::string_view text);
  std::uint32_t new_name(std::string&& text, std::uint64_t stream);
  void wait(Memory& memory);
  void rest(Memory& memory);
  void hold(Memory& memory, PyObject* tensor);
  void held(const Facts& facts);
  bool is_held_by_nobody_else(const Memory& memory) const;
  std::vector<Seen> seen();

  std::deque<Memory> memories_;    // stay where they are
  PointerMap<Memory*> by_key_;     // null: given up
  PointerMap<Memory*> by_object_;  // of tensors that are held or have names; null: not known
  std::vector<Memory*> waiting_;   // in order of first records; null: none
  std::size_t waiting_count_ = 0;
  std::vector<Rule> rules_;
  std::deque<Name> names_;               // stay where they are
  PointerMap<std::uint32_t> by_stream_;  // one more than the name's number; without "#n"
  std::vector<Memory*> named_;           // in order
  std::uint64_t bytes_ = 0, bytes_to_sweep_ = kLeastToSweep;  // held, in plans with an account
  std::uint32_t unnamed_count_ = 0;
  std::vector<Memory*> meeting_;  // whether it waits or not
  bool knows_meeting_ = false;
  bool has_casts_ = false;
};

}  // namespace fastinit

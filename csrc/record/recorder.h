// The recorder of a plan: which memory has which writes waiting, which name, and what was drawn.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "../table/segment.h"
#include "geometry.h"
#include "pointer_map.h"
#include "python.h"
#include "torch.h"

namespace fastinit {

// A distribution with its arguments, and who asks for it: shared by the records of one rule.
struct Rule {
  int kind;
  std::array<double, 4> parameters;
  bool has_seed = false;  // of its own; else the plan's holds
  std::uint64_t seed = 0;
  Ref place;     // of the launch; none on the CPU
  Ref origin;    // text
  Ref fan_rule;  // gives the parameters for other shapes; kept for plans with fan groups
  Ref tail;      // operations that follow, see kernels/tails.py; none without
  Ref chain;     // the fill and its operations as code asked for them; none without
  bool operator==(const Rule& other) const;
};

enum class What : std::uint8_t { kFill, kCopy, kCast };

// A write that waits. It holds the tensor, so that its memory cannot become another's.
struct Record {
  Ref tensor;
  Ref object;  // Python's record of a copy or cast
  std::uint64_t pointer, layout;
  std::uint32_t rule;
  What what;
  std::uint64_t order = 0;  // among all records
};

// A fill that was executed, as manifests tell it.
struct Drawn {
  std::uint32_t rule;
  std::array<double, 4> parameters;
  std::uint64_t seed;
  std::uint32_t draw;  // how many came before it on the same tensor
  bool is_part = false;
  std::int64_t start = 0;
  std::vector<std::pair<std::int64_t, std::int64_t>> box;  // (size, index stride) of a part
};

struct Name {
  std::string text;
  std::uint64_t stream;
  std::uint32_t draws = 0;
  bool has_drawn = false;  // since the tensor has the name
  std::vector<Drawn> drawn;
  // The name of the stream of a draw: "name@k" for all but the first.
  std::string label(std::uint32_t draw) const {
    return draw == 0 ? text : text + "@" + std::to_string(draw);
  }
};

struct Named {
  std::uint32_t name;
  Ref tensor;
};

struct Unnamed {
  std::uint64_t pointer, layout;
  std::uint32_t name;
  int dtype;
  std::vector<std::int64_t> shape;
};

// The writes of one geometry that were asked for, in a plan with an account.
struct Asked {
  std::uint64_t begin, end, layout;  // end: behind the last byte
  std::int64_t count;                // elements
  std::uint32_t times;
};

// What the plan knows of a storage.
struct Memory {
  std::uint64_t key;
  // A tensor of the storage, so that no other storage gets the key; none once it is given up.
  Ref held;
  std::uint64_t last_written = 0;  // by the recorder's clock
  std::size_t place = 0;           // in the order of those that wait
  std::vector<Record> records;
  std::vector<Named> named;
  std::vector<Unnamed> unnamed;
  std::vector<Asked> asked;
  std::vector<std::uint64_t> cast_targets;  // storages that have had a cast from this one
  bool is_new = false;                      // allocated, and not written as a whole since
  bool is_computed = false;                 // written by code, other than by fills
  bool is_escaped = false;                  // may be read and written unseen
  bool is_inference = false;
  bool has_neg = false;       // a negative view of it was seen
  bool is_resizable = false;  // torch's own memory; asked for in plans with an account
};

// Whether the tensor spans all of its storage, with each element once.
bool covers_storage(PyObject* tensor, const Facts& facts);

class Recorder {
 public:
  Recorder(bool keeps_account, bool is_dry, std::uint64_t seed);
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
  bool lacks_writes(const Memory& memory, const Geometry& geometry) const;
  void forget_object(PyObject* tensor);
  // `flat`, all of other memory `distance` bytes away, takes the place of a storage.
  void moved(std::uint64_t old_key, PyObject* flat, std::uint64_t distance);
  void took_over(Memory& memory, Memory& source);

  // --- names
  void add_name(std::string_view text, PyObject* tensor, std::uint64_t key = 0);
  void follow(PyObject* tensor, std::uint64_t old_key);
  std::vector<std::uint32_t> early_names() const;
  // Named tensors of which part is certainly unwritten, each under its first name.
  std::vector<const Named*> unwritten() const;
  std::vector<std::uint32_t> unnamed() const;  // in order
  const Name& name(std::uint32_t n) const { return names_[n]; }

  // --- records
  bool is_waiting() const { return waiting_count_ > 0; }
  bool has_casts() const { return has_casts_; }
  std::vector<Memory*> waiting() const;
  std::uint32_t intern(Rule&& rule);
  // The first object that equals a place: records of one place then share it.
  Ref canonical_place(PyObject* place);
  const Rule& rule(std::uint32_t n) const { return rules_[n]; }
  void add(Memory& memory, Record&& record, const Facts& facts);
  void drop_covered(Memory& memory, PyObject* tensor, const Facts& facts);
  void drop(Memory& memory);
  // Gives up the memory that no code holds any more.
  void sweep();
  // Holds no memory for its key any more: no plan is open for new writes.
  void give_up();
  Record pop_first(Memory& memory);
  // Tensor objects that waiting records hold keep their memory although they get other memory.
  void keep_alias(PyObject* tensor);
  // The last record of the tensor's memory, if it fills exactly this tensor; else null.
  Record* last_fill(PyObject* tensor);
  bool is_orphan(const Memory& memory) const;
  const Record* cast_to(const Memory& memory) const;

  // --- for manifests, with what waits counted as executed
  struct Seen {
    std::uint32_t name;
    Ref tensor;              // none for one without a name,
    const Unnamed* unnamed;  // of which this is known
    std::vector<std::uint32_t> aliases;
    const char* status;  // "unwritten", "computed", or null if what was drawn tells
    bool is_computed;
    std::uint32_t times;  // that a write was asked for
  };
  PyObject* preview(const std::function<PyObject*(const std::vector<Seen>&)>& make);

  int each_reference(const std::function<int(PyObject*)>& visit) const;

  // Carries out a copy or cast, or the tail of a fill; in a dry run it is told of all fills.
  using Copy = std::function<void(Memory&, const Record&)>;
  using Launch = std::function<void(PyObject* place, PyObject* rows)>;
  const bool keeps_account, is_dry;
  const std::uint64_t seed;
  Ref origin_in_force;  // text of the rule of an init_cfg; none: code itself asks
  Ref groups;           // of the fan groups, see fan_groups.py; none without
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
  std::vector<Ref> places_;
  std::deque<Name> names_;               // stay where they are
  PointerMap<std::uint32_t> by_stream_;  // one more than the name's number; without "#n"
  std::vector<Memory*> named_;           // in order
  std::uint64_t bytes_ = 0, bytes_to_sweep_ = kLeastToSweep;  // held, in plans with an account
  std::uint32_t unnamed_count_ = 0;
  bool has_casts_ = false;
};

}  // namespace fastinit

// What a plan knows of each storage, and of the tensors in it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../table/segment.h"
#include "geometry.h"
#include "gpu.h"
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
  Place place;
  Ref origin;    // text
  Ref fan_rule;  // gives the parameters for other shapes; kept for plans with fan groups
  Ref tail;      // operations that follow, see kernels/tails.py; none without
  Ref chain;     // the fill and its operations as code asked for them; none without
  bool operator==(const Rule& other) const;
};

enum class What : std::uint8_t { kFill, kCopy, kCast };

// A part of a tensor, in its row-major index.
struct Taken {
  std::int64_t start = 0;
  std::vector<std::pair<std::int64_t, std::int64_t>> box;  // (size, index stride)
  bool operator==(const Taken& other) const { return start == other.start && box == other.box; }
};

// Whether a part of a larger tensor, in other dimensions, is all of that.
bool is_all(const Taken& taken, const Region& region);

// A write that waits. It holds the tensor, so that its memory cannot become another's.
struct Record {
  Ref tensor;
  Ref object;  // Python's record of a copy or cast
  std::uint64_t pointer, layout;
  std::uint32_t rule;
  What what;
  std::shared_ptr<const Taken> taken = nullptr;  // of the whole, by all ranks; none: told by memory
  std::uint64_t order = 0;                       // among all records
};

// A fill that was executed, as manifests tell it.
struct Drawn {
  // What is not all of the tensor, or not by the rule's own parameters.
  struct Part {
    std::array<double, 4> parameters;
    bool is_whole = false;
    Taken taken;
  };
  std::uint32_t rule;
  std::uint32_t draw;                // how many came before it on the same tensor
  std::shared_ptr<const Part> part;  // none: all of the tensor
  bool is_whole() const { return part == nullptr || part->is_whole; }
};

struct Name {
  std::string text;
  std::uint64_t stream;
  std::uint32_t draws = 0;
  bool has_drawn = false;  // since the tensor has the name
  // The orders of the last fill of the whole tensor, and of the last that is told of another one
  // and meets it.
  std::uint64_t filled = 0, disturbed = 0;
  bool is_disturbed() const { return disturbed > filled; }
  std::vector<Drawn> drawn;
  // The name of the stream of a draw: "name@k" for all but the first.
  std::string label(std::uint32_t draw) const {
    return draw == 0 ? text : text + "@" + std::to_string(draw);
  }
};

struct Named {
  std::uint32_t name;
  Ref tensor;
  Ref owner;  // the DTensor whose local part the tensor is; none otherwise
};

struct Shard {
  std::uint64_t pointer, layout;
  Region region;
};

struct Unnamed {
  std::uint64_t pointer, layout;
  std::uint32_t name;
  int dtype;
  std::vector<std::int64_t> shape;
  bool is_lent = false;  // with the names of a memory, and goes with them
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
  std::vector<Record> records;     // by ascending order
  std::vector<Named> named;
  std::vector<Unnamed> unnamed;
  std::vector<Asked> asked;
  std::vector<Shard> shards;                // the tensors that are parts of larger ones
  std::vector<std::uint64_t> cast_targets;  // storages that have had a cast from this one
  bool is_new = false;                      // allocated, and not written as a whole since
  bool is_computed = false;                 // written by code, other than by fills
  bool is_lent = false;                     // has names that are another memory's
  bool is_escaped = false;                  // may be read and written unseen
  bool is_inference = false;
  bool has_neg = false;       // a negative view of it was seen
  bool is_resizable = false;  // torch's own memory; asked for in plans with an account

  bool has_name(PyObject* tensor) const;
  // What a tensor is a part of; null if it is a tensor of its own.
  const Region* region_of(const Geometry& tensor) const;
  // Of these lists, which grow by `add`, what is exactly there: null if there is nothing.
  Record* record_at(std::uint64_t pointer, std::uint64_t layout);
  Unnamed* unnamed_at(std::uint64_t pointer, std::uint64_t layout);
  const Unnamed* unnamed_at(std::uint64_t pointer, std::uint64_t layout) const;
  Asked* asked_at(std::uint64_t pointer, std::uint64_t layout);
  const Asked* asked_at(std::uint64_t pointer, std::uint64_t layout) const;
  void add(Record&& record);
  void add(Unnamed&& unnamed);
  void add(Asked&& asked);
  // After the lists, or pointers in them, were changed otherwise than by `add` and removal.
  void forget_places() { places.reset(); }

 private:
  // Of long lists, where to look: the orders of records, the numbers of others. What is not there
  // any more may still be told; what is there, is.
  struct Places {
    PointerMap<std::uint64_t> records, unnamed, asked;
  };
  void look_up();
  std::unique_ptr<Places> places;
};

// Bytes of a storage.
struct Extent {
  std::uint64_t begin, end;
  Memory* memory;
};

// The memory that other memory lies over: two storages over one array, as by torch.from_numpy.
std::vector<Memory*> memories_that_meet(std::vector<Extent> extents);

// Whether the tensor spans all of its storage, with each element once.
bool covers_storage(PyObject* tensor, const Facts& facts);

}  // namespace fastinit

// Records become rows of the kernels' table: who draws from which stream, and in which order.
#pragma once

#include <map>
#include <vector>

#include "../table/table.h"
#include "around.h"
#include "recorder.h"

namespace fastinit {

// Whether no two rows share an element.
bool are_disjoint(const std::vector<Segment>& table);

// Whether two tensors have an element in common, for sure or, of other sizes than the kernels',
// perhaps.
bool share_elements(const Geometry& x, const Geometry& y);

class Execution {
 public:
  // The records of several memories; the memories must outlive it.
  Execution(Recorder& recorder, const std::vector<Memory*>& memories);
  // Takes back the counts of draws that were not booked.
  ~Execution();
  Execution(const Execution&) = delete;
  Execution& operator=(const Execution&) = delete;

  // Decides streams and rows. With an account, a fill whose tensor has lost its memory, or whose
  // fan groups do not fit, is left out, and its error kept for the end; without one it is thrown.
  void draw();
  // Notes what was drawn, without executing anything.
  void book();
  // What was booked waits no longer.
  void remove_booked();
  // Throws the error that was kept, if there is one.
  void throw_kept();
  void run(const Recorder::Copy& copy, const Recorder::Launch& launch);

 private:
  struct Entry {
    Memory* memory;
    std::size_t depth;  // its number among those of the memory
    std::size_t level = 0;
    std::size_t rows[2] = {}, drawn[2] = {};  // from, to: in rows_ and drawn_
    std::uint32_t name = 0;
    bool is_counted = false;  // among the draws of its name
    bool is_booked = false;
    bool has_failed = false;
  };
  struct Whereabouts {
    std::uint32_t name;
    Box box;
    Geometry whole;
    const Region* region;  // null: the whole is all of the tensor
  };

  const Record& record(const Entry& entry) const { return entry.memory->records[entry.depth]; }
  void look_again(const Entry& entry, Facts& facts) const;
  Whereabouts whereabouts(Memory& memory, const Facts& facts, bool is_part) const;
  void draw(Entry& entry, const Facts& facts);
  bool draw_parts(const Entry& entry, const Facts& facts, const Whereabouts& at, const Drawn& drawn,
                  std::uint64_t stream);
  void add_row(const Entry& entry, const Facts& facts, const std::array<double, 4>& parameters,
               std::uint64_t stream, std::int64_t distance, const Box& box);
  std::vector<Segment> segments(const Entry& entry) const;
  bool do_memories_meet() const;
  void set_order();
  void set_levels();
  void run_level(const std::vector<Entry*>& entries, const Recorder::Copy& copy,
                 const Recorder::Launch& launch);
  void book(Entry& entry);

  Recorder& recorder_;
  mutable Around around_;
  std::vector<Memory*> memories_;
  std::vector<Entry> entries_;                    // in the order of draws
  std::vector<std::vector<std::size_t>> shared_;  // entries of memories that have several
  std::vector<Segment> rows_;
  std::vector<Drawn> drawn_;
  Request request_{};  // its memory serves all rows
  bool has_launches_ = false;
  std::size_t levels_ = 0;
  bool has_error_ = false;
  Ref error_type_, error_value_, error_trace_;
};

}  // namespace fastinit

// How executions run: in which order, and what is left when something fails.
#include <algorithm>

#include "execution.h"
#include "fill_now.h"

namespace fastinit {

// Records of one memory keep their order where they overlap; all others may run together.
void Execution::set_levels() {
  for (const auto& own : shared_) {
    bool are_fills = true;
    std::vector<Segment> table;
    for (const std::size_t n : own) {
      are_fills = are_fills && record(entries_[n]).what == What::kFill;
      for (const Segment& row : segments(entries_[n])) table.push_back(row);
    }
    if (are_fills && are_disjoint(table)) continue;
    for (const std::size_t n : own) {
      entries_[n].level = entries_[n].depth;
      levels_ = std::max(levels_, entries_[n].level + 1);
    }
  }
}

// Whether rows of different memories meet: two storages over one memory, as by torch.from_numpy.
bool Execution::do_memories_meet() const {
  std::vector<Extent> extents;
  extents.reserve(rows_.size());
  for (const Entry& entry : entries_) {
    for (std::size_t n = entry.rows[0]; n < entry.rows[1]; ++n) {
      const Segment& row = rows_[n];
      if (row.count == 0) continue;
      std::int64_t last = 0;
      for (int d = 0; d < row.ndim; ++d) last += (row.dims[d].size - 1) * row.dims[d].memory_stride;
      const auto begin = reinterpret_cast<std::uint64_t>(row.data);
      const auto bytes = static_cast<std::size_t>(last + 1) * itemsize(row.dtype);
      extents.push_back({begin, begin + bytes, entry.memory});
    }
  }
  return !memories_that_meet(std::move(extents)).empty();
}

// Each record alone, in the order in which they were made.
void Execution::set_order() {
  std::vector<Entry*> ordered;
  for (Entry& entry : entries_) ordered.push_back(&entry);
  std::sort(ordered.begin(), ordered.end(),
            [this](const Entry* x, const Entry* y) { return record(*x).order < record(*y).order; });
  for (std::size_t n = 0; n < ordered.size(); ++n) ordered[n]->level = n;
  levels_ = ordered.size();
}

void Execution::run(const Recorder::Copy& copy, const Recorder::Launch& launch) {
  recorder_.is_running = true;
  const std::unique_ptr<bool, void (*)(bool*)> running(&recorder_.is_running,
                                                       [](bool* flag) { *flag = false; });
  if (do_memories_meet()) {
    set_order();
  } else {
    set_levels();
  }
  try {
    std::vector<std::vector<Entry*>> by_level(levels_);
    for (Entry& entry : entries_) by_level[entry.level].push_back(&entry);
    for (const auto& entries : by_level) run_level(entries, copy, launch);
  } catch (...) {
    remove_booked();
    throw;
  }
  remove_booked();
  throw_kept();
}

void Execution::throw_kept() {
  if (!has_error_) return;
  PyErr_Restore(error_type_.release(), error_value_.release(), error_trace_.release());
  throw PythonError{};
}

void Execution::run_level(const std::vector<Entry*>& own, const Recorder::Copy& copy,
                          const Recorder::Launch& launch) {
  if (!recorder_.keeps_account) {  // first: Ctrl-C may end a fill anywhere
    const Ref written = Ref::owned(PyList_New(static_cast<Py_ssize_t>(own.size())));
    for (std::size_t n = 0; n < own.size(); ++n) {
      PyList_SET_ITEM(written.get(), static_cast<Py_ssize_t>(n),
                      Py_NewRef(record(*own[n]).tensor.get()));
    }
    torch::increment_versions(written.get());
  }
  if (levels_ == 1 && !has_launches_) {
    fill_now(rows_);
  } else {
    std::vector<std::pair<Place, std::vector<Segment>>> tables{{Place{}, {}}};
    for (const Entry* entry : own) {
      const Record& own_record = record(*entry);
      if (own_record.what != What::kFill) continue;
      const Place& place = recorder_.rule(own_record.rule).place;
      auto table = std::find_if(tables.begin(), tables.end(),
                                [&](const auto& known) { return known.first == place; });
      if (table == tables.end()) table = tables.insert(table, {place, {}});
      const auto first = rows_.begin();
      table->second.insert(table->second.end(), first + static_cast<std::ptrdiff_t>(entry->rows[0]),
                           first + static_cast<std::ptrdiff_t>(entry->rows[1]));
    }
    fill_now(tables.front().second);
    for (auto table = tables.begin() + 1; table != tables.end(); ++table)
      launch(table->first, std::move(table->second));
  }
  for (Entry* entry : own) {
    const Record& done = record(*entry);
    const bool is_fill = done.what == What::kFill;
    const bool has_tail = is_fill && recorder_.rule(done.rule).tail;
    if (!entry->has_failed && (!is_fill || has_tail)) copy(record(*entry));
    book(*entry);
  }
}

void Execution::book() {
  for (Entry& entry : entries_) book(entry);
}

void Execution::book(Entry& entry) {
  entry.is_booked = true;
  if (entry.drawn[0] == entry.drawn[1]) return;
  auto& drawn = recorder_.names_[entry.name].drawn;
  if (drawn_[entry.drawn[0]].is_whole()) drawn.clear();
  for (std::size_t n = entry.drawn[0]; n < entry.drawn[1]; ++n)
    drawn.push_back(std::move(drawn_[n]));
}

// What was executed waits no longer.
void Execution::remove_booked() {
  std::size_t n = 0;
  std::vector<Record> gone;
  gone.reserve(entries_.size());
  for (Memory* memory : memories_) {
    if (memory->records.size() == 1) {
      if (entries_[n].is_booked) recorder_.drop(*memory);
    }
    ++n;
  }
  for (const auto& own : shared_) {
    Memory& memory = *entries_[own.front()].memory;
    std::vector<Record> kept;
    for (const std::size_t k : own) {
      (entries_[k].is_booked ? gone : kept).push_back(std::move(memory.records[entries_[k].depth]));
    }
    memory.records = std::move(kept);
    if (memory.records.empty()) recorder_.rest(memory);
  }
}

}  // namespace fastinit

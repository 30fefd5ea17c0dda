#include "memory.h"

#include <algorithm>
#include <cstring>

namespace fastinit {
namespace {

constexpr std::size_t kFew = 16;  // so many are looked through

std::uint64_t spot(std::uint64_t pointer, std::uint64_t layout) {
  return std::max<std::uint64_t>((pointer ^ layout) * 0x9E3779B97F4A7C15u, 1);
}

std::uint64_t pointer_of(const Asked& asked) { return asked.begin; }
template <class Item>
std::uint64_t pointer_of(const Item& item) {
  return item.pointer;
}

template <class Item>
bool is_at(const Item& item, std::uint64_t pointer, std::uint64_t layout) {
  return pointer_of(item) == pointer && item.layout == layout;
}

// The number in the list that `known` tells, or, without it, that a look through the list finds.
template <class Items>
auto* found_in(Items& items, const PointerMap<std::uint64_t>* known, std::uint64_t pointer,
               std::uint64_t layout) {
  using Item = std::remove_reference_t<decltype(items.front())>;
  if (known != nullptr) {
    const std::uint64_t* n = known->find(spot(pointer, layout));
    const bool is_there = n != nullptr && *n < items.size();
    return is_there && is_at(items[*n], pointer, layout) ? &items[*n] : static_cast<Item*>(nullptr);
  }
  for (Item& item : items) {
    if (is_at(item, pointer, layout)) return &item;
  }
  return static_cast<Item*>(nullptr);
}

}  // namespace

bool Rule::operator==(const Rule& other) const {
  // By bits: -0.0 is another argument than 0.0.
  return kind == other.kind && has_seed == other.has_seed && seed == other.seed &&
         place == other.place && origin == other.origin && fan_rule == other.fan_rule &&
         tail == other.tail && chain == other.chain &&
         std::memcmp(parameters.data(), other.parameters.data(), sizeof parameters) == 0;
}

bool covers_storage(PyObject* tensor, const Facts& facts) {
  const auto& g = facts.geometry;
  const auto bytes = static_cast<std::uint64_t>(g.count) * static_cast<std::uint64_t>(g.itemsize);
  return g.is_injective() && bytes == torch::storage_bytes(tensor);
}

bool is_all(const Taken& taken, const Region& region) {
  std::int64_t count = 1, all = 1;
  for (const auto& [size, step] : taken.box) count *= size;
  for (const std::int64_t size : region.shape) all *= size;
  return count == all;
}

bool Memory::has_name(PyObject* tensor) const {
  return std::any_of(named.begin(), named.end(),
                     [tensor](const Named& one) { return one.tensor.get() == tensor; });
}

const Region* Memory::region_of(const Geometry& tensor) const {
  if (shards.empty()) return nullptr;
  const auto layout = tensor.layout();
  for (const Shard& shard : shards) {
    if (shard.pointer == tensor.pointer && shard.layout == layout) return &shard.region;
  }
  return nullptr;
}

std::vector<Memory*> memories_that_meet(std::vector<Extent> extents) {
  std::sort(extents.begin(), extents.end(),
            [](const Extent& x, const Extent& y) { return x.begin < y.begin; });
  std::vector<Memory*> found;
  Extent farthest{0, 0, nullptr};
  for (const Extent& extent : extents) {
    if (extent.begin < farthest.end && extent.memory != farthest.memory) {
      found.push_back(farthest.memory);
      found.push_back(extent.memory);
    }
    if (extent.end > farthest.end) farthest = extent;
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

void Memory::look_up() {
  if (places != nullptr || std::max({records.size(), unnamed.size(), asked.size()}) < kFew) return;
  places = std::make_unique<Places>();
  for (const Record& r : records) places->records[spot(r.pointer, r.layout)] = r.order;
  for (std::size_t n = 0; n < unnamed.size(); ++n)
    places->unnamed[spot(unnamed[n].pointer, unnamed[n].layout)] = n;
  for (std::size_t n = 0; n < asked.size(); ++n)
    places->asked[spot(asked[n].begin, asked[n].layout)] = n;
}

Record* Memory::record_at(std::uint64_t pointer, std::uint64_t layout) {
  if (places == nullptr) return found_in(records, nullptr, pointer, layout);
  const std::uint64_t* order = places->records.find(spot(pointer, layout));
  if (order == nullptr) return nullptr;
  const auto found =
      std::lower_bound(records.begin(), records.end(), *order,
                       [](const Record& record, std::uint64_t o) { return record.order < o; });
  return found != records.end() && is_at(*found, pointer, layout) ? &*found : nullptr;
}

Unnamed* Memory::unnamed_at(std::uint64_t pointer, std::uint64_t layout) {
  return found_in(unnamed, places ? &places->unnamed : nullptr, pointer, layout);
}

const Unnamed* Memory::unnamed_at(std::uint64_t pointer, std::uint64_t layout) const {
  return found_in(unnamed, places ? &places->unnamed : nullptr, pointer, layout);
}

Asked* Memory::asked_at(std::uint64_t pointer, std::uint64_t layout) {
  return found_in(asked, places ? &places->asked : nullptr, pointer, layout);
}

const Asked* Memory::asked_at(std::uint64_t pointer, std::uint64_t layout) const {
  return found_in(asked, places ? &places->asked : nullptr, pointer, layout);
}

void Memory::add(Record&& record) {
  if (places) places->records[spot(record.pointer, record.layout)] = record.order;
  records.push_back(std::move(record));
  look_up();
}

void Memory::add(Unnamed&& one) {
  if (places) places->unnamed[spot(one.pointer, one.layout)] = unnamed.size();
  unnamed.push_back(std::move(one));
  look_up();
}

void Memory::add(Asked&& one) {
  if (places) places->asked[spot(one.begin, one.layout)] = asked.size();
  asked.push_back(std::move(one));
  look_up();
}

}  // namespace fastinit

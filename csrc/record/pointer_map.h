// A map from addresses, of which none is null, and which are never removed: open addressing, one
// allocation for all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace fastinit {

template <class Value>
class PointerMap {
 public:
  // Null if the address is not there.
  Value* find(std::uint64_t address) {
    if (slots_.empty()) return nullptr;
    Slot& slot = slots_[place(address)];
    return slot.address != 0 ? &slot.value : nullptr;
  }
  const Value* find(std::uint64_t address) const {
    return const_cast<PointerMap*>(this)->find(address);
  }

  // The value of the address, which is made if it is not there. It moves when others are made.
  Value& operator[](std::uint64_t address) {
    if (3 * (size_ + 1) > 2 * slots_.size()) resize(slots_.empty() ? 64 : 2 * slots_.size());
    Slot& slot = slots_[place(address)];
    if (slot.address == 0) {
      slot.address = address;
      ++size_;
    }
    return slot.value;
  }

  // Room for so many more.
  void reserve(std::size_t more) {
    std::size_t slots = 64;
    while (3 * (size_ + more) > 2 * slots) slots *= 2;
    if (slots > slots_.size()) resize(slots);
  }

 private:
  struct Slot {
    std::uint64_t address = 0;  // 0: free
    Value value{};
  };

  std::size_t place(std::uint64_t address) const {
    const std::size_t mask = slots_.size() - 1;
    auto n = static_cast<std::size_t>(address * 0x9E3779B97F4A7C15u >> 20) & mask;
    while (slots_[n].address != 0 && slots_[n].address != address) n = (n + 1) & mask;
    return n;
  }

  void resize(std::size_t slots) {
    std::vector<Slot> old(slots);
    std::swap(old, slots_);
    for (Slot& slot : old) {
      if (slot.address != 0) slots_[place(slot.address)] = std::move(slot);
    }
  }

  std::vector<Slot> slots_;
  std::size_t size_ = 0;
};

}  // namespace fastinit

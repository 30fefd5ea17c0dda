// A map from addresses, which are never removed: open addressing, one allocation for all.
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
    return slot.is_taken ? &slot.value : nullptr;
  }
  const Value* find(std::uint64_t address) const {
    return const_cast<PointerMap*>(this)->find(address);
  }

  // The value of the address, which is made if it is not there. It moves when others are made.
  Value& operator[](std::uint64_t address) {
    if (2 * (size_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[place(address)];
    if (!slot.is_taken) {
      slot = {address, Value{}, true};
      ++size_;
    }
    return slot.value;
  }

 private:
  struct Slot {
    std::uint64_t address = 0;
    Value value{};
    bool is_taken = false;
  };

  std::size_t place(std::uint64_t address) const {
    const std::size_t mask = slots_.size() - 1;
    auto n = static_cast<std::size_t>(address * 0x9E3779B97F4A7C15u >> 20) & mask;
    while (slots_[n].is_taken && slots_[n].address != address) n = (n + 1) & mask;
    return n;
  }

  void grow() {
    std::vector<Slot> old(slots_.empty() ? 64 : 2 * slots_.size());
    std::swap(old, slots_);
    for (Slot& slot : old) {
      if (slot.is_taken) slots_[place(slot.address)] = std::move(slot);
    }
  }

  std::vector<Slot> slots_;
  std::size_t size_ = 0;
};

}  // namespace fastinit

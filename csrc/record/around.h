// Which named tensors of a storage may contain another one.
#pragma once

#include <unordered_map>
#include <vector>

#include "memory.h"

namespace fastinit {

// Of memory with many names, as where all parameters of a model are parts of one storage, it keeps
// where each named tensor lies.
class Around {
 public:
  // The numbers in `memory.named` of those whose span contains the tensor's, in order; maybe of a
  // few others. They are good until the next call.
  const std::vector<std::size_t>& of(const Memory& memory, const Geometry& tensor);
  // Likewise those whose span meets the tensor's.
  const std::vector<std::size_t>& meeting(const Memory& memory, const Geometry& tensor);

 private:
  struct Span {
    std::uint64_t begin, end;
    std::uint64_t reach;  // the largest end of those up to here
    std::size_t number;
  };
  const std::vector<Span>& spans_of(const Memory& memory);
  static std::vector<Span>::const_iterator behind(const std::vector<Span>& spans,
                                                  std::uint64_t address);

  std::unordered_map<const Memory*, std::vector<Span>> spans_;  // by begin
  std::vector<std::size_t> found_;
};

}  // namespace fastinit

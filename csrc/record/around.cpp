#include "around.h"

#include <algorithm>
#include <numeric>

namespace fastinit {

const std::vector<std::size_t>& Around::of(const Memory& memory, const Geometry& tensor) {
  constexpr std::size_t kFew = 8;
  if (memory.named.size() <= kFew) {
    found_.resize(memory.named.size());
    std::iota(found_.begin(), found_.end(), std::size_t{0});
    return found_;
  }
  const auto [known, is_new] = spans_.try_emplace(&memory);
  if (is_new) known->second = spans_of(memory);
  const auto& spans = known->second;
  found_.clear();
  auto span =
      std::upper_bound(spans.begin(), spans.end(), tensor.pointer,
                       [](std::uint64_t pointer, const Span& s) { return pointer < s.begin; });
  const std::uint64_t end = tensor.pointer + tensor.span();
  while (span != spans.begin() && (--span)->reach >= end) {
    if (span->end >= end) found_.push_back(span->number);
  }
  std::sort(found_.begin(), found_.end());
  return found_;
}

std::vector<Around::Span> Around::spans_of(const Memory& memory) const {
  std::vector<Span> spans;
  for (std::size_t n = 0; n < memory.named.size(); ++n) {
    Facts facts;
    if (!torch::facts_of(memory.named[n].tensor.get(), facts, is_dry_)) continue;
    const auto begin = facts.geometry.pointer;
    spans.push_back({begin, begin + facts.geometry.span(), 0, n});
  }
  std::sort(spans.begin(), spans.end(),
            [](const Span& x, const Span& y) { return x.begin < y.begin; });
  std::uint64_t reach = 0;
  for (Span& span : spans) span.reach = reach = std::max(reach, span.end);
  return spans;
}

}  // namespace fastinit

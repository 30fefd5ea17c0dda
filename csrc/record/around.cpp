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
  const auto& spans = spans_of(memory);
  const std::uint64_t end = tensor.pointer + tensor.span();
  found_.clear();
  auto span = behind(spans, tensor.pointer + 1);
  while (span != spans.begin() && (--span)->reach >= end) {
    if (span->end >= end) found_.push_back(span->number);
  }
  std::sort(found_.begin(), found_.end());
  return found_;
}

const std::vector<std::size_t>& Around::meeting(const Memory& memory, const Geometry& tensor) {
  const auto& spans = spans_of(memory);
  found_.clear();
  auto span = behind(spans, tensor.pointer + tensor.span());
  while (span != spans.begin() && (--span)->reach > tensor.pointer) {
    if (span->end > tensor.pointer) found_.push_back(span->number);
  }
  return found_;
}

// Behind the last that begins before the address.
std::vector<Around::Span>::const_iterator Around::behind(const std::vector<Span>& spans,
                                                         std::uint64_t address) {
  return std::lower_bound(spans.begin(), spans.end(), address,
                          [](const Span& s, std::uint64_t a) { return s.begin < a; });
}

const std::vector<Around::Span>& Around::spans_of(const Memory& memory) {
  const auto [known, is_new] = spans_.try_emplace(&memory);
  auto& spans = known->second;
  if (!is_new) return spans;
  for (std::size_t n = 0; n < memory.named.size(); ++n) {
    Facts facts;
    if (!torch::facts_of(memory.named[n].tensor.get(), facts)) continue;
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

#include <cstring>

#include "isa.h"

namespace fastinit {

extern const Isa kIsaAvx2, kIsaAvx512, kIsaNeon;

namespace {

struct Candidate {
  const Isa* isa;
  bool supported;
};

const Candidate* candidates() {
  static const Candidate all[] = {
#if defined(__x86_64__)
      {&kIsaAvx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw")},
      {&kIsaAvx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c")},
#elif defined(__aarch64__)
      {&kIsaNeon, true},
#endif
      {&kIsaScalar, true},
      {nullptr, true},
  };
  return all;
}

}  // namespace

const Isa* nth_isa(std::size_t n) {
  const Candidate* candidate = candidates();
  for (;; ++candidate) {
    if (!candidate->supported) continue;
    if (candidate->isa == nullptr || n-- == 0) return candidate->isa;
  }
}

const Isa* find_isa(const char* name) {
  for (std::size_t n = 0; const Isa* isa = nth_isa(n); ++n) {
    if (std::strcmp(isa->name, name) == 0) return isa;
  }
  return nullptr;
}

}  // namespace fastinit

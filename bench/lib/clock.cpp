// Prints the processor's clock in GHz: a chain of additions, each waiting for the one before it, takes
// one cycle each on any recent processor.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>

int main() {
  using Clock = std::chrono::steady_clock;
  constexpr long kAdditions = 20'000'000;
  double best = 1e9;
  for (int round = 0; round < 10; ++round) {
    const auto start = Clock::now();
    std::uint64_t x = 1;
    for (long n = 0; n < kAdditions; n += 8) {
      for (int k = 0; k < 8; ++k) {
        x += 3;
        __asm__ volatile("" : "+r"(x));
      }
    }
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::printf("%.3f\n", kAdditions / best / 1e9);
}

// BLAKE2b: Aumasson, Neves, Wilcox-O'Hearn and Winnerlein, RFC 7693.
#include "name.h"

#include <algorithm>
#include <cstring>

namespace fastinit {
namespace {

using Words = std::uint64_t[16];
constexpr std::size_t kBlock = 128;
constexpr std::uint64_t kStart[8] = {0x6A09E667F3BCC908u, 0xBB67AE8584CAA73Bu, 0x3C6EF372FE94F82Bu,
                                     0xA54FF53A5F1D36F1u, 0x510E527FADE682D1u, 0x9B05688C2B3E6C1Fu,
                                     0x1F83D9ABFB41BD6Bu, 0x5BE0CD19137E2179u};
constexpr std::uint8_t kOrder[10][16] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
                                         {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
                                         {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
                                         {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
                                         {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
                                         {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
                                         {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
                                         {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
                                         {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
                                         {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

std::uint64_t rotated(std::uint64_t x, int n) { return x >> n | x << (64 - n); }

void mix(Words& v, int a, int b, int c, int d, std::uint64_t x, std::uint64_t y) {
  v[a] += v[b] + x;
  v[d] = rotated(v[d] ^ v[a], 32);
  v[c] += v[d];
  v[b] = rotated(v[b] ^ v[c], 24);
  v[a] += v[b] + y;
  v[d] = rotated(v[d] ^ v[a], 16);
  v[c] += v[d];
  v[b] = rotated(v[b] ^ v[c], 63);
}

void compress(std::uint64_t (&state)[8], const Words& m, std::uint64_t bytes, bool is_last) {
  Words v;
  std::copy_n(state, 8, v);
  std::copy_n(kStart, 8, v + 8);
  v[12] ^= bytes;
  if (is_last) v[14] = ~v[14];
  for (int round = 0; round < 12; ++round) {
    const auto& s = kOrder[round % 10];
    for (int n = 0; n < 4; ++n) mix(v, n, n + 4, n + 8, n + 12, m[s[2 * n]], m[s[2 * n + 1]]);
    for (int n = 0; n < 4; ++n) {
      mix(v, n, (n + 1) % 4 + 4, (n + 2) % 4 + 8, (n + 3) % 4 + 12, m[s[2 * n + 8]],
          m[s[2 * n + 9]]);
    }
  }
  for (int n = 0; n < 8; ++n) state[n] ^= v[n] ^ v[n + 8];
}

}  // namespace

std::uint64_t stream_of(std::string_view name) {
  std::uint64_t state[8];
  std::copy_n(kStart, 8, state);
  state[0] ^= 0x01010000u | 8u;  // no key, a digest of 8 bytes
  std::uint64_t done = 0;
  do {
    const std::size_t length = std::min(kBlock, name.size());
    Words m = {};
    std::memcpy(m, name.data(), length);  // little-endian, as all machines that are built for
    name.remove_prefix(length);
    done += length;
    compress(state, m, done, name.empty());
  } while (!name.empty());
  return state[0];
}

}  // namespace fastinit

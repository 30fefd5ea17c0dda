// AVX-512 intrinsics in software (SIMDe), for machines that lack them. Forced in by -include.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cstdint>
#include <cstring>

// What is in use and SIMDe does not have: lane by lane, as the instruction set reference says.
namespace emulated {

template <class Out, class To, class From, class In, class Function>
Out each(In in, Function function) {
  constexpr int kLanes = sizeof(In) / sizeof(From);
  From from[kLanes];
  To to[kLanes];
  std::memcpy(from, &in, sizeof in);
  for (int n = 0; n < kLanes; ++n) to[n] = function(from[n]);
  Out out;
  static_assert(sizeof out == sizeof to);
  std::memcpy(&out, to, sizeof out);
  return out;
}

template <class To>
constexpr auto convert = [](auto x) { return static_cast<To>(x); };

inline __m512 cvtepi32_ps(__m512i x) {
  return each<__m512, float, std::int32_t>(x, convert<float>);
}
inline __m512 cvtepu32_ps(__m512i x) {
  return each<__m512, float, std::uint32_t>(x, convert<float>);
}
inline __m512d cvtepi64_pd(__m512i x) {
  return each<__m512d, double, std::int64_t>(x, convert<double>);
}
inline __m512i srai_epi64(__m512i x, int count) {
  return each<__m512i, std::int64_t, std::int64_t>(x,
                                                   [count](std::int64_t n) { return n >> count; });
}
inline __m256i cvtps_ph(__m512 x, int) {
  return each<__m256i, std::uint16_t, float>(x, [](float v) {
    return static_cast<std::uint16_t>(_cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT));
  });
}
inline __m512i mask_shuffle_epi32(__m512i source, unsigned mask, __m512i x, int order) {
  std::int32_t out[16], in[16];
  std::memcpy(out, &source, sizeof out);
  std::memcpy(in, &x, sizeof in);
  for (int n = 0; n < 16; ++n) {
    if (mask >> n & 1) out[n] = in[(n & ~3) + (order >> 2 * (n & 3) & 3)];
  }
  std::memcpy(&source, out, sizeof out);
  return source;
}
inline std::uint32_t cmpgt_epu16_mask(__m512i x, __m512i y) {
  std::uint16_t a[32], b[32];
  std::memcpy(a, &x, sizeof a);
  std::memcpy(b, &y, sizeof b);
  std::uint32_t mask = 0;
  for (int n = 0; n < 32; ++n) mask |= std::uint32_t{a[n] > b[n]} << n;
  return mask;
}
inline __m512i mask_add_epi16(__m512i source, std::uint32_t mask, __m512i x, __m512i y) {
  std::uint16_t out[32], a[32], b[32];
  std::memcpy(out, &source, sizeof out);
  std::memcpy(a, &x, sizeof a);
  std::memcpy(b, &y, sizeof b);
  for (int n = 0; n < 32; ++n) {
    if (mask >> n & 1) out[n] = static_cast<std::uint16_t>(a[n] + b[n]);
  }
  std::memcpy(&source, out, sizeof out);
  return source;
}

}  // namespace emulated

#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#define _mm512_cvtepu32_ps emulated::cvtepu32_ps
#define _mm512_cvtepi64_pd emulated::cvtepi64_pd
#define _mm512_srai_epi64 emulated::srai_epi64
#define _mm512_cvtps_ph emulated::cvtps_ph
#define _mm512_mask_shuffle_epi32 emulated::mask_shuffle_epi32
#define _mm512_cmpgt_epu16_mask emulated::cmpgt_epu16_mask
#define _mm512_mask_add_epi16 emulated::mask_add_epi16

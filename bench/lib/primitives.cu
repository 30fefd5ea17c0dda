// All 2^32 words through each primitive of lanes_cuda.h whose instructions are not the host's: the
// number of words for which it differs from the scalar lanes, whose operations IEEE 754 defines.
extern "C" __global__ void fastinit_primitives(unsigned long long* differences) {
  using namespace fastinit;
  using Ours = Cuda::Single;
  using Theirs = Scalar::Single;
  const std::uint32_t threads = gridDim.x * blockDim.x;
  std::uint32_t found[5] = {};
  for (std::uint64_t n = blockIdx.x * blockDim.x + threadIdx.x; n < (std::uint64_t{1} << 32);
       n += threads) {
    const auto word = static_cast<std::uint32_t>(n);
    const std::uint32_t other = word * 2654435761u ^ 0x9E3779B9u;
    const float x = Theirs::from_bits(word), y = Theirs::from_bits(other);
    // Of what it is given: at least 2^-101 and finite; it is not used for others.
    if (x >= 0x1p-101f && x <= 3.4028234e38f) {
      found[0] += Theirs::bits(Ours::sqrt(x)) != Theirs::bits(Theirs::sqrt(x));
    }
    found[1] += Theirs::bits(Ours::select(word, x, y)) != Theirs::bits(Theirs::select(word, x, y));
    const auto ours = Cuda::product(word, other), theirs = Scalar::product(word, other);
    found[2] += static_cast<std::uint32_t>(ours.high) != static_cast<std::uint32_t>(theirs.high) ||
                static_cast<std::uint32_t>(ours.low) != static_cast<std::uint32_t>(theirs.low);
    const auto s = static_cast<float>(static_cast<std::int32_t>(word)) + 0.5f;
    found[3] += Theirs::bits(upper_half<Ours>(word, s)) != Theirs::bits(upper_half<Theirs>(word, s));
    if (x == x && y == y) {  // no NaN comes there
      found[4] += pack<Ours>(Half{}, x, y) != pack<Theirs>(Half{}, x, y) ||
                  pack<Ours>(BFloat16{}, x, y) != pack<Theirs>(BFloat16{}, x, y);
    }
  }
  for (int k = 0; k < 5; ++k) atomicAdd(differences + k, static_cast<unsigned long long>(found[k]));
}

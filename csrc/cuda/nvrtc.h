// In place of the standard headers, which NVRTC does not have: what the kernel needs of them.
namespace std {
using int32_t = int;
using int64_t = long long;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
using size_t = decltype(sizeof 0);
using uintptr_t = unsigned long long;
enum class byte : unsigned char {};
using ::fma;
using ::memcpy;
using ::sqrt;
}  // namespace std

// Fills of memory that torch says to be a GPU's.
#pragma once

#include <cstdint>
#include <vector>

#include "../table/segment.h"
#include "python.h"

namespace fastinit {

// The place of a launch: a device, and the address of one of its streams. On the CPU: no device.
struct Place {
  int device = -1;
  std::uint64_t stream = 0;
  bool is_on_gpu() const { return device >= 0; }
  bool operator==(const Place& other) const {
    return device == other.device && stream == other.stream;
  }
};

// Python's `Place` (kernels/cuda.py), None on the CPU, and back.
Ref as_python(const Place& place);
Place place_of(PyObject* told);

// The device's current stream.
Place current_place(int device);

// Launches on the device's current stream, without a copy of the table. False, with nothing
// launched, for rows that do not fit among the arguments of a launch.
bool launch_now(const std::vector<Segment>& table, int device);

// Rows for `cuda_pack`, in a capsule of this name.
constexpr const char* kRowsCapsule = "fastinit.rows";
Ref in_capsule(std::vector<Segment>&& rows);

}  // namespace fastinit

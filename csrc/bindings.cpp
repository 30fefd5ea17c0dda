// The Python module: tuples in, exceptions out. Only the recorder (record/) knows of torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/isa.h"
#include "cuda/driver.h"
#include "cuda/launch.h"
#include "cuda/pack.h"
#include "record/fill_now.h"
#include "record/gpu.h"
#include "record/python.h"
#include "record/record.h"
#include "stream/floating_point.h"
#include "table/parameters.h"
#include "table/table.h"

namespace py = pybind11;

namespace fastinit {
namespace {

constexpr Py_ssize_t kFields = 11;

// An integer that does not fit is a bad value of the table like any other.
[[noreturn]] void refuse_integer(const char* range) {
  if (!PyErr_ExceptionMatches(PyExc_OverflowError)) throw py::error_already_set();
  PyErr_Clear();
  throw std::invalid_argument(std::string("an integer of the segment is not in ") + range);
}

std::int64_t integer(PyObject* object) {
  const auto value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred() != nullptr) refuse_integer("[-2^63, 2^63)");
  return value;
}

std::uint64_t unsigned_integer(PyObject* object) {
  const auto value = PyLong_AsUnsignedLongLong(object);
  if (value == static_cast<unsigned long long>(-1) && PyErr_Occurred() != nullptr) {
    refuse_integer("[0, 2^64)");
  }
  return value;
}

double real(PyObject* object) {
  const auto value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

Dim parse_dim(PyObject* dim) {
  if (!PyTuple_Check(dim) || PyTuple_GET_SIZE(dim) != 3) {
    throw py::type_error("box: each dimension is a tuple (size, memory_stride, index_stride)");
  }
  return {integer(PyTuple_GET_ITEM(dim, 0)), integer(PyTuple_GET_ITEM(dim, 1)),
          integer(PyTuple_GET_ITEM(dim, 2))};
}

// `request` is overwritten; it comes from outside so that its memory serves all rows of a table.
Segment parse_segment(PyObject* tuple, Request& request) {
  if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != kFields) {
    throw py::type_error(
        "a segment is a tuple (kind, dtype, pointer, seed, stream, start, box, p0, p1, p2, p3)");
  }
  const auto item = [tuple](Py_ssize_t n) { return PyTuple_GET_ITEM(tuple, n); };
  request.box.clear();
  request.kind = integer(item(0));
  request.dtype = integer(item(1));
  request.pointer = unsigned_integer(item(2));
  request.seed = unsigned_integer(item(3));
  request.stream = unsigned_integer(item(4));
  request.start = integer(item(5));
  PyObject* box = item(6);
  if (PyLong_Check(box)) {
    request.box.push_back({integer(box), 1, 1});
  } else if (PyTuple_Check(box)) {
    for (Py_ssize_t d = 0; d < PyTuple_GET_SIZE(box); ++d)
      request.box.push_back(parse_dim(PyTuple_GET_ITEM(box, d)));
  } else {
    throw py::type_error(
        "box is a number of elements or a tuple of (size, memory_stride, index_stride)");
  }
  for (int n = 0; n < 4; ++n) request.parameters[static_cast<std::size_t>(n)] = real(item(7 + n));
  return make_segment(request);
}

std::vector<Segment> parse_table(const py::sequence& table) {
  const auto fast =
      py::reinterpret_steal<py::object>(PySequence_Fast(table.ptr(), "table must be a sequence"));
  if (!fast) throw py::error_already_set();
  std::vector<Segment> segments;
  const auto count = PySequence_Fast_GET_SIZE(fast.ptr());
  segments.reserve(static_cast<std::size_t>(count));
  Request request;
  for (Py_ssize_t n = 0; n < count; ++n) {
    try {
      segments.push_back(parse_segment(PySequence_Fast_GET_ITEM(fast.ptr(), n), request));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("segment " + std::to_string(n) + ": " + error.what());
    }
  }
  require_disjoint(segments);
  return segments;
}

void fill(const py::sequence& table, int threads, const std::optional<std::string>& isa_name) {
  if (threads < 1)
    throw std::invalid_argument("threads must be at least 1, got " + std::to_string(threads));
  const Isa& isa = isa_name ? require_isa(*isa_name, "isa") : default_isa();
  const DefaultFloatingPoint environment;
  const auto segments = parse_table(table);
  try {
    fill_on(segments, threads, isa);
  } catch (const PythonError&) {
    throw py::error_already_set();
  }
}

// The numbers of tables under their names in capitals, and the names at the places of their
// numbers.
void define_numbers(py::module_& m, const char* tuple, const std::vector<std::string>& names) {
  for (std::size_t number = 0; number < names.size(); ++number) {
    m.attr(py::str(names[number]).attr("upper")()) = number;
  }
  m.attr(tuple) = py::tuple(py::cast(names));
}

std::vector<std::string> kind_names() {
  std::vector<std::string> names;
  for (int kind = 0; kind < kKinds; ++kind) {
    visit(static_cast<Kind>(kind), [&](auto row) { names.emplace_back(row.name); });
  }
  return names;
}

std::vector<CudaBatch> cuda_pack(const py::object& table, std::size_t limit,
                                 std::int64_t tile_units) {
  if (tile_units < 0 || tile_units >= std::int64_t{1} << 32) {
    throw std::invalid_argument("tile_units must be in [0, 2^32), got " +
                                std::to_string(tile_units));
  }
  const DefaultFloatingPoint environment;
  if (PyCapsule_IsValid(table.ptr(), kRowsCapsule)) {
    const auto* rows =
        static_cast<const std::vector<Segment>*>(PyCapsule_GetPointer(table.ptr(), kRowsCapsule));
    return pack_for_cuda(*rows, limit, tile_units);
  }
  auto batches = pack_for_cuda(parse_table(py::cast<py::sequence>(table)), limit, tile_units);
  for (CudaBatch& batch : batches) batch.is_from_torch = false;
  return batches;
}

void cuda_load_image(int device, const std::optional<py::bytes>& image) {
  if (image) {
    const auto text = static_cast<std::string>(*image);
    const py::gil_scoped_release release;
    return cuda_load(device, text.c_str());
  }
  if (embedded_image() == nullptr) throw NoKernel(no_image_reason());
  const py::gil_scoped_release release;
  cuda_load(device, embedded_image());
}

void define_cuda(py::module_& m) {
  const py::object error = py::register_exception<CudaError>(m, "CudaError", PyExc_RuntimeError);
  py::register_exception<NoKernel>(m, "NoKernelError", error);
  py::class_<CudaBatch>(m, "CudaBatch", py::buffer_protocol())
      .def_buffer([](CudaBatch& batch) {
        return py::buffer_info(reinterpret_cast<std::uint8_t*>(batch.bytes.data()),
                               static_cast<py::ssize_t>(batch.bytes.size()));
      })
      .def_property_readonly("nbytes", [](const CudaBatch& batch) { return batch.bytes.size(); })
      .def_readonly("tiles", &CudaBatch::tiles);
  m.attr("CUDA_ARCHS") = embedded_archs();
  m.attr("CUDA_INLINE_BYTES") = kCudaInlineBytes;
  m.attr("CUDA_SOURCE") = embedded_source();
  m.def("cuda_pack", &cuda_pack, py::arg("table"), py::arg("limit") = 0, py::arg("tile_units") = 0);
  m.def("cuda_load", &cuda_load_image, py::arg("device"), py::arg("image") = py::none());
  m.def("cuda_is_capturing", &cuda_is_capturing, py::arg("device"), py::arg("stream"));
  m.def(
      "cuda_launch",
      [](int device, std::uint64_t stream, const CudaBatch& batch, std::uint64_t table) {
        const py::gil_scoped_release release;  // a full queue of launches blocks
        cuda_launch(device, stream, batch, reinterpret_cast<const std::byte*>(table));
      },
      py::arg("device"), py::arg("stream"), py::arg("batch"), py::arg("table") = 0);
}

}  // namespace
}  // namespace fastinit

PYBIND11_MODULE(_C, m) {
  using namespace fastinit;
  m.doc() = "Native fills of stream v1.";
  define_numbers(m, "KINDS", kind_names());
  define_numbers(m, "DTYPES", {"float32", "float16", "bfloat16", "float64", "uint32"});
  py::register_exception<Overlap>(m, "OverlapError", PyExc_ValueError);
  define_cuda(m);
  add_record(m.ptr());
  m.def("fill", &fill, py::arg("table"), py::arg("threads") = 1, py::arg("isa") = py::none());
  m.def("isas", [] {
    std::vector<std::string> names;
    for (std::size_t n = 0; const Isa* isa = nth_isa(n); ++n) names.emplace_back(isa->name);
    return py::tuple(py::cast(names));
  });
  m.def("default_isa", [] { return std::string(default_isa().name); });
  m.def("normal_tail", &normal_tail, py::arg("x"));
  m.def(
      "truncation_reach", [](int dtype) { return truncation_reach(static_cast<DType>(dtype)); },
      py::arg("dtype"));
}

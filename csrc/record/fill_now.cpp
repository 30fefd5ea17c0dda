#include "fill_now.h"

#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "../cpu/parallel.h"
#include "../stream/floating_point.h"
#include "python.h"
#include "torch.h"

namespace fastinit {
namespace {

std::string isa_names() {
  std::string names;
  for (std::size_t n = 0; const Isa* isa = nth_isa(n); ++n)
    names += (n > 0 ? ", " : "") + std::string(isa->name);
  return names;
}

// Lets Python handle its signals, Ctrl-C above all, during a fill that runs without the GIL.
class Signals {
 public:
  // Whether a handler has raised, which leaves Python's error set.
  bool raised() {
    if (Clock::now() < next_) return false;
    const PyGILState_STATE state = PyGILState_Ensure();
    const bool has_raised = PyErr_CheckSignals() != 0;
    // Handlers run on the main thread only; others need not queue for the GIL again.
    next_ = on_main_thread() ? Clock::now() + kInterval : Clock::time_point::max();
    PyGILState_Release(state);
    return has_raised;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kInterval{20};

  static bool on_main_thread() {
    if (PyErr_Occurred() != nullptr) return true;  // only there handlers raise
    try {
      const Ref threading = Ref::owned(PyImport_ImportModule("threading"));
      const Ref here = Ref::owned(PyObject_CallMethod(threading.get(), "get_ident", nullptr));
      const Ref main = Ref::owned(PyObject_CallMethod(threading.get(), "main_thread", nullptr));
      const Ref there = Ref::owned(PyObject_GetAttrString(main.get(), "ident"));
      return PyObject_RichCompareBool(here.get(), there.get(), Py_EQ) == 1;
    } catch (const PythonError&) {
      PyErr_Clear();
      return true;
    }
  }

  Clock::time_point next_ = Clock::now() + kInterval;
};

PyObject* watching = nullptr;

constexpr std::int64_t kWorthThreads = std::int64_t{1} << 17;  // elements; see parallel.cpp

}  // namespace

const Isa& require_isa(const std::string& name, const char* source) {
  if (const Isa* isa = find_isa(name.c_str())) return *isa;
  throw std::invalid_argument(std::string(source) + "='" + name +
                              "' is not available on this machine; choose from: " + isa_names());
}

const Isa& default_isa() {
  const char* forced = std::getenv("FASTINIT_ISA");
  static const Isa& isa =
      forced != nullptr && *forced != '\0' ? require_isa(forced, "FASTINIT_ISA") : *nth_isa(0);
  return isa;
}

void fill_on(const std::vector<Segment>& table, int threads, const Isa& isa) {
  bool is_done;
  {
    const WithoutGil without_gil;
    Signals signals;
    is_done = fill_table(table, threads, isa, [&signals] { return signals.raised(); });
  }
  if (!is_done) throw PythonError{};
}

void watch_fills(PyObject* list) {
  Py_XSETREF(watching, PyList_Check(list) ? Py_NewRef(list) : nullptr);
}

void fill_now(const std::vector<Segment>& table) {
  std::int64_t total = 0;
  for (const Segment& segment : table) total += segment.count;
  if (total == 0) return;
  if (watching != nullptr) {
    const Ref rows = Ref::owned(PyLong_FromSize_t(table.size()));
    if (PyList_Append(watching, rows.get()) != 0) throw PythonError{};
  }
  fill_on(table, total < kWorthThreads ? 1 : torch::threads(), default_isa());
}

}  // namespace fastinit

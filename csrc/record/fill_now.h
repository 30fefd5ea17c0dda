// Fills on the CPU for callers in Python.
#pragma once

#include <string>
#include <vector>

#include "../cpu/isa.h"
#include "../table/segment.h"
#include "../table/table.h"
#include "python.h"

namespace fastinit {

// FASTINIT_ISA, else the fastest. Throws std::invalid_argument.
const Isa& default_isa();
const Isa& require_isa(const std::string& name, const char* source);

// Fills by checked rows on torch's number of threads, without the GIL. Throws PythonError where a
// handler of signals raises: memory is then written in part.
void fill_now(const std::vector<Segment>& table);
// Appends the number of rows of each table to a list, until another object is given.
void watch_fills(PyObject* list);
void fill_on(const std::vector<Segment>& table, int threads, const Isa& isa);

}  // namespace fastinit

"""Whether the numbers are good: accuracy, bounds, distribution and independence, at sizes that
tests have no time for. `python -m quality` runs everything and writes quality/REPORT.md."""

import os

# Two threads of this package share the work; a BLAS with threads of its own would fight them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

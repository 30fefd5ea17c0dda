# fastinit: everything runs inside .venv, which the first target you call creates.
#
#   make demo     initialise a 1.1 B-parameter model with torch, mmengine and fastinit, side by side
#   make test     run the tests, two at a time; more arguments for pytest in ARGS, e.g. make test ARGS="-k llama -x"
#   make check    linters, formatting and types, as CI runs them
#   make format   rewrite the sources as the formatters want them
#   make emulate-avx512  compare the AVX-512 kernels with the scalar ones on any x86-64 (needs SIMDe)
#   make emulate-neon    compare the NEON kernels with scalar AArch64 code, under QEMU on any machine
#   make sanitize the native code under the address, undefined-behaviour and thread sanitizers
#   make bench    measure, and write bench/results/*.jsonl; ARGS="--quick" for a first look
#   make fuzz     look for what a plan does otherwise than torch: 100 000 random programs of two kinds, 2 000 on shards,
#                 all operators of torch's database, an interrupt at every line
#   make zoo      build a hundred models of five libraries by every route, and tell which agree; and
#                 construct them with and without fastinit, and draw the ratios
#   make deepspeed  install DeepSpeed into .venv, and run its tests, half a minute; `make test` skips them without it
#   make mmengine-suite  run mmengine's own tests of models under fastinit; MMENGINE=folder of its repository
#   make gpu-check  everything that needs a GPU: build, values, benchmark, tests and memcheck in 400 seconds at most,
#                 with GPU_PYTHON's own torch and without .venv; writes bench/results/gpu.json
#   make quality  prove the numbers good, in a quarter of an hour (with Debian's dieharder installed, more
#                 thoroughly), and write quality/REPORT.md; ARGS="accuracy bounds" for some of its sections
#   make docs     build the documentation's site into build/site, and check its links
#   make coverage  run the tests with lines and branches counted, and the native code's lines; half an hour or
#                 less; writes quality/COVERAGE.md
#   make mutants  put mistakes into copies of the code, one at a time, and tell which no test finds; an hour or two;
#                 writes quality/MUTANTS.md; ARGS="kernels", ARGS="planner --count 20 --seed 2"
#   make versions  run the tests on the oldest and the newest torch, in environments of their own below build/versions
#   make clean    remove what the build made; the environment itself stays (rm -r .venv to drop it)
#
# PYTHON chooses the interpreter that .venv is made from (3.10 or newer).

PYTHON = python3
GPU_PYTHON = $(PYTHON)
ARGS =
MMENGINE = ../mmengine
BIN = .venv/bin
SOURCES = find csrc quality tests/native -name '*.h' -o -name '*.cpp' -o -name '*.cu'

.PHONY: all install demo test deepspeed mmengine-suite check format bench zoo fuzz gpu-check docs versions quality coverage mutants emulate-avx512 emulate-neon sanitize sanitize-recorder clean

all: install

.venv/.requirements: requirements-dev.txt requirements-zoo.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/pip install --disable-pip-version-check --no-deps -r requirements-zoo.txt
	touch $@

# Without build isolation, whose temporary folders would be new each time: ninja compiles again what changed, and the
# installation shares its folder, build/.
.venv/.installed: .venv/.requirements pyproject.toml
	$(BIN)/pip install --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

install: .venv/.installed
	@$(BIN)/python setup.py -q build_ext --inplace

demo: install
	$(BIN)/python -m bench.demo $(ARGS)

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --quiet --by-methods tests/capture tests/plan \
	    $(addprefix --ignore=tests/,plan/test_sharded.py capture/test_interrupts.py capture/test_operators.py))

# Its setup asks whether torch is there, and compiles nothing.
deepspeed: install
	DS_BUILD_OPS=0 $(BIN)/pip install --disable-pip-version-check --no-build-isolation deepspeed==0.19.8
	$(BIN)/python -m pytest --thorough $(ARGS) tests/real/test_deepspeed.py

# In its own folder, because its tests write beside themselves; they need `pip install parameterized`.
mmengine-suite: install
	cd $(MMENGINE) && PYTHONPATH=$(CURDIR)/tests/helpers:$$PYTHONPATH $(CURDIR)/$(BIN)/python -m pytest -p under_install $(ARGS) tests/test_model

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fastinit
	$(BIN)/lint-imports --no-logo
	$(BIN)/clang-format --dry-run --Werror $$($(SOURCES))

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$($(SOURCES))

# The same source as in the extension, its intrinsics carried out in software.
BUILD = build/emulate
SEGMENTS = 10000
NATIVE_FLAGS = -std=c++17 -O2 -ffp-contract=off
emulate-avx512:
	mkdir -p $(BUILD)
	$(CXX) $(NATIVE_FLAGS) -w -mavx2 -mfma -mf16c -include tests/native/emulated_avx512.h \
	    -c csrc/cpu/fill_avx512.cpp -o $(BUILD)/fill_avx512.o
	$(CXX) $(NATIVE_FLAGS) -DISA_UNDER_TEST=kIsaAvx512 tests/native/isa_equality.cpp csrc/table/table.cpp \
	    csrc/table/parameters.cpp csrc/cpu/fill_scalar.cpp $(BUILD)/fill_avx512.o -o $(BUILD)/isa_equality
	$(BUILD)/isa_equality $(SEGMENTS)

# Programs for AArch64 on another machine. Debian: g++-aarch64-linux-gnu and qemu-user.
AARCH64_CXX = aarch64-linux-gnu-g++
AARCH64_RUN = qemu-aarch64 -L /usr/aarch64-linux-gnu
NEON_SOURCES = table/table.cpp table/parameters.cpp $(addprefix cpu/,parallel.cpp dispatch.cpp fill_scalar.cpp fill_neon.cpp)
emulate-neon:
	mkdir -p $(BUILD)/neon
	cd $(BUILD)/neon && $(AARCH64_CXX) $(NATIVE_FLAGS) -c $(addprefix $(CURDIR)/csrc/,$(NEON_SOURCES))
	for driver in isa_equality fill_test; do \
	    $(AARCH64_CXX) $(NATIVE_FLAGS) -pthread -DISA_UNDER_TEST=kIsaNeon tests/native/$$driver.cpp \
	        $(BUILD)/neon/*.o -o $(BUILD)/neon/$$driver || exit 1; \
	done
	$(AARCH64_RUN) $(BUILD)/neon/isa_equality $(SEGMENTS)
	$(AARCH64_RUN) $(BUILD)/neon/fill_test 20

# The objects of the extension, with setup.py's flags for each instruction set, under a driver without Python.
sanitize: sanitize-address,undefined sanitize-thread sanitize-recorder
sanitize-%: .venv/.requirements
	CXXFLAGS="$(SANITIZE)$*" $(BIN)/python setup.py -q build_ext --build-temp build/$@ --build-lib build/$@/lib
	$(CXX) -std=c++17 -pthread $(SANITIZE)$* tests/native/fill_test.cpp \
	    $(foreach source,$(wildcard csrc/table/*.cpp csrc/cpu/*.cpp),$$(ls build/$@/$(basename $(notdir $(source))).o 2> /dev/null)) \
	    -o build/$@/fill_test
	build/$@/fill_test 100
# The recorder in Python: its tests with the sanitized extension, and Python's objects where the sanitizer sees them;
# without those of many processes, each of which would load it for minutes.
RECORDER = build/sanitize-address,undefined/lib
sanitize-recorder: sanitize-address,undefined
	cp -r fastinit/[a-z]* fastinit/__*.py $(RECORDER)/fastinit/
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=$(RECORDER) \
	    $(BIN)/python -m pytest --quiet -o pythonpath="$(RECORDER) tests/helpers tests/stream" \
	        --ignore tests/plan/test_sharded.py tests/plan tests/capture
SANITIZE = -O1 -g -fno-sanitize-recover=all -fsanitize=

bench: install
	$(BIN)/python -m bench.fill --output bench/results/fill.jsonl $(ARGS)
	$(BIN)/python -m bench.models --output bench/results/models.jsonl $(ARGS)
	$(BIN)/python -m bench.build --output bench/results/build.jsonl $(ARGS)

# Hypothesis' own database keeps what fails; an hour or less.
fuzz: install
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --quiet --thorough --hypothesis-profile=fuzz \
	    tests/capture/test_fuzz.py tests/capture/test_operators.py tests/capture/test_interrupts.py \
	    tests/checkpoint/test_mutations.py tests/plan/test_sharded_programs.py $(ARGS)

zoo: install
	$(BIN)/python -m bench.routes --output bench/results/routes.jsonl
	$(BIN)/python -m bench.routes --draw bench/results/routes.jsonl docs/routes.md
	$(BIN)/python -m bench.zoo --output bench/results/zoo.jsonl $(ARGS)
	$(BIN)/python -m bench.zoo --draw bench/results/zoo.jsonl bench/results/zoo.svg

# In an environment of its own, without torch: the site reads the sources and runs nothing.
docs: build/docs-venv/.installed
	build/docs-venv/bin/mkdocs build --strict

build/docs-venv/.installed: requirements-docs.txt
	$(PYTHON) -m venv build/docs-venv
	build/docs-venv/bin/pip install --disable-pip-version-check --quiet -r requirements-docs.txt
	touch $@

# Not in .venv: what .venv is made of may be out of reach, and its torch without CUDA.
gpu-check:
	$(GPU_PYTHON) -m bench.gpu_check

# The suite on other versions of torch, each in an environment of its own; what their Python or torch cannot run is
# skipped by the tests that need it. TORCH_INDEX: where pip finds builds for CPUs alone.
VERSIONS = 2.6.0 2.14.1
TORCH_INDEX =
versions: $(addprefix version-,$(VERSIONS))
version-%:
	$(PYTHON) -m venv build/versions/$*
	build/versions/$*/bin/pip install --disable-pip-version-check --quiet torch==$* $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	sed 's/^torch==.*/torch==$*/; s/^\(nvidia-[a-z-]*\)==.*/\1/' requirements-dev.txt > build/versions/$*/requirements.txt
	build/versions/$*/bin/pip install --disable-pip-version-check --quiet -r build/versions/$*/requirements.txt
	build/versions/$*/bin/pip install --disable-pip-version-check --quiet --no-deps -r requirements-zoo.txt
	rm -rf build/versions/$*/tree && mkdir build/versions/$*/tree
	git ls-files -z | xargs -0 cp --parents -t build/versions/$*/tree
	cd build/versions/$*/tree && ../bin/pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps -e . \
	    && ../bin/python setup.py -q build_ext --inplace \
	    && ../bin/python -c "import torch; assert torch.__version__.split('+')[0] == '$*', torch.__version__" \
	    && ../bin/python -m pytest --numprocesses 2 --dist worksteal --quiet $(ARGS)

quality: install
	nice -n 10 $(BIN)/python -m quality $(ARGS)

# Python in the tree itself; the native code in a copy of the package, instrumented. The source that is built into that
# copy names other folders.
COVERAGE = build/coverage
COVERED = $(BIN)/python -m coverage
coverage: install
	mkdir -p $(COVERAGE)/python
	$(COVERED) erase --rcfile=quality/coverage.ini
	nice -n 10 $(COVERED) run --rcfile=quality/coverage.ini -m pytest --numprocesses 2 --dist worksteal --quiet
	$(COVERED) combine --quiet --rcfile=quality/coverage.ini
	$(COVERED) json --quiet --rcfile=quality/coverage.ini
	rm -f $(COVERAGE)/*.gcda
	CXXFLAGS="-O1 --coverage -fprofile-update=atomic" $(BIN)/python setup.py -q build_ext --build-temp $(COVERAGE) \
	    --build-lib $(COVERAGE)/lib
	cp -r fastinit/[a-z]* fastinit/__*.py $(COVERAGE)/lib/fastinit/
	PYTHONPATH=$(COVERAGE)/lib nice -n 10 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --quiet \
	    -o pythonpath="$(COVERAGE)/lib . tests/helpers tests/stream" \
	    --deselect tests/kernels/test_cuda_build.py::test_the_source_is_the_repositorys \
	    $(addprefix tests/,kernels stream capture plan models tensors test_init.py)
	$(CXX) -std=c++17 -pthread -O1 --coverage tests/native/fill_test.cpp \
	    $(foreach source,$(wildcard csrc/table/*.cpp csrc/cpu/*.cpp),$$(ls $(COVERAGE)/$(basename $(notdir $(source))).o 2> /dev/null)) \
	    -o $(COVERAGE)/fill_test
	$(COVERAGE)/fill_test 30
	$(BIN)/python -m quality.coverage

mutants: install
	nice -n 10 $(BIN)/python -m quality.mutants $(ARGS)

clean:
	rm -rf build dist *.egg-info fastinit/_C*.so .venv/.installed
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

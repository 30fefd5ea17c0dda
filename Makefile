# fastinit: everything runs inside .venv, which the first target you call creates.
#
#   make demo     initialise a 1.1 B-parameter model with torch, mmengine and fastinit, side by side
#   make test     run the tests; more arguments for pytest in ARGS, e.g. make test ARGS="-k llama -x"
#   make check    linters, formatting and types, as CI runs them
#   make format   rewrite the sources as the formatters want them
#   make bench    measure, and write bench/results/*.jsonl; ARGS="--quick" for a first look
#   make clean    remove what the build made; the environment itself stays (rm -r .venv to drop it)
#
# PYTHON chooses the interpreter that .venv is made from (3.10 or newer).

PYTHON = python3
ARGS =
BIN = .venv/bin
SOURCES = find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu'

.PHONY: all install demo test check format bench clean

all: install

.venv/.requirements: requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -r requirements-dev.txt
	touch $@

# The extension is rebuilt when anything under csrc/ is newer than the start of the last build. `find` asks
# that rather than a list of prerequisites, because plain make has no portable wildcard over a tree.
install: .venv/.requirements
	@if [ ! -e .venv/.installed ] || \
	    [ -n "$$(find csrc pyproject.toml setup.py .venv/.requirements -newer .venv/.installed)" ]; \
	then \
	    touch .venv/.building && \
	    $(BIN)/pip install --disable-pip-version-check --no-deps -e . && \
	    mv .venv/.building .venv/.installed; \
	fi

demo: install
	$(BIN)/python -m bench.demo $(ARGS)

test: install
	$(BIN)/python -m pytest $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fastinit
	$(BIN)/clang-format --dry-run --Werror $$($(SOURCES))

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$($(SOURCES))

bench: install
	$(BIN)/python -m bench.fill --output bench/results/fill.jsonl $(ARGS)
	$(BIN)/python -m bench.models --output bench/results/models.jsonl $(ARGS)

clean:
	rm -rf build dist *.egg-info fastinit/_C*.so .venv/.installed
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis

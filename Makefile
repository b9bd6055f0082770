# make demo   the whole platform on real data that is already on this machine
# make test   everything that CI runs
# make check  format, lint, types, import contracts, tests of the foundations (under 90 s)
# make compile-gate  every Triton and Gluon kernel, compiled for GPUs that need not be there (in `make test` for what changed)
# make tune   on a GPU: tries other launches of the kernels, and writes those that are faster into their launches.json
# make bars   the full sizes; takes long, appends to benchmarks/results.csv

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Passed to pip as they are; for example, an index that holds PyTorch's CPU builds.
PIP_FLAGS ?=

STAMP := $(VENV)/.installed
# A file stays in one process, for its fixtures are costly; files in the order of tests/conftest.py, not by their number of tests.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# What everything else stands on; the other rooms' tests take minutes, which is what `make test` is for.
FOUNDATIONS := tests/house tests/artifacts tests/tokenize tests/models tests/inference

.PHONY: demo test check compile-gate tune bars format clean

demo: $(STAMP)
	$(BIN)/python scripts/demo.py

test: $(STAMP)
	$(PYTEST) -m "not gpu"

check: $(STAMP)
	$(BIN)/ruff format --check src tests recipes benchmarks scripts
	$(BIN)/ruff check src tests recipes benchmarks scripts
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -m "not slow and not gpu and not browser and not cluster" $(FOUNDATIONS)

compile-gate: $(STAMP)
	$(BIN)/python benchmarks/compile_gate.py

tune: $(STAMP)
	$(BIN)/python benchmarks/gpu.py tune --seconds 3600

bars: $(STAMP)
	$(BIN)/python benchmarks/bars.py

format: $(STAMP)
	$(BIN)/ruff check --fix src tests recipes benchmarks scripts
	$(BIN)/ruff format src tests recipes benchmarks scripts

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .tilth inputs

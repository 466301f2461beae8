# Two commands: `make demo` runs the whole way from Python code to a private answer, `make test` checks it.
PYTHON ?= python3.11
VENV   ?= .venv
BIN     = $(VENV)/bin
CORE    ?= .venv-core

.PHONY: demo smollm2 test quick core lint install clean

demo: install
	$(BIN)/hushlm demo

# A pretrained chat model, imported, served and asked: about half an hour, 8 GB of memory, and a download of 98 MB.
smollm2: install
	$(BIN)/python benchmarks/smollm2_private.py --folder runs/smollm2
	$(BIN)/python benchmarks/smollm2_served.py --folder runs/smollm2

# Parties in processes of their own that only count bytes share the machine with each other, and so do sessions whose tests wait for an
# answer. Tests that hold seconds against a limit, or measure what a server leaves behind, have the machine alone.
COUNTED = tests/cost tests/calibration tests/private/prepared tests/private/program
ALONE   = $(addprefix tests/private/session/test_,faults.py network_faults.py interrupts.py nudge.py) tests/private/server/test_endurance.py
test: install lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not two_party"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m two_party $(COUNTED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m two_party $(addprefix --ignore=,$(COUNTED) $(ALONE))
	$(BIN)/python -m pytest -m two_party $(ALONE)

quick: install
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

# The core alone, without the engine and so with numpy 2, on any Python: `make core PYTHON=python3.13`. Installs torch once more (about
# 1 GB, several GB where the wheel carries CUDA), then runs the fast tests; those that need an extra are skipped and say so.
core:
	$(PYTHON) -m venv $(CORE)
	grep -v -e '^numpy==' -e '^triton==' constraints.txt > $(CORE)/constraints.txt
	$(CORE)/bin/python -m pip install --quiet --disable-pip-version-check -c $(CORE)/constraints.txt 'numpy>=2' '.[test]'
	$(CORE)/bin/python -m pytest -m "not slow" -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

install: $(VENV)/.installed

# constraints.txt pins every version; pyproject.toml holds the ranges.
$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py $(wildcard src/hushlm/entropy/kernels/native/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(CORE) build runs .pytest_cache .ruff_cache

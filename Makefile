# Makes the environment and calls the tools that are set up in pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin

# What the compiled inner loops are part of: run a second time with the Python ones.
CORE_TESTS := $(addprefix tests/test_,book.py hot.py messages.py replay.py shared_keys.py streams.py sync.py units.py)

.PHONY: help install demo test check lint types bench chaos explore clients mutants prove-table docs lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    simulated venues through the whole pipeline, with a verdict"
	@echo "make test    the test suite"
	@echo "make check   format, lint, types and tests"
	@echo "make bench   the benchmarks, on recorded frames if they are at ../shared/recordings"
	@echo "make chaos   the slow tests with injected faults"
	@echo "make explore property and model tests on new examples"
	@echo "make prove-table  every fault with several seeds, and the README's table of what became of the data"
	@echo "make mutants deliberate defects, each of which the verdict must catch"
	@echo "make clients the simulated venues, tried with more clients of other makers"

install: .venv/.installed

# Compiled bytecode: without it Ray starts two and a half times slower.
.venv/.installed: requirements.lock pyproject.toml setup.py marketprism_ray/_hot.pyx
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11, 3.12 or 3.13 is needed, this is " + sys.version.split()[0] + "; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pip install --quiet --disable-pip-version-check --compile -r requirements.lock
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -W ignore -m pip install --quiet --disable-pip-version-check --no-deps -e .
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q marketprism_ray actors
	@$(BIN)/python -c 'from marketprism_ray.hot import IS_COMPILED; IS_COMPILED or print("The C parts could not be built (they need a C compiler and Python'\''s headers): the hot path runs in Python, at less than half the speed. All else is the same.")'
	@touch $@

demo: install
	$(BIN)/marketprism demo

test: install
	$(BIN)/python -m pytest -m "not chaos" -n 4 --dist loadfile
	MARKETPRISM_PURE_PYTHON=1 $(BIN)/python -m pytest -q $(CORE_TESTS)

# Property and model tests on examples that nobody has seen yet.
explore: install
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest -q $(shell grep -l hypothesis tests/test_*.py)

chaos: install
	$(BIN)/python -m pytest -m chaos

# Everything it takes can be said: make prove-table SCENARIOS="kill-all soak" SEEDS="1 2 3" SECONDS=20 AT=0.75
prove-table: install
	$(BIN)/python -m marketprism_ray.proof.table $(if $(SCENARIOS),--scenarios $(SCENARIOS)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(AT),--at $(AT))

mutants: install
	$(BIN)/python -W ignore -m marketprism_ray.proof.mutants

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

check: lint types test

bench: install
	$(BIN)/python benchmarks/hot_path.py
	$(BIN)/python benchmarks/pipeline.py

# They have many dependencies of their own: installed where this is called, and in no lock.
clients: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[clients]'
	$(BIN)/python -m pytest tests/test_simulator_binance_clients.py tests/test_simulator_okx_clients.py

docs: install
	$(BIN)/python -m marketprism_ray.readme
	$(BIN)/python tests/test_evidence.py

lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-annotate --no-header pyproject.toml -o requirements.lock

clean:
	rm -rf .venv build *.egg-info

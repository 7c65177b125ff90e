# Everything that a newcomer and CI run. Each target makes its own environment first; a second run reuses it.

# The first interpreter that really runs and is new enough; override with `make PYTHON=/path/to/python test`.
PYTHON ?= $(shell sh tools/find-python.sh)
VENV := .venv
BIN := $(VENV)/bin
VERSIONS := 3.11 3.12 3.13
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help gameday gameday-full servers test test-other-pythons lint types check bench bench-pools bench-load bench-chaos requirements clean

help:
	@echo "make gameday        hold the example's game day: its tour, with the bare and the protected shop"
	@echo "make gameday-full   the same with every stress of the file"
	@echo "make test           run every test, and core and shells on each other Python that runs here"
	@echo "make servers        install the servers that some tests need and only Debian has (as root; optional)"
	@echo "make check          lint, types and tests: what CI runs"
	@echo "make bench          measure the overhead of a protected call, against the peers that PyPI has"
	@echo "make bench-pools    measure what separate connection pools do, on a PostgreSQL"
	@echo "make bench-load     measure what a service does under overload: half an hour on real processes"
	@echo "make bench-chaos    measure the fault proxy, the load generator and exploration"
	@echo "make clean          remove what these made"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later that runs was found; try make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/gameday.stamp: $(BIN)/python requirements/gameday.txt pyproject.toml
	$(PIP) install -r requirements/gameday.txt
	$(PIP) install --no-deps --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/gameday.stamp requirements/dev.txt
	$(PIP) install -r requirements/dev.txt
	@touch $@

gameday: $(VENV)/gameday.stamp
	$(BIN)/hormesis gameday examples/shop/gameday.toml

gameday-full: $(VENV)/gameday.stamp
	$(BIN)/hormesis gameday --all examples/shop/gameday.toml

servers:
	sh tools/install-servers.sh

test: $(VENV)/dev.stamp test-other-pythons
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4

# Each of them keeps one core busy.
test-other-pythons: $(VENV)/dev.stamp
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target --keep-going $(VERSIONS:%=test-on-python-%)

test-on-python-%:
	@sh tools/test-on-python.sh $* $(BIN)/python

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy
	$(BIN)/basedpyright

check: lint types test

$(VENV)/bench.stamp: $(VENV)/dev.stamp requirements/bench.txt
	$(PIP) install -r requirements/bench.txt
	@touch $@

bench: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/journey.py
	$(BIN)/python benchmarks/defects.py
	$(BIN)/python benchmarks/rate_limit.py
	$(BIN)/python benchmarks/middleware.py
	$(BIN)/python benchmarks/flow.py

bench-pools: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/pools.py

bench-load: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/load/run.py

bench-chaos: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/proxy.py
	$(BIN)/python benchmarks/load_generator.py
	$(BIN)/python benchmarks/explore.py

# Pins what the *.in files name; no download address gets into the files.
requirements: $(VENV)/dev.stamp
	cd requirements && for each in gameday dev core bench; do \
	  ../$(BIN)/pip-compile --quiet --upgrade --strip-extras --no-annotate --no-header --no-emit-index-url \
	    --no-emit-find-links --no-emit-trusted-host --output-file $$each.txt $$each.in || exit 1; done

clean:
	rm -rf $(VENV) .venv-3.* build dist gameday-report .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis

# facemint: `make help` lists the words.

PYTHON  ?= $(shell command -v python3.11 || command -v python3)
VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check --quiet
STAMP   := $(VENV)/.installed
DEV     := $(VENV)/.installed-dev
OUT     ?= out/demo

# One thread per process: what a network computes must not depend on how many cores look on.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help install demo check test soak bench phantom clean
.DELETE_ON_ERROR:

help:  ## list these words
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

install: $(STAMP)  ## make .venv and install facemint with its pinned dependencies

demo: $(STAMP)  ## mint the demo dataset into out/demo
	@echo "== facemint generate demo --out $(OUT)"
	@$(BIN)/facemint generate demo --out $(OUT)

check: $(DEV)  ## lint, format, types and import contracts
	@echo "== ruff check";  $(BIN)/ruff check --quiet .
	@echo "== ruff format --check"; $(BIN)/ruff format --check --quiet .
	@echo "== mypy --strict"; $(BIN)/mypy
	@echo "== lint-imports"; $(BIN)/lint-imports --no-logo

test: check  ## check, then every test but the soak tests
	@echo "== pytest"
	@$(BIN)/python -m pytest -n 2 --dist loadfile

soak: $(DEV)  ## the long tests: kills, restarts, many seeds
	@echo "== pytest -m soak"
	@HYPOTHESIS_PROFILE=dev $(BIN)/python -m pytest -m soak

bench: $(DEV)  ## print the benchmark tables
	@for script in tests/benchmarks/bench_*.py; do \
	    [ -e "$$script" ] || { echo "no benchmark in tests/benchmarks"; exit 1; }; \
	    echo "== $$script"; PYTHONPATH=. $(BIN)/python "$$script" || exit 1; done

phantom: $(STAMP)  ## train the phantom models again (hours on two cores)
	@echo "== training the phantom models"
	@$(BIN)/python -m pipeline.adapters.phantom.training all --workers 2

clean:  ## remove what the words above have made, .venv included
	rm -rf $(VENV) out/demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find pipeline filters jobs tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@echo "== making $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "facemint needs Python 3.11 or newer"'
	@$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing facemint (first time: a few minutes and about 3 GB)"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing facemint with the tools of development"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(STAMP)

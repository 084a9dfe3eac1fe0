PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: help setup demo test test-all lint bench pack clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## Make the environment from pinned dependencies

$(READY): setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test,lint]"
	touch $@

demo: $(READY) ## Super-resolve the brain volume that nibabel ships, and draw what came out
	$(BIN)/python -m common demo --output_dir demo_output

test: $(READY) ## Run the tests but the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-all: $(READY) ## Run all tests
	$(BIN)/python -m pytest

lint: $(READY) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## Measure time and memory, each file in benchmarks/ by itself
	for file in $(basename $(notdir $(wildcard benchmarks/*.py))); do $(BIN)/python -m benchmarks.$$file || exit 1; done

pack: $(READY) ## Pack every bundle into dist/, and write the table of README.md
	$(BIN)/python -m common pack-all --out dist
	$(BIN)/python -m common table --dist dist

clean: ## Remove the environment and what was made in it
	rm -rf $(VENV) demo_output dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

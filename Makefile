PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= demo

# More options for pip, e.g. --extra-index-url https://download.pytorch.org/whl/cpu for a torch without CUDA.
PIP_FLAGS ?=

CORE := $(VENV)/.core
DEV  := $(VENV)/.dev

.PHONY: help setup demo bench test test-slow lint format docs clean

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV) ## make .venv with everything that tests and linting need

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[test,lint,astra,structure,cluster,logs,docs,examples]'
	@touch $@ $(CORE)

demo: $(CORE) ## simulate a cell, reconstruct it, compare with WBP and SIRT
	$(BIN)/tiltfield demo --out $(DEMO) --overwrite

bench: $(DEV) ## measure speed, with peers, in ten minutes or so: out/bench/speed.md
	$(BIN)/python benchmarks/speed.py --sizes 64,96,128 --whole 64 --peers 64 --peer-seconds 180 --out out/bench

test: $(DEV) ## run the tests but the slow ones
	$(BIN)/python -m pytest -q -m "not slow"

test-slow: $(DEV) ## run the studies of minutes
	$(BIN)/python -m pytest -q -m slow

lint: $(DEV) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV) ## put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DEV) ## build the documentation in site/, warnings as errors
	$(BIN)/mkdocs build --strict

clean: ## remove what was made, but not .venv
	rm -rf build dist demo out site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

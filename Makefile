# Two commands do everything on a machine with Python 3.11 (with venv) and make: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DBT := $(VENV)-dbt
SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help demo test check torture bench docs clean

help: ## what can be done here
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: $(VENV)/.base ## a vendor's year, end to end, on embedded SQLite
	@$(BIN)/postsale demo

test: $(VENV)/.dev $(DBT)/.done ## the whole test suite
	@$(BIN)/pytest

check: $(VENV)/.dev ## style, types, floors, generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m docs.generate --check

torture: $(VENV)/.dev ## the long form of the crash and race tests, and of the properties
	@POSTSALE_TORTURE=1 $(BIN)/pytest -m "torture or hypothesis"

bench: $(VENV)/.dev ## every benchmark, with the peer and the raw limit beside it
	@for name in $$(ls benchmarks | sed -n 's/^\([a-z][a-z_]*\)\.py$$/\1/p'); do $(BIN)/python -m benchmarks.$$name --json; done

docs: $(VENV)/.dev ## regenerate docs/reference and schemas, and the output in the README, from the code
	@$(BIN)/python -m docs.generate
	@$(BIN)/python -m docs.readme_demo

clean: ## remove what the other targets made
	rm -rf $(VENV) $(DBT) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "postsale needs Python 3.11 or later; found $$($(PYTHON) --version). Set PYTHON=…"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing postsale into $(VENV) (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "Installing test dependencies into $(VENV) (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable . --group dev
	@touch $@

# dbt needs other versions of what the tests need, so it lives apart; see docs/adr/0019-data-stack.md.
$(DBT)/.done: constraints-dbt.txt | $(VENV)/bin/python
	@echo "Installing dbt into $(DBT) (once) …"
	@$(BIN)/python -m venv $(DBT)
	@$(DBT)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-dbt.txt dbt-core dbt-duckdb
	@touch $@

# Each target does all its own set-up, in .venv, and does it once: `make demo` is enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test check
.DELETE_ON_ERROR:

help:
	@echo "make demo    train on point robots and write a report, a few minutes"
	@echo "make test    the tests, without the slow ones"
	@echo "make check   format, lint, types, layers and the fast tests"
	@echo "PYTHON=python3.12 make ... chooses the interpreter that .venv is made with"

demo: $(VENV)/installed
	$(BIN)/causeway train

test: $(VENV)/installed-dev
	$(BIN)/pytest

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -m "not slow and not ray and not learning"

# An environment that was only half made is made anew, hence a mark of its own.
$(VENV)/created:
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/installed: setup.cfg pyproject.toml | $(VENV)/created
	$(BIN)/pip install -e .
	touch $@

$(VENV)/installed-dev: setup.cfg pyproject.toml | $(VENV)/created
	$(BIN)/pip install -e ".[dev]"
	touch $@ $(VENV)/installed

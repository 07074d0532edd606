# make train   on a fresh machine: environment, installation, phantom, training
# make test    the tests;  make lint: style and types;  make types: types alone;  make install: only the environment
# make docs    docs/ as a site in site/;  make dist: a wheel and an sdist in dist/
# make notebooks   executes notebooks/*.ipynb anew, outputs included
PYTHON ?= python3
VENV ?= .venv
SPLIT ?= stratified
BIN = $(VENV)/bin

.PHONY: install train test lint types docs notebooks dist clean

train: install
	$(BIN)/python -m busfast train --split=$(SPLIT)

test: install
	$(BIN)/python -m pytest

lint: install types
	$(BIN)/python -m ruff check .

types: install
	$(BIN)/python -m mypy

docs: $(VENV)/.docs
	$(BIN)/python -m docs.make_reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --clean

dist: install
	$(BIN)/python -m build

notebooks: install
	$(BIN)/python tests/execute_notebooks.py

install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "busfast needs Python 3.10 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing into $(VENV) (several GB on Linux: torch brings CUDA)"
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV)

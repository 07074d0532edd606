# make train   on a fresh machine: environment, what training needs, phantom, training
# make test    adds the test tools, runs the tests;  make lint: style and types;  make types: types alone
# make test-gpu   the tests of an NVIDIA GPU, and a table of its speed; without one it says so
# make docs    docs/ as a site in site/;  make dist: a wheel and an sdist in dist/
# make notebooks   executes notebooks/*.ipynb anew, outputs included
PYTHON ?= python3
VENV ?= .venv
SPLIT ?= stratified
BIN = $(VENV)/bin
# Installs quietly: what pip prints goes to a log, which is shown where it fails.
INSTALL = install() { $(BIN)/python -m pip install "$$@" > $(VENV)/install.log 2>&1 || \
	{ tail -n 20 $(VENV)/install.log; echo "pip failed; all it printed: $(VENV)/install.log"; exit 1; }; }; install

.PHONY: install train test test-gpu lint types docs notebooks dist clean

train: install
	$(BIN)/python -m busfast train --split=$(SPLIT)

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

test-gpu: $(VENV)/.test
	$(BIN)/python -m pytest -m gpu -rs --no-header --durations=10
	$(BIN)/python benchmarks/gpu.py

lint: types
	$(BIN)/python -m ruff check .

types: $(VENV)/.test
	$(BIN)/python -m mypy

docs: $(VENV)/.docs
	$(BIN)/python -m docs.make_reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --clean

dist: $(VENV)/.test
	$(BIN)/python -m build

notebooks: $(VENV)/.test
	$(BIN)/python tests/execute_notebooks.py

install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "busfast needs Python 3.10 or newer, this is " + sys.version)'
	@$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	@echo "Installing busfast into $(VENV): several GB on Linux, where torch brings CUDA; a few minutes."
	@$(INSTALL) --upgrade pip
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	@echo "Installing the test tools into $(VENV)."
	@$(INSTALL) --editable ".[test]"
	@touch $@

$(VENV)/.docs: $(VENV)/.installed
	@echo "Installing the tools for the site into $(VENV)."
	@$(INSTALL) --editable ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV)

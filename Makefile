# make train   on a fresh machine: environment, what training needs, phantom, training; with CPU=1 without CUDA
# make test    adds the test tools, runs the tests;  make lint: style and types;  make types: types alone
# make test-gpu   the tests of an NVIDIA GPU, and a table of its speed; without one it says so
# make docs    docs/ as a site in site/;  make dist: a wheel and an sdist in dist/
# make screenshots   takes the pictures of docs/gallery/ anew; needs Chromium
# make notebooks   executes notebooks/*.ipynb anew, outputs included
PYTHON ?= python3
VENV ?= .venv
SPLIT ?= stratified
BIN = $(VENV)/bin
# What pip prints goes to a log, of which the last line is shown now and then, and the end where it fails.
INSTALL = install() { \
	while sleep 10 > /dev/null 2>&1 && kill -0 $$$$ 2> /dev/null; do printf '  %.76s\n' "$$(tail -n 1 $(VENV)/install.log)"; done & \
	$(BIN)/python -m pip install "$$@" > $(VENV)/install.log 2>&1; failed=$$?; kill $$!; [ $$failed = 0 ] || \
	{ tail -n 20 $(VENV)/install.log; echo "pip failed; all it printed: $(VENV)/install.log"; exit 1; }; }; install
# CPU=1: torch's own wheels without CUDA, which then satisfy what busfast needs.
TORCH = $(if $(CPU),$(INSTALL) --index-url https://download.pytorch.org/whl/cpu torch torchvision,:)
BYTES = $(if $(CPU),without CUDA (CPU=1); a few minutes.,several GB on Linux$(COMMA) where torch brings CUDA; a few minutes.)
COMMA = ,

.PHONY: install train test test-gpu lint types docs screenshots notebooks dist clean

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

screenshots: $(VENV)/.screenshots
	$(BIN)/python -m docs.make_screenshots

notebooks: $(VENV)/.test
	$(BIN)/python tests/execute_notebooks.py

install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "busfast needs Python 3.10 or newer, this is " + sys.version)'
	@$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	@echo "Installing busfast into $(VENV): $(BYTES)"
	@$(INSTALL) --upgrade pip
	@$(TORCH)
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

$(VENV)/.screenshots: $(VENV)/.installed
	@echo "Installing the browser's tools and the demo into $(VENV)."
	@$(INSTALL) --editable ".[browser,demo]"
	@touch $@

clean:
	rm -rf $(VENV)

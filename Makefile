# Two commands do everything on a machine with Python 3.11 or newer: `make demo` and `make test`.

PYTHON ?= python3
VENV   ?= .venv
# Tests run in this many processes, one thread each, a file at a time.
WORKERS ?= 2
BIN    := $(VENV)/bin

.PHONY: demo test install lint types imports check benchmark docs clean

demo: install
	$(BIN)/python scripts/demo.py

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

install: $(VENV)/installed

$(VENV)/installed: scripts/install.py constraints.txt pyproject.toml $(wildcard */pyproject.toml plugins/*/pyproject.toml)
	$(PYTHON) scripts/install.py $(VENV)
	@touch $@

check: lint types imports

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

benchmark: install
	$(BIN)/python -m tests.benchmarks.run

# Sphinx is not among what `make install` brings: most people never build the pages.
docs: install
	$(PYTHON) scripts/install.py $(VENV) docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) runs build dist docs/_build docs/plugins

# Every target sets up what it needs in .venv by itself; only `make` and Python 3.11 or newer have to be there.
#   make demo            fit the first example
#   make test            the test suite but its slow tests (make test ARGS="-k mixture" runs some of it)
#   make lint types docs the other checks of CI
# Another Python:        make demo PYTHON=python3.12

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: help demo test slow lint format types docs bench clean
.NOTPARALLEL:

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -n 5

demo: $(VENV)/.with-plot
	$(BIN)/python examples/old_faithful.py $(ARGS)

test: $(VENV)/.with-test
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

slow: $(VENV)/.with-test
	$(BIN)/python -m pytest -n 2 -m slow $(ARGS)

lint: $(VENV)/.with-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.with-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# pyright resolves autoem's imports in .venv; without `test` the optional ones (matplotlib) would be missing there.
types: $(VENV)/.with-types $(VENV)/.with-plot
	$(BIN)/pyright $(ARGS)

docs: $(VENV)/.with-docs
	$(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.with-bench
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra of pyproject.toml: pip runs again only when what is to be installed has changed.
$(VENV)/.with-%: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Setting up $(VENV) for '$*' ..."
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[$*]'
	@touch $@

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "autoem needs Python 3.11 or newer, and '$(PYTHON)' was not found." \
	         "Name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "autoem needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	         "Name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

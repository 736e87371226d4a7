.PHONY: demo test lint clean

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(READY)
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" exec sh examples/cpu/demo.sh

test: $(READY)
	$(VENV)/bin/python -m coverage erase
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=
	$(VENV)/bin/python -m coverage report --format=total | sed 's/^/branch coverage: /; s/$$/ %/'

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info examples/cpu/models examples/cpu/demo

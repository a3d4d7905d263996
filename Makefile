# `make` lists the targets. On a fresh machine with Python 3.11 or newer, `make demo` and `make test` need nothing else.

VENV := .venv
READY := $(VENV)/.ready
# The engines that `make bench` compares with.
PEERS := .venv-peers
# The first of these that runs; the lock file is resolved for 3.11.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
# More arguments for pytest and the demo: make test ARGS="-k journal"
ARGS ?=
# Where the documentation goes.
SITE ?= build/docs
# Where the wheel and the sdist go.
DIST ?= dist
# Of the broker that `make kafka` starts.
PORT ?= 9092
# Processes that share the test files: half of the time of most is waiting for brokers and workers, so four keep two cores busy.
# One torch thread each, as workers have: two on busy cores are far slower. Files go in the order of tests/conftest.py, the long ones
# first, or one process would be left with them in the end.
JOBS ?= 4
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# Set-up compiles everything, so that also processes with PYTHONDONTWRITEBYTECODE=1 find it; what changes later is compiled once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-all lint docs dist kafka crash bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-9s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## the virtual environment .venv, anew when requirements.lock or pyproject.toml change

demo: $(READY) ## engines wear out, alerts ring, a query answers
	@$(VENV)/bin/tocsin demo $(ARGS)

test: $(READY) ## what to run before a commit, on Apache Kafka (Java 17 and Maven); ARGS="-k journal" for some of it
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: $(READY) ## every test: trainings, overload by minutes, 200 kills too
	@$(PYTEST) --kills 200 $(ARGS)

lint: $(READY) ## ruff, mypy and who may import whom
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-cache

docs: $(READY) ## the documentation, into build/docs
	@$(VENV)/bin/python -m docs $(SITE)

dist: $(READY) ## a wheel and an sdist, into dist/
	@$(VENV)/bin/uv build --quiet --no-build-isolation --python $(VENV)/bin/python --out-dir $(DIST)

kafka: $(READY) ## Apache Kafka on 127.0.0.1, until Ctrl-C (Java 17 and Maven); PORT=9093 for another port than 9092
	@$(VENV)/bin/python -m tocsin.deploy.kafka --port $(PORT)

crash: $(READY) ## 200 kills, each with rows and alerts in flight
	@$(VENV)/bin/pytest tests/crash --kills 200 $(ARGS)

bench: $(READY) $(PEERS)/.ready ## Tocsin beside its peers on one Kafka; ARGS="--records 300000 --only Tocsin"
	@$(VENV)/bin/python -m benchmarks.peers $(ARGS)

$(PEERS)/.ready: benchmarks/peers/requirements.txt
	@$(PYTHON) -m venv --clear $(PEERS)
	@$(PEERS)/bin/pip install --quiet --requirement $<
	@touch $@

clean: ## remove what make and the tools made; lake, tracking and .tocsin stay
	rm -rf $(VENV) $(PEERS) build dist *.egg-info deploy/kafka/target .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Tocsin needs Python 3.11 or newer, and none is on PATH: install one, or pass PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet uv
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python --requirements requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --editable .
	@$(VENV)/bin/python -m compileall -q operators models pipelines deploy tocsin
	@touch $@

# `make demo` and `make test` are the two commands; each makes what it needs first. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
SEEDS ?= 1000
BENCH ?= --runs 10 --out docs/benchmarks/bench
LOCK := requirements.lock

.DEFAULT_GOAL := help
.PHONY: help demo test test-core test-rest lint format types imports check sim bench bench-repo env lock clean
.NOTPARALLEL:

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

env: ## make or refresh the environment in .venv (PYTHON=... chooses the interpreter)
	@PYTHON="$(PYTHON)" VENV="$(VENV)" LOCK="$(LOCK)" sh scripts/env

demo: env ## a failover, a failback and a switchover, with a backup running through them
	@$(PY) -m leaseha demo

test: test-core test-rest ## all tests that this machine can run; each skip says what it misses

# The core is all decisions: each branch of it is covered by its own tests, or the run fails.
test-core: env
	$(PY) -m pytest tests/core -q --cov --cov-report=term --cov-fail-under=100

test-rest: env
	sh scripts/tests $(PY)

lint: env ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env ## ruff: mend what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types: env ## mypy --strict
	$(BIN)/mypy

imports: env ## the directions of imports (.importlinter)
	$(BIN)/lint-imports --no-cache

check: lint types imports ## lint, types, imports

sim: env ## a campaign of the simulator: make sim SEEDS=10000
	$(PY) -m chaos.sim --seeds $(SEEDS)

bench: env ## leaseha and keepalived under the same faults, an hour or more: make bench BENCH="--runs 3 --out /tmp/b"
	@$(PY) -m leaseha.lab.sandbox -- $(PY) -m chaos.bench $(BENCH)

BENCH_REPO ?= --out docs/benchmarks/repository
bench-repo: env ## the repository beside rest-server and rclone: make bench-repo BENCH_REPO="--rounds 3 --out /tmp/b"
	PACKAGE=restic-rest-server sh scripts/newer_restic build/rest-server
	$(PY) -m chaos.bench_repo --rest-server build/rest-server/restic-rest-server $(BENCH_REPO)
	$(PY) -m chaos.bench_repo.many --out docs/benchmarks/many-objects

lock: ## renew requirements.lock from pyproject.toml
	@PYTHON="$(PYTHON)" LOCK="$(LOCK)" sh scripts/lock

clean: ## remove the environment and all caches
	rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# fastmesh: every target does its own set-up, and running one again is cheap.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PY := .venv/bin/python
# Arguments for pytest, e.g. make test PYTEST_ARGS="-x tests/unit/proto"
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 60
# Arguments for the bench, e.g. make bench BENCH_ARGS="--quick"
BENCH_ARGS ?=

.PHONY: help build test soak lint demo bench asan fuzz clean distclean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## set up .venv, build the extensions in place; leaves .venv/bin/fastmesh
	@tools/build

test: ## build with the test shims and run the whole test suite
	@tools/test-peers
	@tools/build --shims
	@$(PY) -m pytest -n 2 $(PYTEST_ARGS)

soak: ## build with the test shims and run the tests that take minutes (tests/soak)
	@tools/test-peers
	@tools/build --shims
	@$(PY) -m pytest -n 2 tests/soak $(PYTEST_ARGS)

lint: ## ruff and mypy --strict
	@tools/build
	@$(PY) -m ruff check .
	@$(PY) -m mypy

demo: ## the mesh in one minute: real processes, mTLS, a live canary
	@tools/build
	@$(PY) -m fastmesh.demo

bench: ## speed and memory beside Envoy, HAProxy and nginx in the same run
	@tools/bench-peers
	@tools/build --bench --shims
	@$(PY) -m bench $(BENCH_ARGS)

asan: ## tests of the data plane, forked workers included, under AddressSanitizer and UBSan (a build tree of its own)
	@tools/build
	@$(PY) tools/asan.py $(PYTEST_ARGS)

fuzz: ## run the fuzz targets for FUZZ_SECONDS (60), and hostile configs as long under AddressSanitizer
	@tools/build --shims --fuzz
	@PYTHONPATH=src:control:tests $(PY) tests/fuzz/run.py --seconds $(FUZZ_SECONDS)
	@FASTMESH_FUZZ_SECONDS=$(FUZZ_SECONDS) $(PY) tools/asan.py -q tests/fuzz/test_snapshots.py

clean: ## remove what was built (not .venv)
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks src/*.egg-info
	@find src control tests bench -name __pycache__ -prune -exec rm -rf {} +
	@find src tests/shim -name '*.so' -delete

distclean: clean ## remove .venv as well
	@rm -rf .venv

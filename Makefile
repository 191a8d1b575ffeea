# One file to set up, try and test the project. `make demo` and `make test` do everything they need.
# PYTHON=... names another interpreter than the first one on PATH that will do.
PYTHON  ?=
WORKERS ?= 2
VENV    := .venv
BIN     := $(VENV)/bin
RUN     := $(VENV)/.installed-run
DEV     := $(VENV)/.installed-dev
JS      := .cache/azure-js/.installed
PIP     := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STRICT  := src/kubenclave/sgx/*,src/kubenclave/wire/*,src/kubenclave/dcap/*

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check pytest coverage wheel-test cluster-tools test-cluster cluster fuzz bench bench-cluster vectors proto policies lock clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

# What running needs: seconds.
$(RUN): pyproject.toml requirements/run.txt tools/prerequisites.sh
	@python=$$(sh tools/prerequisites.sh $(PYTHON)) && \
	  echo "==> installing into $(VENV) with $$python (once)" && $$python -m venv $(VENV)
	@$(PIP) --require-hashes -r requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

# What developing needs on top of it.
$(DEV): $(RUN) requirements/dev.txt
	@echo "==> installing the tools of the tests (once, about half a minute)"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

# Microsoft's JavaScript client of Azure Attestation, for the tests that run it: they skip where node is missing.
$(JS): tests/interop/azure-js/package-lock.json
	@if command -v npm >/dev/null; then mkdir -p $(@D) && cp tests/interop/azure-js/package*.json $(@D) && \
	  { npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund >/dev/null 2>&1 && touch $@ || \
	    echo "npm could not install the JavaScript client: its tests will skip" >&2; }; fi

demo: $(RUN) ## one workload from EPC to verdict on this machine, no SGX needed
	@$(BIN)/kubenclave demo

test: check pytest coverage ## everything that must hold before a change lands

check: $(DEV) ## style, types and layers
	@echo "==> ruff" && $(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .
	@echo "==> mypy" && $(BIN)/mypy --no-error-summary
	@echo "==> layers" && $(BIN)/lint-imports --no-logo --no-cache

pytest: $(DEV) $(JS) ## the tests alone; PYTEST_ARGS="-k quote" for some of them
	@echo "==> pytest"
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -n $(WORKERS) $(PYTEST_ARGS)

coverage: $(DEV)
	@echo "==> coverage: 100 % of formats, protocols and verification, 90 % of the rest"
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --include='$(STRICT)' --fail-under=100
	@$(BIN)/coverage report --omit='$(STRICT)' --fail-under=90

wheel-test: $(DEV) $(JS) ## all tests against the built wheel in place of the sources
	@rm -rf .cache/wheel && $(BIN)/python -m hatchling build -t wheel -d .cache/wheel >/dev/null 2>&1
	@$(BIN)/python -m zipfile -e .cache/wheel/*.whl .cache/wheel/unpacked
	@echo "==> pytest against $$(ls .cache/wheel/*.whl)"
	@PYTHONPATH=$(CURDIR)/.cache/wheel/unpacked $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

cluster-tools: $(RUN) ## build the Kubernetes of the cluster tests (once, about 15 minutes on two cores)
	@$(BIN)/python tools/kubernetes/build.py

test-cluster: $(DEV) ## the tests on real Kubernetes, in namespaces of their own (needs root and Go, else skips)
	@echo "==> tests/cluster" && $(BIN)/python -m tests.cluster --install --all-versions -- $(PYTEST_ARGS)

cluster: $(DEV) ## a real cluster to play with, until ^C
	@$(BIN)/python -m tests.cluster --install --hold

fuzz: $(DEV) ## every parser against garbage, FUZZ_EXAMPLES (20000) times each
	@KUBENCLAVE_FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-20000} $(BIN)/python -m pytest -n $(WORKERS) --timeout 3600 tests/fuzz tests/property

bench: $(DEV) ## figures of docs/benchmarks.md, with their peers in the same run
	@$(BIN)/python -m benchmarks --json .cache/benchmarks.json $(BENCH_ARGS)

bench-cluster: $(DEV) ## the figures on real Kubernetes: about half an hour, a quiet machine, root
	@$(BIN)/python -m benchmarks.cluster --json .cache/benchmarks-cluster.json $(BENCH_ARGS)

vectors: $(DEV) ## make the project's own vectors anew (they are checked in)
	@$(BIN)/python -m vectors.generate

proto: $(DEV) ## make src/kubenclave/_proto anew (it is checked in)
	@$(BIN)/python tools/generate_proto.py

policies: $(DEV) ## write the chart's admission policies anew out of the rule table (they are checked in)
	@$(BIN)/python tools/generate_policies.py

LOCK := .cache/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links pyproject.toml

lock: ## pin the newest versions that pyproject.toml allows, with hashes
	@python=$$(sh tools/prerequisites.sh $(PYTHON)) && $$python -m venv .cache/lock
	@.cache/lock/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13'
	@$(LOCK) --upgrade --all-extras --group dev -o requirements/dev.txt
	@$(LOCK) --upgrade --extra local --extra cluster --extra services --group build --constraint requirements/dev.txt -o requirements/run.txt
	@$(LOCK) --upgrade --extra node --extra cluster --extra services --constraint requirements/dev.txt -o requirements/image.txt

clean: ## remove what make made
	rm -rf $(VENV) .cache .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks vectors tools -name __pycache__ -prune -exec rm -rf {} +

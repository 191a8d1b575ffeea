# One file to set up, try and test the project. `make demo` and `make test` do everything they need.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check pytest coverage fuzz bench vectors proto lock clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): pyproject.toml requirements/dev.txt tools/prerequisites.sh
	@sh tools/prerequisites.sh "$(PYTHON)"
	@echo "==> installing into $(VENV) (once, about half a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## one workload from EPC to verdict on this machine, no SGX needed
	@$(BIN)/kubenclave demo

test: check pytest coverage ## everything that must hold before a change lands

check: $(STAMP) ## style, types and layers
	@echo "==> ruff" && $(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .
	@echo "==> mypy" && $(BIN)/mypy --no-error-summary
	@echo "==> layers" && $(BIN)/lint-imports --no-logo

pytest: $(STAMP)
	@echo "==> pytest"
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -n 2 $(PYTEST_ARGS)

coverage: $(STAMP)
	@echo "==> coverage"
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --include='src/kubenclave/sgx/*,src/kubenclave/wire/*,src/kubenclave/dcap/*' --fail-under=100
	@$(BIN)/coverage report --omit='src/kubenclave/sgx/*,src/kubenclave/wire/*,src/kubenclave/dcap/*' --fail-under=90

fuzz: $(STAMP) ## every parser against garbage, for FUZZ_EXAMPLES examples each
	@KUBENCLAVE_FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-20000} $(BIN)/pytest -n 2 --timeout 3600 tests/fuzz tests/property

bench: $(STAMP) ## figures of docs/benchmarks.md, with their peers in the same run
	@$(BIN)/python -m benchmarks

vectors: $(STAMP) ## make the project's own vectors anew (they are checked in)
	@$(BIN)/python vectors/generate.py

proto: $(STAMP) ## make src/kubenclave/_proto anew (it is checked in)
	@$(BIN)/python tools/generate_proto.py

lock: ## pin the newest versions that pyproject.toml allows, with hashes (needs uv)
	uv pip compile --quiet --universal --upgrade --python-version 3.11 --generate-hashes --all-extras --group dev \
	  --no-header --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements/dev.txt

clean: ## remove what make made
	rm -rf $(VENV) .cache .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The project's commands; all but `web` need the environment that ./go-web.sh test creates.
PYTHON ?= .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help check lint test bench web

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

check: lint test ## lint, then test: what every change must pass

lint: ## style and types
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy

test: ## the fast tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu and not weights"

bench: ## measures speed and memory on this machine: tables and JSON lines
	set -e; for script in benchmarks/bench_*.py; do $(PYTHON) "$$script"; done

web: ## starts the web UI
	./go-web.sh web

# The project's commands; all but `web` need the environment that ./go-web.sh test makes.
PYTHON ?= .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help check lint test bench web

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

check: lint test ## everything a change must pass: lint, then test

lint: ## style and types
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy

test: ## the tests that take seconds
	$(PYTHON) -m pytest -m "not slow and not gpu and not weights"

bench: ## speed and memory of this machine, as tables and JSON lines
	set -e; for script in benchmarks/bench_*.py; do $(PYTHON) "$$script"; done

web: ## the page in the browser
	./go-web.sh web

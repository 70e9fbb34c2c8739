# What a newcomer types: `make run`, `make test`. Everything happens in .venv; nothing is installed on the system but
# Chromium for `make test`, and only where that is allowed.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup setup-dev kmip run test soak screenshots bench bench-page lint format types ci pins chromium

setup:
	@.ci/setup "$(PYTHON)" requirements.txt

setup-dev:
	@.ci/setup "$(PYTHON)" requirements-dev.txt

# What KMIP servers need on top (docs/kms.md); a later `make run` keeps it.
kmip:
	@.ci/setup "$(PYTHON)" requirements-kmip.txt

# exec: the supervisor gets the signals itself.
run: setup
	@exec $(BIN)/python manage.py run

test: setup-dev chromium
	@$(BIN)/python -m pytest -n 2 $(ARGS)

# The long versions of tests. The seed is printed: SEED=7 repeats a run, ROUNDS=10 makes it ten times as long.
soak: setup-dev
	@SEED="$(SEED)" ROUNDS="$(ROUNDS)" $(BIN)/python -m pytest -m soak -n 2 --timeout 0 $(ARGS)

chromium:
	@.ci/chromium

# The pictures of README and docs/, drawn from fixed data.
screenshots: setup-dev chromium
	@$(BIN)/python -m tests.browser.pictures $(ARGS)

# The engine beside restic and borg; ARGS="--quick" shows in a minute that it works.
bench: setup-dev
	@.ci/peers "$(PYTHON)"
	@$(BIN)/python -m tests.bench $(ARGS)

# docs/performance.md from the figures of the last whole run.
bench-page: setup-dev
	@$(BIN)/python -m tests.bench.document --from build/bench/figures.json

lint: setup-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: setup-dev
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

types: setup-dev
	@$(BIN)/python -m mypy

ci:
	@.ci/run

# Pin what the four .in files ask for, with hashes and without the names of hosts.
PIN := --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --upgrade --quiet

pins: setup-dev
	@$(BIN)/python -m pip install --quiet uv
	@for name in requirements requirements-recover requirements-kmip requirements-dev; do \
		$(BIN)/uv pip compile $(PIN) "$$name.in" -o "$$name.txt" || exit 1; \
	done

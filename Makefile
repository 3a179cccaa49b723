# metercast: everything runs from .venv at the project's root. `make` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/sh
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS_VENV := .venv-bench
# PYTHON=/path/to/python3 chooses the interpreter; KEEP=1 leaves the demo up; PYTEST_ARGS goes to pytest, BENCH_ARGS to
# the benches, as do DATA and SETS for bench-accuracy and bench-ablation, PEERS for the first; MINUTES and SEED say how long `make soak` goes on and which seed it begins with.
export PYTHON KEEP

.PHONY: help install mosquitto peers demo test soak bench bench-accuracy bench-ablation check format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## put Python packages into .venv (needs Python >= 3.11)
	@:

# The stamp is newer than the pins when the environment holds what they name. uv does not read pip's own
# configuration, so where packages come from a mirror that only pip knows, pip does the work.
$(INSTALLED): requirements/dev.txt
	@test -x $(BIN)/python || { python=$$(scripts/ensure-python) && echo "Making $(VENV) with $$python" && "$$python" -m venv $(VENV); }
	@test -x $(BIN)/uv || { echo "Installing uv" && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }
	@echo "Installing packages into $(VENV)"
	@if [ -t 2 ]; then quiet=; else quiet=--quiet; fi; \
	$(BIN)/uv pip install $$quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt \
	  || { echo "uv could not; trying pip" && $(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements/dev.txt; }
	@scripts/ensure-openmp $(BIN)/python
	@touch $@

mosquitto: ## find a Mosquitto broker, or install it where permitted
	@scripts/ensure-mosquitto >/dev/null

demo: install mosquitto ## replay real meters through a real broker and watch the loop close (KEEP=1 stays up)
	@$(BIN)/python -m demo

# Two at a time, as most of them wait for processes; a file's tests stay together, as some share a broker.
test: install mosquitto ## run every test, with a real broker, MLflow and Delta
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

bench: install mosquitto peers ## measure beside limits and peers (ONLY=ingest_committed measures one)
	@$(BIN)/python -m bench $(ONLY) $(BENCH_ARGS)

bench-accuracy: install peers ## forecasts beside other forecasters' on the development sets (DATA=folder, SETS=…, PEERS=…)
	@$(BIN)/python -m bench.accuracy $(if $(DATA),--data "$(DATA)") $(if $(SETS),--sets "$(SETS)") $(if $(PEERS),--peers "$(PEERS)") $(BENCH_ARGS)

bench-ablation: install ## what each choice of the recipe buys (DATA=folder, SETS=…); an hour; a run that is cut goes on
	@$(BIN)/python -m bench.ablation $(if $(DATA),--data "$(DATA)") $(if $(SETS),--sets "$(SETS)") $(BENCH_ARGS)

# What metercast is measured against has an environment of its own. Without it the benches say so and go on.
peers:
	@command -v mosquitto_sub >/dev/null || scripts/install-package mosquitto-clients mosquitto || true
	@$(MAKE) $(PEERS_VENV)/.installed || echo "The peers could not be installed into $(PEERS_VENV); the benches go on without them." >&2

$(PEERS_VENV)/.installed: requirements/bench.txt
	@test -x $(PEERS_VENV)/bin/python || $(BIN)/python -m venv $(PEERS_VENV)
	@echo "Installing peers into $(PEERS_VENV)"
	@$(BIN)/uv pip install --quiet --python $(PEERS_VENV)/bin/python --require-hashes -r requirements/bench.txt \
	  || { echo "uv could not; trying pip" && $(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt; }
	@touch $@

# A quarter of the time in virtual time, where a seed takes a tenth of a second; the rest with real processes.
soak: install mosquitto ## play faults with fresh seeds until the time is over (MINUTES=10, SEED=…)
	@status=0; \
	$(BIN)/python -m tests.simulation --seeds 1000000 --from $(or $(SEED),$$(date +%s)) --seconds $$(( $(or $(MINUTES),10) * 15 )) || status=1; \
	$(BIN)/python -m tests.faults --minutes $$(awk 'BEGIN { print $(or $(MINUTES),10) * 0.75 }') $(if $(SEED),--seed $(SEED)) || status=1; \
	exit $$status

check: install ## format, lint, types, import rules, links in the docs
	@$(BIN)/ruff format --check --quiet --output-format concise . || { echo "run 'make format'"; exit 1; }
	@$(BIN)/ruff check --quiet --output-format concise .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > $(VENV)/.imports 2>&1 || { cat $(VENV)/.imports; exit 1; }
	@$(BIN)/python scripts/check_links.py
	@echo "check: clean"

format: install ## let ruff format and mend what it can
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .

lock: install ## compile requirements/*.in into pins with hashes (LOCK_ARGS=--upgrade moves them)
	@scripts/lock $(LOCK_ARGS)

clean: ## remove what runs and checks left behind, not .venv
	@rm -rf demo-out bench-out build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Chatty. `make run` starts a server with everything it needs, `make test` tests it; both make .venv at their first use.
# ARGS goes to the command: make test ARGS='tests/unit -x', make demo ARGS=--help.

ARGS =
BIN = .venv/bin
CHECKED = chatty tests $(if $(wildcard bench/*.py),bench)

# Without bytecode files each start would compile every library anew; a foreign PYTHONPATH would shadow the lock.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.NOTPARALLEL:
.PHONY: help run demo test test-long check format bench bench-growth bench-peers bench-compare interop ops-check fuzz fuzz-frames privacy lock clean

help:
	@echo 'make run        start a server on http://127.0.0.1:8000, PostgreSQL included; Ctrl-C stops it'
	@echo 'make demo       two people talk, and you see what the server stored of it'
	@echo 'make test       all tests, those with counts at small ones; prints the line coverage'
	@echo 'make test-long  the tests with counts, at full counts'
	@echo 'make check      format, lint, types, import rules'
	@echo 'make format     let ruff mend what it can'
	@echo 'make bench      measure; results go to bench/results'
	@echo 'make bench-growth   measure more sessions and larger rooms'
	@echo 'make bench-peers    measure other chat servers beside Chatty; installs them with apt, as root'
	@echo 'make bench-compare  the change between the two newest results'
	@echo 'make interop    exchange messages with another implementation of the protocol'
	@echo 'make ops-check  have Prometheus read the shipped rules and scrape a server'
	@echo 'make fuzz       WebSocket conformance cases against the gateway'
	@echo 'make fuzz-frames  mutated frames, a million or as many as ARGS says, to both paths of the gateway'
	@echo 'make soak       ten minutes of everything at once, an actor crashing every second'
	@echo 'make privacy    write docs/privacy.md anew'
	@echo 'make lock       resolve the dependencies anew'
	@echo 'make clean      remove .venv and caches; data in .chatty stay'

# exec: no shell stands between make and the server, so a Ctrl-C reaches it once, and make waits until it has stopped.
run: .venv/.complete
	@exec $(BIN)/chatty up $(ARGS)

demo: .venv/.complete
	@exec $(BIN)/chatty demo $(ARGS)

# Those that kill processes and hold others to their time come last, among themselves. Three or four workers on two cores: many wait.
test: .venv/.complete
ifeq ($(ARGS),)
	@$(BIN)/python -m slipcover --json --out .coverage.json -m pytest --numprocesses=3 --dist worksteal --ignore=tests/faults
	@$(BIN)/python -m slipcover --merge .coverage.json --out .coverage.json --fail-under 85
	@exec $(BIN)/pytest --numprocesses=4 --dist worksteal tests/faults
else
	@exec $(BIN)/pytest $(ARGS)
endif

test-long: export CHATTY_TEST_COUNTS = full
test-long: .venv/.complete
ifeq ($(ARGS),)
	@$(BIN)/pytest -m long --timeout=1800 --numprocesses=2 --ignore=tests/faults
	@exec $(BIN)/pytest -m long --timeout=1800 tests/faults
else
	@exec $(BIN)/pytest -m long --timeout=1800 $(ARGS)
endif

check: .venv/.complete
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy --strict $(CHECKED)
	$(BIN)/lint-imports --no-logo

format: .venv/.complete
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

bench: .venv/.complete
	@exec $(BIN)/python -m bench $(ARGS)

bench-growth: .venv/.complete
	@exec $(BIN)/python -m bench --only sessions spread rooms $(ARGS)

bench-peers: .venv/.complete
	@exec $(BIN)/python -m bench.peers $(ARGS)

bench-compare: .venv/.complete
	@exec $(BIN)/python -m bench.compare $(ARGS)

interop: .venv/.complete
	@exec tests/interop/run $(ARGS)

ops-check: .venv/.complete
	@exec tests/ops/run $(ARGS)

fuzz: .venv/.complete
	@exec tests/fuzz/run $(ARGS)

fuzz-frames: .venv/.complete
	@exec $(BIN)/python -m tests.fuzz.client_frames $(or $(ARGS),1000000)

soak: .venv/.complete
	@exec $(BIN)/python -m tests.faults.soak $(ARGS)

# .venv/.lock is a copy of the lock that .venv was made from: only another content makes it anew, not another date.
.venv/.complete: requirements.lock pyproject.toml
	@cmp -s requirements.lock .venv/.lock || $(MAKE) --no-print-directory -s environment
	@$(BIN)/pip install -qq --no-deps --no-build-isolation --no-index -e .
	@touch $@

.PHONY: environment
environment:
	@set -eu; \
	for python in python3.11 python3 python3.12 python3.13 python3.14; do \
	  if $$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Making .venv with $$python; this takes about a minute, once."; \
	    rm -rf .venv; \
	    $$python -m venv .venv; \
	    $(BIN)/pip install -qq --no-deps --require-hashes -r requirements.lock; \
	    cp requirements.lock .venv/.lock; \
	    exit 0; \
	  fi; \
	done; \
	echo 'Chatty needs Python 3.11 or newer with its venv module, as python3 or python3.11 (Debian: python3-venv).' >&2; \
	exit 1

privacy: .venv/.complete
	@$(BIN)/chatty-admin privacy --markdown > docs/privacy.md

# The resolver lives in a folder of its own, for this one command.
lock:
	@set -eu; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	python3 -m venv "$$folder"; "$$folder/bin/pip" install -qq uv; \
	"$$folder/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	  --no-emit-index-url --no-annotate --no-header --group dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv .coverage.json .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist \
	  tests/interop/node_modules
	find chatty tests -name __pycache__ -type d -prune -exec rm -rf {} +

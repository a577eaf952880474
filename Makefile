# The tasks of a contributor. `make` lists them; each installs what it needs first.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# vyper and anvil are found on PATH by the tools that call them.
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/node_modules/.bin:$(PATH)
# Ape keeps its caches in its own folder under HOME by default; ours stay in the checkout.
export APE_DATA_FOLDER := $(CURDIR)/.ape
# A library of ape's warns about itself at each start.
export PYTHONWARNINGS := ignore:Field 'import_remapping' has an incomplete definition

PY := .venv/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check
VENV_STAMP := .make/venv.stamp
PROJECT_STAMP := .make/project.stamp
NODE_STAMP := .make/node.stamp
ANVIL_STAMP := .make/anvil.stamp

##@ Start here
.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(PROJECT_STAMP) $(ANVIL_STAMP) ## install everything into .venv and node_modules of this checkout

.PHONY: devnet
devnet: setup ## a local chain, backend, keeper and participants, running until Ctrl-C
	@$(PY) -m scripts.world.devnet

.PHONY: demo
demo: setup ## the keeper's promises, played once against the chain; writes demo-report.json
	@$(PY) -m scripts.world.demo

.PHONY: chaos
chaos: setup ## kill the daemon in COUNT runs drawn from SEED; ends in one JSON line
	@$(PY) -m scripts.chaos --seed $(or $(SEED),1) --count $(or $(COUNT),50)

.PHONY: bench-settle
bench-settle: setup ## what a settlement costs, alone and among 500; one JSON line
	@$(PY) -m bench.settle

.PHONY: bench-guard
bench-guard: setup ## what the guard saves, and 500 sessions ended through it; one JSON line
	@$(PY) -m bench.guard

.PHONY: race
race: setup ## COUNT random orders of a tutor's next start and the keeper's end in one block; one JSON line
	@$(PY) -m scripts.race --seed $(or $(SEED),1) --count $(or $(COUNT),200)

##@ Check
.PHONY: test
test: setup chromium ## all tests: contracts through ape, on Anvil and on Hardhat, 50 crashes, pages, then the rest
	@status=0; ape test tests/contracts || status=$$?; $(HARDHAT) || status=$$?; $(MAKE) chaos || status=$$?; \
		$(BROWSER) || status=$$?; pytest --ignore=tests/browser || status=$$?; exit $$status

.PHONY: test-deep
test-deep: setup ## the property tests with EXAMPLES each (5,000: an hour or more)
	@HYPOTHESIS_PROFILE=deep EXAMPLES=$(EXAMPLES) $(PY) -m pytest --timeout=0 tests/property

.PHONY: mutants
mutants: setup ## change bot/domain one operator at a time: which changes does no test notice (10 minutes)
	@mutmut run --max-children 2 >.make/mutants.log 2>&1 || { tail -5 .make/mutants.log; exit 1; }
	@mutmut results

.PHONY: test-contracts
test-contracts: setup ## the contract tests only
	@ape test tests/contracts

HARDHAT := $(PY) -m tests.hardhat.run

.PHONY: test-hardhat
test-hardhat: setup ## the contract tests on a Hardhat node
	@$(HARDHAT)

BROWSER := pytest -n 2 tests/browser

.PHONY: test-browser
test-browser: setup chromium ## the pages in a real Chromium against a real chain; writes docs/pages/*.png
	@$(BROWSER)

# Playwright drives the machine's own browser: no download of another one.
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable chrome
.PHONY: chromium
chromium: ## a browser for test-browser, unless there is one: Debian's, by apt, as root
	@[ -n "$${CHROMIUM:-}" ] || command -v $(BROWSERS) >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
			|| { echo "no Chromium found. Install one (Debian, as root: apt-get install chromium), or set CHROMIUM to its path." >&2; exit 1; }; \
		echo "setup: chromium, by apt-get"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; }

.PHONY: gas-snapshot
gas-snapshot: setup ## measure what the contracts cost, and compare with contracts/gas.json (WRITE=--write: write it)
	@$(PY) -m scripts.gas_snapshot $(WRITE)

.PHONY: lint
lint: setup ## ruff: rules and format; hadolint: the Dockerfile
	@ruff check .
	@ruff format --check .
	@if command -v hadolint >/dev/null; then hadolint Dockerfile; else echo "lint: no hadolint for $$(uname -m), Dockerfile not linted"; fi

.PHONY: types
types: setup ## mypy, strict on bot/domain
	@mypy

##@ Measure
.PHONY: bench-index
bench-index: setup ## the index against its floor, five times in turns; builds its chain once (2 minutes)
	@$(PY) -m bench.index

.PHONY: bench-lag
bench-lag: setup ## from a block to its committed rows, by websocket and by polling
	@$(PY) -m bench.lag

.PHONY: bench-feeds
bench-feeds: setup ## 2,000 rooms posting heartbeats and hang-ups for a minute; one JSON line
	@$(PY) -m bench.feeds

.PHONY: bench-core
bench-core: setup ## the core's events a second; memory and restart with 100,000 live sessions; one JSON line
	@$(PY) -m bench.core

.PHONY: bench-start
bench-start: setup ## seconds to --help, to the first request and to ready, and memory at rest; one JSON line
	@$(PY) -m bench.start

.PHONY: soak
soak: setup ## MINUTES with LESSONS lessons coming and going: memory, files and lag stay as they were; one JSON line
	@$(PY) -m bench.soak --minutes $(or $(MINUTES),30) --lessons $(or $(LESSONS),200)

##@ Maintain
.PHONY: format
format: setup ## rewrite the code in the project's format
	@ruff check --fix-only --quiet .
	@ruff format .

.PHONY: abi
abi: setup ## write the ABI files from the compiled contracts
	@$(PY) scripts/abi.py

.PHONY: picture
picture: setup ## draw docs/devnet.svg from a real run
	@$(PY) -m scripts.world.picture

UV_COMPILE = .make/uv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-config --system-certs --no-emit-index-url --no-header --quiet

.PHONY: lock
lock: ## resolve the dependencies anew and write the lock files
	@python=$$(scripts/find-python) && "$$python" -m venv .make/uv && .make/uv/bin/pip install --quiet --disable-pip-version-check uv
	@$(UV_COMPILE) --upgrade pyproject.toml --group contracts --group test --group dev -o requirements/all.txt
	@$(UV_COMPILE) --upgrade --group build -o requirements/build.txt
	@$(UV_COMPILE) --upgrade pyproject.toml --constraint requirements/all.txt -o requirements/run.txt
	@npm install --package-lock-only --ignore-scripts

.PHONY: clean
clean: ## remove what the tools made; .venv and node_modules too
	rm -rf .venv node_modules .make .ape .build .cache dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find bot scripts tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Installing. The stamps make a second `make setup` a no-op until a lock changes.
$(VENV_STAMP): requirements/all.txt requirements/build.txt scripts/find-python
	@python=$$(scripts/find-python) && echo "setup: $$("$$python" --version) in .venv" && "$$python" -m venv --clear .venv
	@$(PIP) install --require-hashes --use-pep517 -r requirements/all.txt
	@$(PIP) download --require-hashes -r requirements/build.txt -d .make/build
	@mkdir -p $(@D) && touch $@

$(PROJECT_STAMP): $(VENV_STAMP) pyproject.toml
	@$(PIP) install --no-index --find-links .make/build --no-deps -e .
	@touch $@

$(NODE_STAMP): package-lock.json package.json .npmrc
	@command -v node >/dev/null && command -v npm >/dev/null \
		|| { echo "setup: node and npm are missing. Install Node.js 20 or later with npm (Debian: apt-get install nodejs npm)." >&2; exit 1; }
	@node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' \
		|| { echo "setup: node is $$(node --version); the tests' tools need Node.js 20 or later." >&2; exit 1; }
	@echo "setup: node $$(node --version) packages in node_modules"
	@npm ci --no-fund --no-audit --loglevel=error
	@[ -x node_modules/.bin/anvil ] || command -v anvil >/dev/null \
		|| { echo "setup: no anvil for $$(uname -sm) in the lock. Install Foundry's anvil and put it on PATH." >&2; exit 1; }
	@mkdir -p $(@D) && touch $@

# An activated .venv has anvil on PATH, as it has vyper.
$(ANVIL_STAMP): $(VENV_STAMP) $(NODE_STAMP)
	@[ ! -x node_modules/.bin/anvil ] || ln -sf ../../node_modules/.bin/anvil .venv/bin/anvil
	@touch $@

# The commands of Atelier; `make` alone lists them. All of them share the environment .venv.
#
# A stamp in .venv, named after the checksum of the requirements, says that they are installed.
# It is made last, so a failed or interrupted install is done again.

PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt)
RUNTIME := .venv/.runtime-$(shell cksum < requirements.txt | cut -d ' ' -f 1)
DEV := .venv/.dev-$(shell cat requirements.txt requirements-dev.txt | cksum | cut -d ' ' -f 1)
# The Python that .venv was made from may have been removed since: then it is made anew.
$(shell test -x $(PY) || rm -f .venv/.runtime-* .venv/.dev-*)

MODEL := $(or $(STUDIO_HOME),$(HOME)/.atelier)/models/SmolLM2-135M-Instruct
# train_speed.py starts plain_trl.py to compare with it; gpu*.py need a GPU, and say what else.
BENCHES := $(filter-out bench/plain_trl.py $(wildcard bench/gpu*.py),$(wildcard bench/*.py))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test faults matrix check format bench clean model chromium

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

run: $(RUNTIME) model ## set up what is missing and open the studio (PORT=8000 for another port)
	@exec $(PY) app.py

test: $(DEV) chromium ## set up what is missing and run the tests (ARGS="..." go to pytest)
	@$(PY) -m pytest $(ARGS)

faults: $(DEV) ## kill runs a hundred times (ATELIER_SEED=... for others), fill disks, spoil folders
	@ATELIER_KILLS=$${ATELIER_KILLS:-100} $(PY) -m pytest tests/faults $(ARGS)

matrix: $(DEV) ## train with every trainer, method and kind of weights that go together
	@ATELIER_MATRIX=full $(PY) -m pytest tests/engine/test_matrix.py $(ARGS)

check: $(DEV) ## format, lint, types and layers; changes nothing
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports

format: $(DEV) ## put the code in its format, mend what ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(DEV) chromium model ## measure what is claimed of speed and memory
	@for script in $(BENCHES); do echo "== $$script"; $(PY) $$script || exit 1; done

clean: ## remove .venv and the caches; runs and models stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .gradio
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME):
	@echo "[1/3] Preparing .venv"
	@command -v $(PYTHON) >/dev/null || { echo "Atelier needs Python 3.11 or newer, and there is no $(PYTHON) here. Install it, or name yours: make run PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Atelier needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name a newer one: make run PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) lacks the parts that make environments. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "[2/3] Installing $(TORCH)"
	@$(PIP) $(TORCH)
	@echo "[3/3] Installing the other packages"
	@$(PIP) -r requirements.txt
	@rm -f .venv/.runtime-* && touch $@

$(DEV): $(RUNTIME)
	@echo "Installing the tools for tests and checks"
	@$(PIP) -r requirements-dev.txt
	@rm -f .venv/.dev-* && touch $@

model:
	@test -d "$(MODEL)" || $(PY) -m studio.worker setup

chromium:
	@command -v chromium >/dev/null || { \
	command -v apt-get >/dev/null || { echo "The browser tests need Chromium, and there is no apt-get to install it: put a chromium on the PATH." >&2; exit 1; }; \
	echo "Installing Chromium for the browser tests"; \
	$(SUDO) apt-get -qq update && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core; }

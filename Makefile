# Works with GNU make 3.81 and later. `make` alone lists the targets.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHONS := python3.11 python3.12 python3.13 python3
CI_BROWSER := chromium
# Threads that spin while they wait starve whatever else runs: JupyterLab, a browser, the tests of both.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help setup lab test test-all browser bench render lint lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with everything in it, at the versions in constraints.txt (minutes, once)

# A python may stand on PATH and not run (a version manager's shim), or run and be too old: so each is tried.
$(READY): pyproject.toml constraints.txt
	@good='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; \
	if ! $(BIN)/python -c "$$good" 2>/dev/null; then \
	  found=; bare=; \
	  for python in $(PYTHONS); do \
	    $$python -c "$$good" 2>/dev/null || continue; \
	    if $$python -c 'import ensurepip, venv' 2>/dev/null; then found=$$python; break; fi; \
	    bare=$${bare:-$$python}; \
	  done; \
	  if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	    version=$$($$bare -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "$$bare runs, but has no venv module. On Debian or Ubuntu: sudo apt install python$$version-venv" >&2; exit 1; \
	  elif [ -z "$$found" ]; then \
	    echo "No Python 3.11, 3.12 or 3.13 found (tried: $(PYTHONS)). Install one and run this again," >&2; \
	    echo "or name it: make setup PYTHONS=/path/to/python3.12" >&2; exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$($$found --version)"; \
	  $$found -m venv --clear $(VENV); \
	fi
	@echo "Installing into $(VENV): some minutes and 2 GB (more with a CUDA build of PyTorch), with little to see meanwhile"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[lab,test]'
	@touch $@

lab: setup  ## open the course in JupyterLab
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb $(LAB_ARGS)

test: setup browser  ## all tests but the slow ones (PYTEST_ARGS="-k layer" for some)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-all: setup browser  ## all tests
	$(BIN)/python -m pytest -m "" $(PYTEST_ARGS)

# Only a disposable machine gets a browser without asking.
browser: setup  ## see to a browser for the tests of the laboratory
	@find='from xmc_explore.doctor import find_browser; print(find_browser() or "")'; \
	[ -z "$$($(BIN)/python -c "$$find")" ] || exit 0; \
	if [ -z "$$CI" ]; then \
	  echo "No Chromium or Chrome found: the browser tests will be skipped. Install one (Debian: apt install chromium)"; \
	  echo "or set XMC_EXPLORE_CHROMIUM to the program."; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing $(CI_BROWSER) for the browser tests"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(CI_BROWSER) >/dev/null; \
	else \
	  echo "CI needs a browser, and only root with apt-get can install one here: set XMC_EXPLORE_CHROMIUM" >&2; exit 1; \
	fi

ON_A_GPU = $(BIN)/python -c 'import torch; exit(not torch.cuda.is_available())'

bench: setup  ## measure everything anew: layer (on a GPU too), methods, claims, trace, laboratory (hours)
	$(BIN)/python -m benchmarks.layer
	$(BIN)/python -m benchmarks.three_million
	$(BIN)/python -m benchmarks.methods
	$(BIN)/python -m benchmarks.claims
	$(BIN)/python -m benchmarks.after_the_paper
	! $(ON_A_GPU) || $(BIN)/python -m benchmarks.layer --device cuda
	! $(ON_A_GPU) || $(BIN)/python -m benchmarks.grouped --device cuda
	! $(ON_A_GPU) || $(BIN)/python -m benchmarks.three_million --device cuda
	! $(ON_A_GPU) || $(BIN)/python -m benchmarks.triton_floor
	for name in grouped roofline probes trace lab canvas notebook_claims; do $(BIN)/python -m benchmarks.$$name || exit 1; done

render: setup  ## run every notebook, leave notebook and page in rendered/ (RENDER_ARGS="00 -p steps 200" for some)
	$(BIN)/python notebooks/render.py $(RENDER_ARGS)

lint: setup  ## ruff
	$(BIN)/python -m ruff check .

# A fresh environment, so that nothing that merely lies in .venv gets in. Packages that torch names exactly and
# only its CUDA builds need are left to it; Triton is the one somebody may want without CUDA, so it is written down.
lock:  ## resolve pyproject.toml anew into constraints.txt (HOLD="torch==2.13.0" holds one back; minutes)
	@set -e; lock=$$(mktemp -d); trap 'rm -rf "$$lock"' EXIT; \
	test -x $(BIN)/python || { echo "make setup first: the lock is made with its Python" >&2; exit 1; }; \
	$(BIN)/python -m venv "$$lock/venv"; pip="$$lock/venv/bin/python -m pip --disable-pip-version-check"; \
	echo "Resolving and installing everything into a temporary environment"; \
	$$pip install -q -e '.[lab,test]' $(HOLD); \
	$$pip freeze --exclude xmc-explore | sed -E 's/\+[a-z0-9.]+$$//' > "$$lock/all"; \
	! grep -v '^[A-Za-z0-9._-]*==[^ ]*$$' "$$lock/all" || { echo "these have no plain version" >&2; exit 1; }; \
	torch=$$(sed -n 's/^torch==//p' "$$lock/all"); \
	$$pip install -q --dry-run --ignore-installed --no-deps --report "$$lock/torch" "torch===$$torch"; \
	triton=$$(grep -oE 'triton==[0-9.]+' "$$lock/torch" | head -n 1); \
	test -n "$$triton" || { echo "torch $$torch does not say which Triton it needs" >&2; exit 1; }; \
	{ grep '^#' constraints.txt; { grep -vE '^(nvidia|cuda|triton)' "$$lock/all"; echo "$$triton"; } | LC_ALL=C sort -f; } > "$$lock/new"; \
	cp "$$lock/new" constraints.txt.new && mv constraints.txt.new constraints.txt; \
	echo "constraints.txt rewritten: run the tests, read the diff"

clean:  ## remove caches and what was built or rendered; .venv, runs and the corpus cache stay
	rm -rf build dist rendered tests/artefacts .pytest_cache .ruff_cache .hypothesis *.egg-info
	find xmc_explore tests benchmarks notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

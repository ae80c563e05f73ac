# Needs Python 3.11+ with venv, and make. The first command sets up .venv; the next ones start at once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
.DEFAULT_GOAL := help
export JUPYTER_PLATFORM_DIRS := 1

help: ## Print this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

$(READY): settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3,11))' 2>/dev/null || { echo "manga_colorize needs Python 3.11 or newer; '$(PYTHON)' is `$(PYTHON) --version 2>&1`. Try: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv is missing. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	@echo "Setting up $(VENV): a few minutes and about 6 GB, once"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $(READY)

setup: $(READY) ## Make the environment .venv, or bring it up to date

demo: $(READY) ## Draw a data set, train Pix2Pix on it, colour unseen sketches: 5 minutes on a CPU
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/manga-demo --out demo

test: $(READY) ## Check exports, notebooks, tests and README
	@$(BIN)/python .ci/check.py

lab: $(READY) ## Open the lessons in JupyterLab
	@$(BIN)/jupyter lab nbs

board: $(READY) ## Watch training runs in TensorBoard: make board RUNS=folder
	@$(BIN)/tensorboard --logdir $(or $(RUNS),runs)

export: $(READY) ## Generate the library from the notebooks, and clean them
	@$(BIN)/nbdev_export && $(BIN)/nbdev_clean

readme: $(READY) ## Render README.md from nbs/index.ipynb
	@$(BIN)/python .ci/readme.py

docs: $(READY) ## Build the documentation site with Quarto
	@command -v quarto >/dev/null || { echo "Quarto is missing. Get it at https://quarto.org/docs/get-started, then run 'make docs' again"; exit 1; }
	@$(BIN)/nbdev_docs

clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) _docs _proc build dist demo *.egg-info .pytest_cache
	find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

.PHONY: help setup demo test lab board export readme docs clean

# Every target installs its requirements in $(VENV); nothing else on the machine is changed.
PYTHON ?= python3
PORT ?= 8000

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help address book slides notebooks pdf lab run check test bench serve lint clean-notebooks clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

book: $(INSTALLED) ## build the book: _build/html/index.html
	$(BIN)/python book/build.py

slides: book ## make slides of Part I from the chapters' own figures and claims: _build/slides.html
	$(BIN)/python book/slides.py

notebooks: $(INSTALLED) ## write the executed chapters with small figures, for a code host: _build/notebooks
	$(BIN)/python book/notebooks.py

pdf: $(INSTALLED) ## make the book as a PDF, _build/vlls-book.pdf; needs LaTeX
	$(BIN)/python book/pdf.py

lab: $(VENV)/.lab ## open the chapters in JupyterLab; make lab ARGS=--no-browser on a remote machine
	PYTHONSTARTUP=$(CURDIR)/book/startup.py $(BIN)/jupyter lab book $(ARGS)

run: $(VENV)/.lab ## execute the chapters into _build/run; make run CHAPTERS="02 05" SETTING=gpu for some, with larger parameters
	$(BIN)/python book/run_chapters.py --setting $(or $(SETTING),default) $(CHAPTERS)

check: lint ## run this while you work: style, types and the tests that take only seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --numprocesses=auto --no-loadscope-reorder -m 'not slow'

test: $(INSTALLED) ## run every test and every chapter
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder --nbval-lax --nbval-cell-timeout=600 --durations=15

address: $(INSTALLED) ## set the public address of the repository: make address URL=https://github.com/ORG/REPO
	$(BIN)/python book/address.py $(URL)

bench: $(INSTALLED) ## run every benchmark: a table each
	$(BIN)/pip install --quiet -e '.[bench]'
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

serve: book ## build the book and serve it on http://localhost:8000 (PORT=...)
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

lint: $(INSTALLED) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean-notebooks: $(INSTALLED) ## remove outputs and execution counts from the chapters
	$(BIN)/python book/clean_notebooks.py

clean: ## remove all build results; the environment stays (rm -r .venv removes it)
	rm -rf _build build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "vlls needs Python 3.10 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name one that is, for instance: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu, install the package python3-venv first."; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.lab: $(INSTALLED)
	$(BIN)/pip install --quiet -e '.[lab]'
	@touch $@

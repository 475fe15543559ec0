# setup makes the environment in .venv; everything else uses it. A fresh machine needs Python 3.11
# or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= demo
FASTDUP := .venv-fastdup

FAULTS ?= 30
FILMS ?= 200

.PHONY: setup demo test chaos docs check format bench bench-clustering bench-dataset bench-detectors clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mammosift needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): some minutes without a word"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,sample]"
	touch $@

demo: setup
	$(BIN)/mammosift demo --out $(DEMO)

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# faults at random moments of real runs, each resumed; half an hour and more
chaos: setup
	PYTHONPATH=. $(BIN)/python tests/chaos.py --faults $(FAULTS) --films $(FILMS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the site in build/site: open build/site/index.html
docs: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/encode.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/measure.py

bench-clustering: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/clustering.py

bench-dataset: setup
	$(BIN)/python benchmarks/dataset.py
	$(BIN)/python benchmarks/dataset.py --memory

# make bench-detectors WORKSPACE=curated TRUTH=folder-of-truth-pictures; Tesseract is the system's
bench-detectors: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	test -x $(FASTDUP)/bin/python || $(PYTHON) -m venv $(FASTDUP)
	-$(FASTDUP)/bin/python -m pip install --quiet fastdup==2.54
	$(BIN)/python benchmarks/misinformative.py --workspace $(WORKSPACE) --truth $(TRUTH) \
		--fastdup-python $(FASTDUP)/bin/python --out docs/misinformative-baselines.md

clean:
	rm -rf $(VENV) $(FASTDUP) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

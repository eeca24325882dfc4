# make demo | test | fuzz | bench | bench-losses | mutants | docs | lint. Everything runs in .venv, made from pinned constraints.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt pip setuptools
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[digits,dev]'
	touch $@

.PHONY: install demo test fuzz bench bench-losses mutants docs lint clean
install: $(VENV)/.installed

demo: install
	$(BIN)/compress run

# One thread a process: two processes of tests share two cores. A file runs in one of them: what it shares is made once.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not slow"

# Hours of mutated inputs of each reader, as many as EXAMPLES says, others with each SEED.
EXAMPLES ?= 20000
SEED ?= 1
fuzz: install
	OMP_NUM_THREADS=1 FUZZ_EXAMPLES=$(EXAMPLES) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest -n 2 tests/fuzz

bench: install
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m tests.bench

# Hours, in as many goes as it takes: tests/bench/cells keeps the figures of each training. ARGS="--only kd dkd --epochs 2"
bench-losses: install
	$(BIN)/python -m tests.bench.losses $(ARGS)

# Changes one place at a time of what decides results, and sees whether the tests notice: half an hour. ARGS="--only losses --most 40"
mutants: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(ARGS)

# The documents and docstrings as a searchable site in site/; a link that leads nowhere ends it.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

lint: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build site *.egg-info

# make demo | test | fuzz | bench | gpu | bench-losses | mutants | zoo | docs | lint. Everything runs in .venv, made from pinned constraints.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt pip setuptools
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[digits,dev]'
	touch $@

.PHONY: install demo test fuzz bench gpu bench-losses mutants zoo docs lint clean
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

# Under ten minutes on a machine with an NVIDIA GPU: training on CUDA, three networks on TensorRT; a line where there is none.
gpu: install
	$(BIN)/python -m tests.bench gpu

# Hours, in as many goes as it takes: tests/bench/cells keeps the figures of each training. ARGS="--only kd dkd --epochs 2"
bench-losses: install
	$(BIN)/python -m tests.bench.losses $(ARGS)

# Changes one place at a time of what decides results, and sees whether the tests notice: half an hour. ARGS="--only losses --most 40"
mutants: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(ARGS)

# Sixty architectures of libraries through every stage, in as many goes as it takes; writes docs/zoo.md. ARGS="--only yolo"
# Their environment is .zoo; ZOO=PYTHON names another that has the libraries.
ZOO_ENVIRONMENT := .zoo
ZOO ?= $(ZOO_ENVIRONMENT)/bin/python
ZOO_LIBRARIES := torch==2.14.1 torchvision==0.29.1 torch-pruning segmentation-models-pytorch ultralytics
$(ZOO_ENVIRONMENT)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ZOO_ENVIRONMENT)
	grep -viE '^(torch|torchvision|triton|nvidia.*)==' constraints.txt > $(ZOO_ENVIRONMENT)/constraints.txt
	$(ZOO_ENVIRONMENT)/bin/python -m pip install -q -c $(ZOO_ENVIRONMENT)/constraints.txt -e '.[torchvision,hf]' $(ZOO_LIBRARIES)
	touch $@

zoo: $(if $(filter $(ZOO_ENVIRONMENT)/%,$(ZOO)),$(ZOO_ENVIRONMENT)/.installed)
	OMP_NUM_THREADS=1 $(ZOO) -m tests.zoo $(ARGS)

# The documents and docstrings as a searchable site in site/; a link that leads nowhere ends it.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

lint: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(ZOO_ENVIRONMENT) build site *.egg-info

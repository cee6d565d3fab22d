# Every target works on a fresh machine: it makes an environment and installs what it needs. `make` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

DEMO := .venv-demo

.DEFAULT_GOAL := help
.PHONY: help demo wheel test lint types test-slow test-models test-kernels test-lowest coverage mutants fuzz bench bench-accuracy study gpu-check docs clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

help:
	@echo 'demo           measure a shipped checkpoint, in an environment with the command alone'
	@echo 'test           lint, types, tests'
	@echo 'lint, types    one of these'
	@echo 'test-slow      what takes long: trainings, many seeds, processes that are killed'
	@echo 'test-models    every kind of model and checkpoint in docs/models.md'
	@echo 'test-kernels   the suite with the kernels of other processors'
	@echo 'test-lowest    the suite at the oldest versions that pyproject.toml allows'
	@echo 'coverage       branches that the suite takes'
	@echo 'mutants        a sample of small faults, and which of them the suite finds: hours'
	@echo 'fuzz           2,000 damaged files'
	@echo 'bench          speed beside other libraries, growth, processes'
	@echo 'bench-accuracy how often intervals and answers are right'
	@echo 'study          the studies of the paper: hours'
	@echo 'gpu-check      another device against the CPU'
	@echo 'docs           the examples of the documentation'
	@echo 'wheel          dist/landscape_probe-VERSION-py3-none-any.whl'
	@echo 'clean          remove environments and results'

# The main job on a shipped checkpoint, with what the command needs and nothing else.
demo: $(DEMO)/.installed
	$(DEMO)/bin/landscape-probe data/looped.pt --hessian --overwrite -o demo.landscape.h5

$(DEMO)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

wheel: $(INSTALLED)
	$(BIN)/python -m build --wheel

test: lint types
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# What takes minutes: long trainings, many seeds.
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

# Every kind of model and checkpoint in docs/models.md.
test-models: $(INSTALLED)
	$(BIN)/python -m pytest tests/loading/test_pretrained.py -m "slow or not slow"

# The suite with the kernels that torch (its own and MKL's) and NumPy (OpenBLAS) take on other processors, and on two
# threads: no test may hang on the last bit of a product.
OLD_KERNELS := ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Prescott
AVX2_KERNELS := ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 OPENBLAS_CORETYPE=Haswell
test-kernels: $(INSTALLED)
	$(OLD_KERNELS) $(BIN)/python -m pytest
	$(AVX2_KERNELS) $(BIN)/python -m pytest
	TEST_THREADS=2 $(BIN)/python -m pytest

# Which branches the suite takes, in the processes that it starts too.
coverage: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audit]'
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered

# How the commands answer to 2,000 damaged checkpoints, records, files of data and folders, a process each.
fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz

# What the suite makes of a sample of small faults: hours, gone on with by the same command.
mutants: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audit]'
	$(BIN)/python -m tests.mutants

# The suite at the lower bounds of pyproject.toml, in an environment of its own.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-c constraints-lowest.txt -e '.[dev]'
	.venv-lowest/bin/python -m pytest

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.accuracy.precision cost
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.scaling.contention
	$(BIN)/python -m benchmarks.live.budget
	$(BIN)/python -m benchmarks.scaling.startup
	$(BIN)/python -m benchmarks.scaling.growing
	$(BIN)/python -m benchmarks.scaling.measurements
	$(BIN)/python -m benchmarks.accuracy.reduced
	$(BIN)/torchrun --standalone --nproc-per-node 2 -m benchmarks.scaling.processes

# Do intervals hold, how far is a density off, what do warm starts and certificates save? As Markdown.
bench-accuracy: $(INSTALLED)
	$(BIN)/python -m benchmarks.accuracy.coverage
	$(BIN)/python -m benchmarks.accuracy.density
	$(BIN)/python -m benchmarks.accuracy.sweep
	$(BIN)/python -m benchmarks.accuracy.precision
	$(BIN)/python -m benchmarks.accuracy.valleys
	$(BIN)/python -m benchmarks.accuracy.valleys alarms
	$(BIN)/python -m benchmarks.accuracy.valleys power
	$(BIN)/python -m benchmarks.accuracy.edge_of_stability
	$(BIN)/python -m benchmarks.accuracy.tracking
	$(BIN)/python -m benchmarks.accuracy.hops
	$(BIN)/python -m benchmarks.accuracy.critical
	$(BIN)/python -m benchmarks.accuracy.phases
	$(BIN)/python -m benchmarks.accuracy.adaptive
	$(BIN)/python -m benchmarks.accuracy.sampling
	$(BIN)/python -m benchmarks.accuracy.sampling --case digits
	$(BIN)/python -m benchmarks.accuracy.neighbourhood
	$(BIN)/python -m benchmarks.accuracy.invariances

# The paper's questions, in full: hours on two cores, resumed by the same command.
study: $(INSTALLED)
	$(BIN)/python -m analysis all

# Does another device give the CPU's numbers (exit status 1 says no), and how fast is it, beside other libraries too?
DEVICE ?= cuda
gpu-check: $(INSTALLED)
	$(BIN)/python -m benchmarks.devices --device $(DEVICE)
	$(BIN)/python -m benchmarks.peers --device $(DEVICE)
	$(BIN)/python -m benchmarks.accuracy.reduced --device $(DEVICE)

# The documentation is Markdown; its examples are run.
docs: $(INSTALLED)
	$(BIN)/python -m pytest tests/project/test_docs.py tests/record/test_record.py -k "doc"

clean:
	rm -rf $(VENV) $(DEMO) .venv-lowest dist mutants demo.landscape.h5 demo.landscape.h5.parts

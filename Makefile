# Every target works on a fresh machine: it makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types test-slow test-models test-kernels test-lowest coverage mutants fuzz bench bench-accuracy study gpu-check docs clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The main job on a shipped checkpoint.
demo: $(INSTALLED)
	$(BIN)/landscape-probe data/looped.pt --hessian --overwrite -o demo.landscape.h5

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
	$(BIN)/python -m benchmarks.accuracy.hops
	$(BIN)/python -m benchmarks.accuracy.phases
	$(BIN)/python -m benchmarks.accuracy.adaptive

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
	rm -rf $(VENV) .venv-lowest mutants demo.landscape.h5 demo.landscape.h5.parts

# make demo · test · test-all · test-oldest · test-version · test-gpu · gpu · gpu-quick · check · format
# make docs · dist · bench · bench-gpu · bench-check · clean
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
OLDEST := .venv-oldest
DIST := dist

.PHONY: demo test test-all test-oldest test-version test-gpu gpu gpu-quick check format docs bench bench-gpu bench-check dist clean

# pip's version does not matter; what it installs is pinned in constraints.txt.
$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard src/cosnorm/backends/c/passes/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(OLDEST)/installed: pyproject.toml setup.py constraints-oldest.txt $(wildcard src/cosnorm/backends/c/passes/*)
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt \
		-e '.[caffe2]' torch numpy typer rich hypothesis import-linter mpmath pytest pytest-xdist pytorch-metric-learning
	touch $@

demo: $(STAMP)
	$(BIN)/cosnorm demo --out demo

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2

test-all: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 -m 'slow or not slow'

# The library, without the laboratory, on the oldest torch that it takes: gigabytes where its wheel brings CUDA.
test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest -q -n 2 --ignore tests/lab --ignore tests/test_benchmarks.py \
		--ignore tests/test_documents.py --ignore src/cosnorm_lab tests src/cosnorm

# The same with any torch and any Python: make test-version TORCH=2.14.1 PYTHON=python3.13. The result goes into docs/versions.md.
test-version:
	$(PYTHON) -m venv .venv-torch-$(TORCH)
	grep -vE '^(torch|triton)==' constraints.txt > .venv-torch-$(TORCH)/constraints.txt
	.venv-torch-$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c .venv-torch-$(TORCH)/constraints.txt -e '.[caffe2]' torch==$(TORCH) numpy setuptools typer rich \
		hypothesis import-linter mpmath pytest pytest-xdist pytorch-metric-learning
	.venv-torch-$(TORCH)/bin/python tests/versions.py

# On a machine with a GPU, in an environment of your own that has torch with CUDA, triton and pytest: PYTHON is its python.
test-gpu:
	COSNORM_TEST_DEVICE=cuda $(PYTHON) -m pytest -q -p no:cacheprovider -k "triton or fp8" \
		tests/backends tests/functional tests/losses

# All that there is to ask of a GPU, within eight minutes, into one record (gpu-quick: what matters most, in two).
gpu:
	PYTHONPATH=src:. $(PYTHON) -m benchmarks.gpu

gpu-quick:
	PYTHONPATH=src:. $(PYTHON) -m benchmarks.gpu --quick --limit 120

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in site/: open site/index.html. Neither building nor reading it needs a network.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run

bench-gpu:
	$(PYTHON) -m benchmarks.run --device cuda

bench-check: $(STAMP)
	$(BIN)/python -m benchmarks.check

# What an index takes: an sdist, and from it one wheel, whose name says which Linux it needs (auditwheel looks).
dist: $(STAMP)
	rm -rf $(DIST)
	$(BIN)/python -m build --no-isolation --outdir $(DIST)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir $(DIST) $(DIST)/*-linux_*.whl
	rm $(DIST)/*-linux_*.whl
	$(BIN)/twine check --strict $(DIST)/*

clean:
	rm -rf .venv .venv-* demo build site $(DIST) .mypy_cache .pytest_cache .ruff_cache

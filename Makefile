# make demo      set up .venv, replay the bundled trace
# make test      set up .venv with what tests need, run all tests but those that need torch or take long
# make test-all  add torch, transformers, Dask, notebooks, Sphinx, drivers of object storage; run the rest of the tests
# make test-llamacpp  build llama-cpp-python (minutes), run the tests that need it; from then on test-all has them too
# make test-oldest  replay with the lowest versions of everything that pyproject.toml allows, in .venv-oldest
# make docs      build the site of docs/, README.md, --help and docstrings into build/docs
# make check     lint, types, tests three ways (compiled, interpreted, bounds-checked), coverage
# make fuzz      look for inputs that break readers, FUZZ_SECONDS long (300); make check has a short form
# make audit     whether a dependency has a known hole; skipped where its database is out of reach
# make bench     whether a kernel became slower beside a reference loop in the same run, half a minute
# make clean     remove everything that these made

PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
COVERAGE := $(BIN)/python -m coverage
# The tests of a file share a process: what they prepare and the kernels that only they need are made once.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile
LEAST_COVERAGE := 95
FUZZ_SECONDS ?= 300
TORCH ?= torch==2.13.0+cpu

.PHONY: demo test test-all test-oldest test-llamacpp docs bench fuzz audit check lint types covered bounds clean

demo: $(VENV)/demo.stamp
	@$(BIN)/remoe-sim demo

test: $(VENV)/test.stamp
	$(PYTEST) -m 'not heavy'

test-all: $(VENV)/heavy.stamp
	$(PYTEST) -m heavy

test-oldest: $(OLDEST)/oldest.stamp
	REMOE_SIM_CACHE_DIR=$(CURDIR)/$(OLDEST)/kernels $(OLDEST)/bin/remoe-sim replay sample:qwen-original --cache 8

# A warning is an error: links that lead nowhere, docstrings that cannot be shown.
docs: $(VENV)/docs.stamp
	$(BIN)/python docs/site/assemble.py build/site
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -c docs/site build/site build/docs
	@echo "Open build/docs/index.html"

test-llamacpp: $(VENV)/llamacpp.stamp
	$(PYTEST) -m heavy -k 'gguf or llamacpp'

bench: $(VENV)/demo.stamp
	$(BIN)/python -m benchmarks.speed.roofline --check benchmarks/results/roofline.json

# What was reached is kept in build/fuzz, so that the next time goes on from there.
fuzz: $(VENV)/fuzz.stamp
	$(BIN)/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS)

# In a place of its own: what audits is not what is audited.
audit: $(VENV)/test.stamp $(VENV)/audit/bin/pip-audit
	@$(BIN)/python -m benchmarks.audit $(VENV)/audit/bin/pip-audit

$(VENV)/audit/bin/pip-audit: | $(BIN)/pip
	@echo "Installing pip-audit into $(VENV)/audit ..."
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip --disable-pip-version-check -qq install pip-audit

check: lint types covered bounds

lint: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/test.stamp
	$(BIN)/mypy

# The compiled run covers everything but the bodies of kernels, the interpreted run covers those.
covered: $(VENV)/heavy.stamp
	$(COVERAGE) erase
	COVERAGE_FILE=.coverage.compiled $(PYTEST) --cov --cov-report=
	NUMBA_DISABLE_JIT=1 COVERAGE_FILE=.coverage.interpreted $(PYTEST) --cov --cov-report=
	$(COVERAGE) combine --quiet .coverage.compiled .coverage.interpreted
	$(COVERAGE) report --skip-covered --show-missing --fail-under=$(LEAST_COVERAGE)

# Numba ignores the flag where a cached build exists, hence a cache of its own.
bounds: $(VENV)/test.stamp
	rm -rf $(VENV)/kernels-with-bounds
	NUMBA_BOUNDSCHECK=1 REMOE_SIM_CACHE_DIR=$(CURDIR)/$(VENV)/kernels-with-bounds $(PYTEST)

# Installed anew only when pyproject.toml changed: the package itself is used where it lies.
$(VENV)/demo.stamp: pyproject.toml | $(BIN)/pip
	@echo "Installing remoe-sim into $(VENV) ..."
	@$(PIP) install --editable .
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/pip
	@echo "Installing remoe-sim and what its tests need into $(VENV) ..."
	@$(PIP) install --editable '.[test,bench]'
	@touch $@ $(VENV)/demo.stamp

# The CPU build is a tenth of the other; where it is not offered, the usual one does as well. moto comes last: beside it,
# pip searches for minutes for a botocore that s3fs takes, and gives up.
$(VENV)/heavy.stamp: $(VENV)/test.stamp
	@echo "Installing torch, transformers, Dask, notebooks, Sphinx, atheris and drivers of object storage into $(VENV) ..."
	@$(PIP) install '$(TORCH)' 2>/dev/null || $(PIP) install torch
	@$(PIP) install --editable '.[test,bench,capture,distributed,docs,finetune,fuzz,notebook,remote]'
	@$(PIP) install 'moto[server]'
	@touch $@

# uv installs the lowest versions of direct dependencies; pip has no such option.
$(OLDEST)/oldest.stamp: pyproject.toml
	@echo "Installing remoe-sim and the lowest versions that it allows into $(OLDEST) ..."
	@$(PYTHON) -m venv --clear $(OLDEST)
	@$(OLDEST)/bin/python -m pip --disable-pip-version-check -qq install uv
	@$(OLDEST)/bin/uv pip install -q --python $(OLDEST)/bin/python --resolution lowest-direct --editable .
	@touch $@

$(VENV)/docs.stamp: pyproject.toml | $(BIN)/pip
	@echo "Installing Sphinx into $(VENV) ..."
	@$(PIP) install --editable '.[docs]'
	@touch $@ $(VENV)/demo.stamp

$(VENV)/fuzz.stamp: $(VENV)/test.stamp
	@echo "Installing atheris into $(VENV) ..."
	@$(PIP) install --editable '.[test,fuzz]'
	@touch $@

# From source: there are no binaries on the package index. Needs CMake and a C++ compiler.
$(VENV)/llamacpp.stamp: $(VENV)/test.stamp
	@echo "Building llama-cpp-python and installing it into $(VENV), which takes minutes ..."
	@$(PIP) install --editable '.[test,bench,llamacpp]'
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "remoe-sim needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + "; name a later one: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV) || \
		($(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -qq pip)

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

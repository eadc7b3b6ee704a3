# Everything but Rust, Python 3.11+ and a C compiler is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CARGO ?= cargo
RUST_SOURCES := $(shell find src -name '*.rs') Cargo.toml Cargo.lock pyproject.toml

# `cargo test --all-features` links the extension's code into a program, which needs a shared libpython.
LIBPYTHON = $(shell $(BIN)/python -c "import sysconfig as s; print(s.get_config_var('LIBDIR') if s.get_config_var('Py_ENABLE_SHARED') else '')")

.DEFAULT_GOAL := help
.PHONY: help demo develop test test-rust test-python check lint types docs bench compare interop fuzz clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed') if sys.version_info < (3, 11) else None"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

# One stamp for each dependency group of pyproject.toml.
$(VENV)/.group-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --group $*
	@touch $@

$(VENV)/.built: $(RUST_SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet "maturin>=1.9,<2" "polars>=1.44,<3" "numpy>=1.26"
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release
	@touch $@

develop: $(VENV)/.built ## Set up .venv and build the extension into it

demo: $(VENV)/.built $(VENV)/.group-demo ## Simulate a recording, write it, read it back, show a table and a picture
	$(BIN)/python examples/demo.py

test: test-rust test-python ## Set up and run all tests

test-rust: $(BIN)/python
	$(CARGO) test --no-default-features
	$(CARGO) test
	$(CARGO) test --features lazy
	$(MAKE) --no-print-directory test-rust-all

.PHONY: test-rust-all
test-rust-all:
	@if [ -n "$(LIBPYTHON)" ]; then \
	  echo '$(CARGO) test --all-features'; \
	  LD_LIBRARY_PATH="$(LIBPYTHON):$$LD_LIBRARY_PATH" PYO3_PYTHON=$(abspath $(BIN)/python) $(CARGO) test --all-features; \
	else echo 'SKIPPED: cargo test --all-features: this Python has no shared libpython to link'; fi

test-python: $(VENV)/.built $(VENV)/.group-test $(VENV)/.group-demo
	for simd in scalar avx2; do EVLIB_SIMD=$$simd $(BIN)/python -m pytest -q tests/test_recordings.py tests/test_edge_vectors.py || exit 1; done
	$(BIN)/python -m pytest

check: test lint types docs ## All tests, lints, types and docs

lint: $(VENV)/.group-lint
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --no-default-features -- -D warnings
	$(CARGO) clippy --all-targets --features lazy -- -D warnings
	PYO3_PYTHON=$(abspath $(BIN)/python) $(CARGO) clippy --all-targets --no-default-features --features python -- -D warnings
	cd benchmarks/boundary && $(CARGO) fmt --check
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.built $(VENV)/.group-lint $(VENV)/.group-test
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest evlib._evlib

docs: $(VENV)/.built $(VENV)/.group-docs ## Build the documentation, warnings as errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --features lazy
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

bench: $(VENV)/.built $(VENV)/.group-bench ## Run the benchmarks of this library
	$(BIN)/python benchmarks/suite.py $(BENCH_ARGS)
	$(CARGO) bench --no-default-features --bench decode --bench log -- --warm-up-time 0.3 --measurement-time 0.7

compare: $(VENV)/.built $(VENV)/.group-bench ## Compare with other libraries (needs ../shared and installs each into a venv)
	$(BIN)/python benchmarks/compare.py

interop: $(VENV)/.built ## Read evlib's files with other libraries and theirs with evlib (installs each into a venv)
	$(BIN)/python benchmarks/interop.py

fuzz: ## Run the fuzz targets for FUZZ_SECONDS (60) in all
	fuzz/run.sh

clean: ## Remove what was built
	rm -rf target $(VENV) build dist docs/_build fuzz/target .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find python tests benchmarks examples -name '__pycache__' -prune -exec rm -rf {} +
	rm -f python/evlib/*.so

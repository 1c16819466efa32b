# make build | demo | test | lint | types | annotate | warnings | sanitize | bench | bench-peers | bench-coldstart | clean

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
SOURCES := $(shell find zerofs -name '*.pyx' -o -name '*.px[di]' -o -path '*/kernels/*.*')
PYTHON ?=
export PYTHON
PYTEST_ARGS ?=
BENCH_ARGS ?=

.PHONY: build packages demo test lint types annotate warnings sanitize bench bench-peers bench-coldstart clean

build: packages $(STAMPS)/extensions

packages:
	@scripts/system-packages.sh

# The project's own description changed, or nothing is there yet: everything is installed again.
$(STAMPS)/installed: pyproject.toml setup.py scripts/install.sh | packages
	@scripts/install.sh $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/extensions: $(STAMPS)/installed $(SOURCES)
	@echo "build: compiling the extensions"
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@$(BIN)/python -m compileall -q zerofs  # a mount must not compile its modules, nor need the right to keep them
	@touch $@

demo: build
	@$(BIN)/python scripts/demo.py

test: build
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: build
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: build
	@$(BIN)/mypy

# One HTML page next to each .pyx; a yellow line talks to the interpreter.
annotate: build
	@ZEROFS_ANNOTATE=1 $(BIN)/python setup.py --quiet build_ext --inplace --force
	@find zerofs -name '*.html'

# Every extension compiled once more, elsewhere, with warnings as errors.
warnings: build
	@ZEROFS_DEVELOPER=1 $(BIN)/python setup.py --quiet build_ext --force \
		--build-temp build/developer --build-lib build/developer
	@echo "warnings: none"

# Every extension compiled with ASan and UBSan, elsewhere, and the unit tests that exercise them.
sanitize: build
	@scripts/sanitize.sh $(VENV) $(PYTEST_ARGS)

bench: build
	@$(BIN)/python -m zerofs.bench $(BENCH_ARGS)

# What the benchmark alone needs: the extra "bench".
$(STAMPS)/bench: pyproject.toml $(STAMPS)/installed
	@echo "build: installing what the benchmark needs"
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"], sep="\n")' \
		>$(STAMPS)/bench.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -r $(STAMPS)/bench.txt
	@touch $@

# The long measurement, kept in bench/: tables in its README, picture, samples.
bench-peers: build $(STAMPS)/bench
	@$(BIN)/python -m zerofs.bench peers --targets --page bench/README.md --plot bench/peers.png \
		--json bench/peers.json $(BENCH_ARGS)

# Cold starts over emulated links, kept likewise.
bench-coldstart: build $(STAMPS)/bench
	@$(BIN)/python -m zerofs.bench coldstart --targets --page bench/README.md --plot bench/coldstart.png \
		--json bench/coldstart.json $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .tox .demo
	find zerofs tests scripts -name __pycache__ -prune -exec rm -rf {} +
	find zerofs -name '*.so' -delete
	find zerofs -name '*.pyx' | sed 's/pyx$$//' | while read -r base; do rm -f "$${base}c" "$${base}html"; done

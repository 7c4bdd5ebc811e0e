# Two commands do all set-up: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 3000

.PHONY: demo test check format clean

demo: $(READY)  ## distil digits, train students on them, show the table (about three minutes)
	$(BIN)/python experiments/run.py

test: $(READY)  ## the default test suite with doctests, warnings as errors
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(READY)  ## everything a change must pass
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --dist worksteal

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is older than Python 3.10; name a newer one with make PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,generation,sweeps]'
	# ddranking asks for NumPy 1, but runs on 2; the tests hold our exports against it.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps ddranking==0.2.0
	touch $@

clean:  ## remove what tests and tools leave behind; runs are kept
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

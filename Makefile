# `make` lists the targets. PYTHON chooses the interpreter whose environment has the package's `test` extra.
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help test kernels lint type bench docs matrix full clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

test:  ## run the tests on two processes
	$(PYTHON) -m pytest -n 2

kernels:  ## run the kernels' small cases as plain Python, then with bounds checks
	NUMBA_DISABLE_JIT=1 $(PYTHON) -m pytest -m kernels
	NUMBA_BOUNDSCHECK=1 $(PYTHON) -m pytest -m kernels

lint:  ## ruff and the contracts of imports
	$(PYTHON) -m ruff check .
	$(PYTHON) -c "from importlinter.cli import lint_imports_command as run; run()"

type:  ## mypy --strict
	$(PYTHON) -m mypy

bench:  ## seconds of a cold start, of warm runs and of a whole network
	$(PYTHON) -m npusim warmup
	$(PYTHON) -m npusim run resnet50 --hw tpu-v3 --json | grep -E '"(total_cycles|wall_s|engine_cpu_s)"'

docs:  ## write the generated pages and pictures again
	$(PYTHON) -m isa.reference
	$(PYTHON) -m npusim run resnet50 --hw tpu-v3 -q -o out/docs
	cp out/docs/roofline.png docs/img/resnet50-tpu-v3.png

matrix:  ## every model on every chip: cycles, hazards, values; writes docs/matrix.md (hours)
	$(PYTHON) tests/bench/matrix.py --write

full: matrix  ## everything that CI runs, in a fresh environment, and the matrix before it
	.ci/run

clean:  ## delete what building and testing leave behind
	rm -rf build dist out *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything here needs Python 3.11 or newer, pip and make; nothing is installed outside this folder. Of the home directory
# only pip's cache is used.

# The first Python that is new enough; or say which: make test PYTHON=/path/to/python
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin

# More options for the command behind a target: make lab ARGS="--seconds 10"
ARGS ?=

# Which benchmarks: asgi http frameworks transport threads layout stored sql replicated losses; one or several
BENCH ?= asgi

# Whether it is the compiled package that is tested or measured: make test COMPILED=1, make bench COMPILED=0
COMPILED ?=
WHEEL := build/compiled
PACKAGE = $(if $(filter 1,$(COMPILED)),PYTHONPATH=$(CURDIR)/$(WHEEL) COATCHECK_COMPILED=1)

comma := ,

# What a user's own settings must not change.
unexport PYTHONPATH PYTHONHOME
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help lab demo test check bench compiled lock clean env-lab env-dev

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  Options go into ARGS: make lab ARGS="--quick"    make test ARGS="-k logout"    make bench BENCH=transport'

lab: env-lab  ## compare the ways of keeping sessions, on real servers, in under 6 minutes
	@$(BIN)/coatcheck lab $(ARGS)

demo: env-lab  ## a page on which to break real servers, and see what happens to a cart
	@$(BIN)/coatcheck lab watch $(ARGS)

test: env-dev $(if $(filter 1,$(COMPILED)),compiled)  ## run all tests, in a quarter of an hour
	@$(PACKAGE) $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal $(ARGS)

check: env-dev  ## formatting, lint, types, import contracts, documentation links
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_docs.py

bench: COMPILED = 1
bench: env-dev $(if $(filter 0,$(COMPILED)),,compiled)  ## what sessions cost, compared with other libraries; BENCH=… for another benchmark
	@for name in $(BENCH); do $(PACKAGE) $(BIN)/python -m benchmarks.$$name $(ARGS) || exit; done

compiled: env-dev $(WHEEL)/built  ## the package as its wheels are, in build/compiled; needs a C compiler

$(WHEEL)/built: hatch_build.py pyproject.toml $(shell find src -name '*.py' -o -name '*.lua' 2>/dev/null)
	@echo "Compiling coatcheck (a minute or two) …"
	@rm -rf $(WHEEL)
	@HATCH_BUILD_HOOKS_ENABLE=1 $(BIN)/python -m pip --disable-pip-version-check --quiet install \
		--no-deps --no-build-isolation --no-index --target $(WHEEL) . || { \
		echo "coatcheck was not compiled, see above. It needs a C compiler and the headers of Python; make test and make bench do without, with COMPILED=0" >&2; \
		rm -rf $(WHEEL); exit 2; }
	@touch $@

lock: env-dev  ## choose the newest versions of everything and record their hashes
	$(LOCK) --upgrade --extra lab --group build -o requirements/lab.txt
	$(LOCK) --upgrade --extra lab --extra testing --group dev -o requirements/dev.txt

LOCK = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --quiet pyproject.toml

clean:  ## remove the environment, caches and results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf build dist runs benchmarks/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

env-lab env-dev: env-%:
	@{ $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; } >/dev/null 2>&1 || { \
		echo "coatcheck needs Python 3.11 or newer$(if $(PYTHON),$(comma) which $(PYTHON) is not)." >&2; \
		echo "Say where it is: make $(firstword $(MAKECMDGOALS)) PYTHON=/path/to/python" >&2; exit 2; }
	@VENV=$(VENV) $(PYTHON) scripts/environment.py $*

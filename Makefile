# Every target does all the set-up it needs, says so, and is quick when there is nothing left to do.
#
#   make demo     containers as function calls: runs examples/hello.py on a private node
#   make test     every test
#   make fuzz     hostile bytes for everything that reads some, counted; FUZZ_SECONDS=3600 for longer
#   make soak     calls and kills by chance for an hour, compared with a model; SOAK_SECONDS=600 for less
#   make protections  takes each protection away in a copy, and sees that a test fails then
#   make lint     every static check
#   make molecule the roles on machines that it makes of Debian's packages: virtual ones, or of nspawn
#   make bench    measurements, of docker, podman and crun too, which it installs
#   make collection  an Ansible collection in dist/
#   make setup    the set-up alone, with all that development needs
#   make lock     requirements/*.txt anew from pyproject.toml
#   make clean    back to a fresh checkout

MAKEFLAGS += --no-print-directory
# Hundreds of programs are started here, and each would compile all it imports.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help demo test fuzz soak protections lint molecule collection bench setup lock clean

python := .venv/bin/python

help:
	@sed -n 's/^#   //p' Makefile

setup:
	@scripts/setup test

demo:
	@scripts/setup demo
	@echo "demo: examples/hello.py, in a private network and mount namespace"
	@scripts/private-host $(python) examples/hello.py

# PYTEST_ARGS narrows the run: make test PYTEST_ARGS="tests/node -k store"; with -n 0 in it one process runs all tests.
test:
	@scripts/setup test
	@echo "test: tfnz-init and tfnz-keeper"
	@$(MAKE) -s -C node/init test
	@$(MAKE) -s -C node/keeper test
	@echo "test: the same, under the address and undefined-behaviour sanitizers"
	@$(MAKE) -s -C node/init test-sanitize
	@$(MAKE) -s -C node/keeper test-sanitize
	@echo "test: fuzz targets of tfnz-init, compiled to be run by pytest"
	@$(MAKE) -s -C node/init replay fuzz
	@echo "test: pytest, in a private network and mount namespace"
	@scripts/private-host $(python) -m pytest -n auto --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

# FUZZ_SECONDS is shared by all targets, FUZZ_ARGS says the rest: make fuzz FUZZ_ARGS="--json sessions init-socket"
FUZZ_SECONDS := 300
fuzz:
	@scripts/setup fuzz >&2
	@echo "fuzz: in a private network and mount namespace" >&2
	@scripts/private-host $(python) -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

# SOAK_ARGS says the rest: make soak SOAK_ARGS="--seed 7 --report build/soak/report.json"; with --cycles no time counts
SOAK_SECONDS := 3600
soak:
	@scripts/setup test >&2
	@echo "soak: in a private network and mount namespace" >&2
	@scripts/private-host $(python) -m tests.soak --seconds $(SOAK_SECONDS) $(SOAK_ARGS)

# PROTECTIONS_ARGS says which: make protections PROTECTIONS_ARGS="--only session-token --json"; with --list it names them
protections:
	@scripts/setup test >&2
	@$(python) -m tests.protections $(PROTECTIONS_ARGS)

lint:
	@scripts/setup lint
	@scripts/lint

# MOLECULE_ARGS says what: make molecule MOLECULE_ARGS="converge -s nspawn" keeps the machines
MOLECULE_ARGS := test
molecule:
	@scripts/molecule $(MOLECULE_ARGS)

collection:
	@scripts/setup lint
	@$(python) scripts/build_collection.py dist

# BENCH_ARGS says what: make bench BENCH_ARGS="--quick --only spawn"
bench:
	@scripts/setup bench
	@echo "bench: in a private network and mount namespace" >&2
	@scripts/private-host $(python) -m bench $(BENCH_ARGS)

lock:
	@scripts/setup lint
	@scripts/lock

clean:
	@echo "clean: everything that git ignores"
	@git -c safe.directory='*' clean -d -f -q -X

# The checks and the demo need python3 (3.9 or newer), with its venv module, and make; the rest they install.
# PYTHON=... chooses the interpreter; TOX_ARGS=... goes to tox, as in: make test TOX_ARGS="-e py311,lint"

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
TOX := $(PY) tools/run_tox.py

.DEFAULT_GOAL := help
.PHONY: help demo test rest ci interop interop-full torture e2e e2e-full e2e-crio e2e-kubernetes free-threaded bench load fuzz soak release gen clean

help:  ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/.package  ## What a plugin does to a pod, and how it lives through a restart of the runtime
	@$(VENV)/bin/nri-sync demo
	@echo
	@echo "And now a runtime, and a plugin in a process of its own: examples/first_plugin/plugin.py"
	@$(PY) examples/demo.py

test: $(VENV)/.tox  ## The tests on the Python at hand, style, types and documentation: some minutes
	$(TOX) --quick $(TOX_ARGS)

rest: $(VENV)/.tox  ## What test leaves out: other Pythons, the Go peers, containerd; needs root
	$(TOX) --rest $(TOX_ARGS)

ci: test rest  ## Everything that CI checks

interop: $(VENV)/.tox  ## The tests against the Go implementation, and ttRPC's in Rust
	$(TOX) -e interop $(TOX_ARGS)

interop-full: $(VENV)/.tox  ## The same with 100,000 calls each way and 2,000 restarts of each runtime
	NRI_SYNC_INTEROP_CALLS=100000 NRI_SYNC_INTEROP_RESTARTS=2000 $(TOX) -e interop $(TOX_ARGS)

torture: $(VENV)/.tox  ## 2,000 restarts of each kind of plugin, with runtimes of this package and the reference
	NRI_SYNC_TORTURE_RESTARTS=2000 $(TOX) -e interop $(TOX_ARGS) -- -s -m "slow or not slow" tests/torture tests/interop/test_torture.py

e2e: $(VENV)/.tox  ## Plugins with a real containerd, which is built first; needs root and a C compiler
	$(TOX) -e e2e $(TOX_ARGS)

e2e-full: $(VENV)/.tox  ## The same with 50 restarts of containerd; writes the table of docs/e2e.md
	NRI_SYNC_E2E_RESTARTS=50 $(TOX) -e e2e $(TOX_ARGS) -- tests/e2e --write-docs

e2e-crio: $(VENV)/.tox  ## The same tests with CRI-O
	NRI_SYNC_E2E_RUNTIME=crio $(TOX) -e e2e $(TOX_ARGS) -- tests/e2e --write-docs

e2e-kubernetes: $(VENV)/.tox  ## Plugins on a cluster of one node, which is built first; needs root, and half an hour the first time
	$(TOX) -e kubernetes $(TOX_ARGS)

free-threaded: $(VENV)/.tox  ## The tests of the core on a Python without the GIL, which is built first if there is none
	$(TOX) -e free-threaded $(TOX_ARGS)

bench: $(VENV)/.tox  ## Measure speed and footprint beside the Go peers, and write docs/performance.md
	$(TOX) -e bench $(TOX_ARGS)

load: $(VENV)/.tox  ## Our runtime side and the reference's with 100 plugins, and write docs/load.md
	$(TOX) -e load $(TOX_ARGS)

fuzz: $(VENV)/.tox  ## Coverage-guided fuzzing of the parsers, some minutes
	$(TOX) -e fuzz $(TOX_ARGS)

MINUTES ?= 60
soak: $(VENV)/.tox  ## Inject faults between plugin and runtime for MINUTES=60, with either runtime
	$(TOX) -e soak $(TOX_ARGS) -- --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

release: $(VENV)/.tox  ## Build wheel and sdist twice, compare and check both, and rehearse the upload
	$(TOX) -e release $(TOX_ARGS)

gen: $(VENV)/.tox  ## Generate the protobuf code anew
	$(TOX) -e gen-write

clean:  ## Remove what the other targets made
	rm -rf $(VENV) .tox .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* build dist docs/_build
	rm -rf *.egg-info
	find nri_sync tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9) and "Python 3.9 or newer is needed")'
	@echo "making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.package: $(VENV)/.created setup.cfg pyproject.toml
	@echo "demo: installing nri_sync and what its command needs into $(VENV); once, in about a minute"
	$(PY) -m pip install --disable-pip-version-check --editable '.[cli]'
	@touch $@

$(VENV)/.tox: $(VENV)/.created
	$(PY) -m pip install --quiet 'tox>=4.11,<5'
	@touch $@

# The commands every checkout keeps. `make help` explains them; CONTRIBUTING.md tells when to use which.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := out/peers-venv
CLUSTER_SCRIPT := $(PYTHON) tests/cluster/cluster.py
export CLUSTER

.DEFAULT_GOAL := help
.PHONY: help setup cluster cluster-down kubeconfig images demo test lint format types unit test-gpu integration e2e e2e-kueue e2e-nodes \
        nightly generate lock miniature bench bench-trainer bench-equal bench-operator soak results results-quick chaos

help: ## Explain the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo
	@echo "  CLUSTER=kind      use kind (needs a Docker engine) instead of a cluster made from source"
	@echo "  CLUSTER=current   use the current kube context; the cluster itself is never touched"

setup: $(STAMP) ## Install the hashed Python dependencies into .venv

$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

cluster: ## Raise the cluster: a bare Debian machine -> two Ready nodes with our images (again: seconds)
	@$(CLUSTER_SCRIPT) up

cluster-down: ## End everything that `make cluster` started
	@$(CLUSTER_SCRIPT) down

kubeconfig: ## Print the path of the cluster's kubeconfig (use `make -s kubeconfig`)
	@$(CLUSTER_SCRIPT) kubeconfig

images: ## Rebuild the images that changed and load them into the cluster
	@$(CLUSTER_SCRIPT) images

demo: ## Bare machine -> cluster -> Helm install -> a finished InstructBoothJob with pictures in out/demo
	@$(MAKE) --silent -j2 setup cluster # side by side: one waits for the network while the other compiles
	@$(BIN)/python -m tests.e2e.demo

test: ## Everything CI runs
	@$(PYTHON) tests/suite.py

lint: $(STAMP) ## Style, generated files, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m instructbooth.generate --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

SLOWEST := --durations 10 --durations-min 10

# Files side by side, with one thread each: two threads in each of two processes would only wait for each other.
unit: $(STAMP) ## Unit and golden tests (no cluster, no server)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile $(SLOWEST) tests/unit tests/golden

test-gpu: $(STAMP) ## Tests that need a CUDA device; elsewhere they are skipped
	$(BIN)/pytest $(SLOWEST) tests/gpu

# Side by side as well: half of them mostly wait for a server, the others compute. Tests of a file share ports and namespaces.
integration: $(STAMP) ## Tests against the real API server and the real MinIO (needs `make cluster`)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile $(SLOWEST) tests/integration

# Through `python -m`: the operators are forked from a server that would otherwise import the script `pytest` each time.
chaos: $(STAMP) ## Faults: every crash point once, 10 random schedules (SEEDS=100 for the long run, SEED_BASE=k for others; needs `make cluster`)
	SEEDS=$(SEEDS) SEED_BASE=$(SEED_BASE) $(BIN)/python -m pytest tests/chaos

e2e: $(STAMP) ## The whole product in the cluster (needs `make cluster`)
	timeout 2100 $(BIN)/pytest tests/e2e

e2e-kueue: $(STAMP) ## Queues against a real Kueue, built once, installed for the test alone (needs `make cluster`); nightly
	@$(CLUSTER_SCRIPT) images operator trainer kueue
	timeout 2100 $(BIN)/pytest tests/kueue

e2e-nodes: $(STAMP) ## A rank loses its network, a node its power, two half gangs meet (needs the cluster that `make cluster` makes from source); nightly
	timeout 2100 $(BIN)/pytest -s tests/nodes

nightly: ## What is too long for CI (needs `make cluster`): 100 schedules of faults, queues, lost nodes, a simulated day
	$(MAKE) chaos SEEDS=100
	$(MAKE) e2e-kueue e2e-nodes
	$(MAKE) soak

generate: $(STAMP) ## Write CRD, chart copy and field reference from instructbooth/spec
	$(BIN)/python -m instructbooth.generate
	$(BIN)/python charts/generate_readme.py

lock: $(STAMP) ## Compile the hashed lock files from pyproject.toml
	for extra in operator trainer dev; do $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --extra $$extra pyproject.toml --output-file requirements/$$extra.txt; done
	$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  benchmarks/peers.in --output-file benchmarks/peers.txt

miniature: $(STAMP) ## Make the miniature world's weights again, from a seed (hours on a CPU)
	$(BIN)/python -m instructbooth_miniature.build

bench: $(STAMP) ## What a stage costs, measured on this machine
	$(BIN)/python -m benchmarks

results: $(STAMP) ## The experiment: run what is missing of it (MINUTES=n: for so long), write docs/results.md
	$(BIN)/python -m experiments.results $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ONLY),--only $(ONLY))

results-quick: $(STAMP) ## The experiment's main recipes on one subject with one seed
	$(BIN)/python -m experiments.results --quick $(if $(MINUTES),--minutes $(MINUTES))

bench-trainer: $(STAMP) $(PEERS)/.installed ## Our trainer beside TRL and diffusers' script (DIFFUSERS_EXAMPLES=folder)
	$(BIN)/python -m benchmarks.trainer --peers-python $(PEERS)/bin/python $(BENCH)

bench-equal: $(STAMP) $(PEERS)/.installed ## Wall time to equal alignment, beside TRL; our economies one by one (BENCH="--subject patch")
	$(BIN)/python -m benchmarks.trainer.equal --peers-python $(PEERS)/bin/python $(BENCH)

$(PEERS)/.installed: benchmarks/peers.txt $(STAMP)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(PEERS)
	$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --require-hashes --requirement benchmarks/peers.txt
	@touch $@

N ?= 400
bench-operator: $(STAMP) ## Our operator beside Kubeflow Trainer and JobSet, N jobs each (N="100 400", BENCH="--contenders ours")
	$(PYTHON) tests/cluster/cluster.py build --peers
	$(BIN)/python -m benchmarks.operator --jobs $(N) $(BENCH)

soak: $(STAMP) ## 24 simulated hours of jobs coming, failing and going in 12 minutes (SOAK="--minutes 30")
	$(PYTHON) tests/cluster/cluster.py build
	$(BIN)/python -m benchmarks.operator.soak $(SOAK)

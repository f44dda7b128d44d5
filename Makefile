# Two commands set everything up on a fresh machine: `make serve` and `make test`.

PYTHON ?= python3
OVERLAY ?= development
NODE := kindest/node:v1.36.1@sha256:3489c7674813ba5d8b1a9977baea8a6e553784dab7b84759d1014dbd78f7ebd5
# KServe's own quick install: Knative mode, with Istio as Knative's ingress.
KSERVE := https://github.com/kserve/kserve/releases/download/v0.20.0/kserve-knative-mode-full-install-with-manifests.sh
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help serve dashboard prometheus test bench fuzz audit retrain deploy release lint format images try push scan sign pin cluster e2e clean

help: ## Show the targets
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

serve: $(VENV)/serve.stamp ## Run the service on this machine (ARGS="--port=9000")
	@$(BIN)/python -m standalone $(ARGS)

dashboard: $(VENV)/serve.stamp prometheus ## Run the service, monitored by Prometheus (ARGS="--port=9090")
	@$(BIN)/python -m monitoring $(ARGS)

prometheus:
	@command -v prometheus >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; } \
		|| { echo "make: there is no prometheus here; see docs/monitoring.md" >&2; exit 1; }

test: lint ## Lint, check types, run the tests (ARGS="-k batcher", one by one -n0)
	$(BIN)/python -m pytest --numprocesses=2 $(ARGS)

bench: $(VENV)/test.stamp ## Compare the service with its peers, 15 minutes (ARGS="--rounds=1")
	@$(BIN)/python -m benchmarks.install
	@$(BIN)/python -m benchmarks.bench $(ARGS)

fuzz: $(VENV)/test.stamp ## Try thirty times as many inputs as `make test` (ARGS="tests/test_fuzz.py")
	$(BIN)/python -m pytest -m hypothesis -o faulthandler_timeout=0 --hypothesis-profile=long --hypothesis-show-statistics $(ARGS)

audit: $(VENV)/test.stamp ## Look for known vulnerabilities in the dependencies
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

retrain: $(VENV)/training.stamp ## Train with new images; publish if good enough (ARGS="corrections/")
	$(BIN)/python -m training retrain $(ARGS)

deploy: $(VENV)/serve.stamp ## Deploy an overlay to the cluster (OVERLAY=production KUBE_CONTEXT=kind)
	@if [ -f build/images.env ]; then cp build/images.env manifests/overlays/$(OVERLAY)/; fi
	$(BIN)/python -m rollout deploy manifests/overlays/$(OVERLAY) $(KUBE_CONTEXT:%=--context=%) $(ARGS)

release: ## Take the canary to its end in the cluster, and wait for that (OVERLAY=production KUBE_CONTEXT=kind)
	@.ci/release $(OVERLAY) $(KUBE_CONTEXT)

lint: $(VENV)/test.stamp ## Lint and check types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/test.stamp ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

images: ## Build the container images (REGISTRY= TAG= ENGINE= BUILD_ARGS=)
	@$(PYTHON) -m containers build

try: $(VENV)/test.stamp ## Start each image that buildah built, and test it (REGISTRY= TAG=)
	IMAGES=1 $(BIN)/python -m pytest -o faulthandler_timeout=0 tests/test_images.py $(ARGS)

push: ## Push the images, write their digests to build/images.env (REGISTRY= TAG=)
	@$(PYTHON) -m containers push

scan: ## Look for vulnerabilities in the images (needs trivy)
	@$(PYTHON) -m containers scan

sign: ## Sign the pushed images and attest what is in them (needs cosign, trivy)
	@$(PYTHON) -m containers sign

pin: ## Pin the base of the images to its current digest (needs skopeo)
	@$(PYTHON) -m containers pin

cluster: ## Create a cluster with KServe on this machine (needs docker, kind, kubectl, jq)
	kind create cluster --name mnist-kind --image $(NODE)
	mkdir -p build
	curl --fail --silent --show-error --location --output build/kserve.sh $(KSERVE)
	bash build/kserve.sh

e2e: $(VENV)/test.stamp ## Test the service on a cluster, then remove it from there (KUBE_CONTEXT=)
	$(BIN)/python -m pytest -m e2e --exitfirst $(ARGS) tests/e2e

clean: ## Remove what the targets made, except data and runs
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/serve.stamp: EXTRAS :=
$(VENV)/training.stamp: EXTRAS := [s3,training]
$(VENV)/test.stamp: EXTRAS := [test]
$(VENV)/%.stamp: pyproject.toml constraints.txt | $(VENV)
	@echo "Installing into $(VENV), a minute or two the first time"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.$(EXTRAS)'
	touch $@

$(VENV):
	$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("Python 3.11 to 3.13 is needed; choose one with PYTHON=")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# What a newcomer types:   make demo    make test
# `make help` lists the rest. The scripts in scripts/ do the work; each says what it is for.

SHELL := /bin/bash
.DEFAULT_GOAL := help

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: ## Build everything, deploy the six examples on a fresh controller, invoke them
	@scripts/setup build images examples
	@scripts/check-kvm
	@scripts/artefacts
	@scripts/demo

test: ## Unit tests, then whole-system tests on real microVMs; TESTS='test_http.py -x' runs those
	@scripts/setup build images examples tests
	@scripts/check-kvm
	@scripts/artefacts
	@scripts/test $(TESTS)

bench: ## Measure invocations, deploys and memory; JSON=FILE writes the figures there too
	@scripts/setup build images examples tests
	@scripts/check-kvm
	@scripts/artefacts
	@scripts/bench $(if $(JSON),--json $(JSON))

bench-load: ## Measure goodput and latency under too much load; QUICK=1 takes a minute; JSON=FILE as above
	@scripts/setup build images examples tests
	@scripts/check-kvm
	@scripts/artefacts
	@scripts/bench-load $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

side-by-side: ## Measure restores beside Firecracker's; FIRECRACKER=/path/to/its/binary
	@scripts/setup build images tests
	@scripts/check-kvm
	@scripts/artefacts
	@scripts/side-by-side "$(FIRECRACKER)"

fuzz: ## Fuzz what parses strangers' bytes, each target for FUZZ_SECONDS (60); TARGETS='zip vsock'
	@scripts/setup build
	@scripts/fuzz $(TARGETS)

lint: ## Formatting, clippy, rustdoc, shellcheck, ruff, dependencies: what CI checks before the tests
	@scripts/setup build lint
	@scripts/lint

fmt: ## Format the Rust code, imports grouped
	@scripts/fmt

build: ## Compile the release binaries and the guest agent
	@scripts/setup build
	@scripts/build

images: ## Build the programs, the guest kernel and the runtime images into the artefact cache
	@scripts/setup build images
	@scripts/artefacts

setup: ## Install the system packages that are missing
	@scripts/setup build images examples tests lint

clean: ## Remove build results (the artefact cache in ~/.cache/hearth stays)
	cargo clean
	rm -rf functions-examples/*/target tests/.pytest_cache
	find tests -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help demo test bench bench-load side-by-side fuzz lint fmt build images setup clean

# Every target that is meant to be called carries a ## comment; `make help` prints them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The upstream archive of Go unpacks here, and often nobody puts it on PATH.
export PATH := $(PATH):/usr/local/go/bin

# The race detector, go-nvml and the plugin modes need cgo. go-nvml's own headers
# mark functions it still calls as deprecated, which would bury real warnings.
export CGO_ENABLED := 1
export CGO_CFLAGS ?= -O2 -g -Wno-deprecated-declarations

VERSION ?= $(shell git describe --tags --always --abbrev=12 --dirty 2>/dev/null || echo unknown)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
STAMP := github.com/rollout-substrate/rollout/internal/version
# go-nvml resolves its symbols when they are called: -z lazy keeps a binary startable
# on a machine without the driver, whatever the distribution's linker defaults are.
LDFLAGS = $(STRIP) -X $(STAMP).version=$(VERSION) -X $(STAMP).commit=$(COMMIT) -extldflags=-Wl,-z,lazy

# Where the programs go; scripts/dist.sh builds elsewhere and adds STRIP='-s -w'.
BIN ?= bin

BUF := go tool -modfile=tools/buf.mod buf

.PHONY: help setup build dist dist-check test smoke demo docs bench chaos chaos-power chaos-hosts proto fmt lint FORCE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-zA-Z%_-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Check the machine, install what is missing, download every module
	@scripts/preflight.sh scripts/modules.sh go mod download
	@go mod download -modfile=tools/buf.mod

build: ## Build the three programs into bin/
	@mkdir -p $(BIN)
	@go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

dist: ## Make reproducible release archives and SHA256SUMS in dist/ (PLATFORMS="linux/amd64 darwin/arm64")
	@scripts/preflight.sh scripts/dist.sh $(PLATFORMS)

dist-check: ## Make those of the last commit twice, in two directories, and compare every bit
	@scripts/preflight.sh scripts/dist.sh check

test: ## Vet and test everything under the race detector; all that CI needs
	@scripts/preflight.sh scripts/test.sh

smoke: ## Start the real programs and try the main paths
	@scripts/preflight.sh scripts/smoke.sh

demo: ## Score a sample on two workers and kill one halfway (DATA=FILE, PASSES=N)
	@scripts/preflight.sh scripts/demo.sh

docs: ## Type every command of the documentation in a fresh clone, and compare what it prints
	@scripts/preflight.sh scripts/docs.sh $(ARGS)

bench: ## Measure each row beside its baseline and print the ratios (ARGS="-run storage")
	@go run ./internal/bench $(ARGS)

chaos: ## Run every long fault row with its full count
	@scripts/preflight.sh scripts/chaos.sh all

chaos-r%: FORCE ## Run one reliability row, for example: make chaos-r1 COUNT=200
	@scripts/preflight.sh scripts/chaos.sh R$* $(COUNT)

chaos-power: ## Cut the power under a loaded store, as root (COUNT=100)
	@scripts/preflight.sh scripts/chaos.sh POWER $(COUNT)

chaos-hosts: ## Cut and heal a worker's link between machines made of network namespaces, as root (COUNT=20)
	@scripts/preflight.sh scripts/chaos.sh HOSTS $(COUNT)

chaos-s%: FORCE ## Run one security row, for example: make chaos-s4 COUNT=50
	@scripts/preflight.sh scripts/chaos.sh S$* $(COUNT)

proto: ## Generate Go from proto/ and record the checksums that `make test` compares
	@$(BUF) format -w
	@$(BUF) generate
	@scripts/protosum.sh

fmt: ## Format all Go code
	@gofmt -w $$(git ls-files -co --exclude-standard -- '*.go' ':!:*.pb.go')

lint: ## House rules, vet, and buf's rules for the wire contracts
	@go vet ./...
	@go test -count=1 ./internal/lint
	@$(BUF) lint
	@$(BUF) format --diff --exit-code
	@if git cat-file -e HEAD:proto 2>/dev/null; then $(BUF) breaking --against '.git#ref=HEAD'; fi

FORCE:

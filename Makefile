# Everything the project can do; CI calls nothing else. `make` alone lists the targets.

GOFUMPT     := mvdan.cc/gofumpt@v0.12.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
PACKAGES    := ./...
FUZZTIME    ?= 30s
MINUTES     ?= 10
VERSION     ?=
BINARY      ?= bin/pgreplicaproxy
ARCHITECTURES ?= amd64 arm64

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/pgreplicaproxy: static, and the same bytes for the same commit
	CGO_ENABLED=0 go build -trimpath -buildvcs=auto -ldflags '-s -w -buildid= -X main.version=$(VERSION)' -o $(BINARY) ./cmd/pgreplicaproxy

.PHONY: packages
packages: ## build .deb and .rpm of the commit in dist/, with VERSION=1.2.3 or as a snapshot
	@packaging/packages.sh $(ARCHITECTURES)

.PHONY: demo
demo: build ## install PostgreSQL if it is missing, serve a throwaway cluster, print psql lines that work
	@internal/pgcluster/install.sh
	@bin/pgreplicaproxy demo

.PHONY: demo-failover
demo-failover: build ## kill the primary of the running demo and promote a standby, to watch on the status page
	@bin/pgreplicaproxy demo failover

.PHONY: test
test: ## install what the tests need and run all of them, race detector on
	@internal/e2e/install.sh
	@internal/e2e/test.sh $(PACKAGES)

.PHONY: short
short: ## run all tests but the end-to-end ones
	go test -short $(PACKAGES)

.PHONY: chaos
chaos: ## make every fault at length, random ones, and measure (an hour); FAULT=07, or SEED=1 STEPS=200, for a part
	@internal/e2e/install.sh
	@FAULT=$(FAULT) SEED=$(SEED) STEPS=$(STEPS) internal/e2e/chaos.sh

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME each
	@internal/e2e/fuzz.sh $(FUZZTIME)

.PHONY: tls-scan
tls-scan: ## look at a listener with sslscan and testssl.sh (2 minutes)
	@internal/e2e/tlsscan.sh

.PHONY: bench
bench: build ## measure against PgBouncer, HAProxy and a direct connection, as ratios (25 minutes)
	@internal/pgcluster/install.sh
	@internal/bench/run.sh

.PHONY: bench-quick
bench-quick: build ## the same in 3 minutes
	@internal/pgcluster/install.sh
	@internal/bench/run.sh -quick

.PHONY: soak
soak: build ## load and attack the program for MINUTES
	@internal/pgcluster/install.sh
	@go run ./internal/soak -minutes $(MINUTES)

.PHONY: check
check: ## vet, lint, format, module files, import directions
	go vet ./...
	go vet -tags chaos ./internal/e2e
	go run $(STATICCHECK) ./...
	go run $(STATICCHECK) -tags chaos ./internal/e2e
	@unformatted="$$(go run $(GOFUMPT) -l .)"; if [ -n "$$unformatted" ]; then \
		echo "run 'make format' for: $$unformatted"; exit 1; fi
	go mod verify
	go mod tidy -diff
	go test -run 'TestImports|TestPackageDocs' ./cmd/pgreplicaproxy

.PHONY: docs
docs: ## write docs/config.md and the man page anew
	go test ./cmd/pgreplicaproxy -run TestGolden -update

.PHONY: format
format: ## format the code
	go run $(GOFUMPT) -w .

# CONTRIBUTING.md says what each target is for.
GO ?= go
SHARED ?= ../shared
PEERS_VENV ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/coppice/peers-venv
export CGO_ENABLED = 0

.PHONY: build test real check lint race levels fuzz cross generate bench peers peers-venv browser

build:
	$(GO) build -o coppice ./cmd/coppice

test:
	$(GO) test ./...

# The packages with tests of the real model and data, which are required instead of skipped.
shared_tests = $(GO) list -f '{{.TestImports}} {{.XTestImports}} {{.ImportPath}}' ./... | awk '/internal\/shared[] ]/ {print $$NF}'
real:
	COPPICE_REQUIRE_SHARED=1 COPPICE_SHARED=$(abspath $(SHARED)) $(GO) test -count=1 $$($(shared_tests))

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

race:
	CGO_ENABLED=1 $(GO) test -race -short ./internal/parallel ./internal/filelock ./score ./surgery ./export ./linalg ./calib ./checkpoint ./tokenizer ./eval/... ./engine/... ./lm ./study ./energy ./speed

# The packages with assembly, at each lower level of the CPU.
levels:
	COPPICE_CPU=generic $(GO) test -count=1 -short ./tensor ./linalg ./engine/... ./lm
	COPPICE_CPU=avx2 $(GO) test -count=1 -short ./tensor ./engine/... ./lm
	COPPICE_CPU=avx512 $(GO) test -count=1 -short ./engine/... ./lm

generate:
	$(GO) generate ./tensor ./linalg ./engine/cpu/kernel

# FUZZ is a factor of inputs, not of time: a limit of time that ends while an input is
# being made smaller is reported by Go as a failure ("context deadline exceeded").
FUZZ ?= 1
fuzz = $(GO) test ./$(1) -run '^$$' -fuzz $(2)'$$' -fuzztime $$(($(3) * $(FUZZ)))x -fuzzminimizetime 1000x
fuzz:
	$(call fuzz,safetensors,FuzzReadHeader,200000)
	$(call fuzz,gguf,FuzzRead,200000)
	$(call fuzz,plan,FuzzDecode,200000)
	$(call fuzz,internal/frontmatter,FuzzParse,50000)
	$(call fuzz,tokenizer,FuzzLoad,75000)
	$(call fuzz,eval,FuzzReadLedger,100000)
	$(call fuzz,study,FuzzParseLedger,62500)
	$(call fuzz,study,FuzzDecodeYAML,25000)

cross:
	GOOS=linux GOARCH=amd64 $(GO) build -o /dev/null ./cmd/coppice
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/coppice
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/coppice
	GOOS=windows GOARCH=amd64 $(GO) build -o /dev/null ./cmd/coppice
	GOARCH=arm64 $(GO) vet ./...

check: lint test race fuzz cross
	@echo "tests that did not run:"; $(GO) test -count=1 -v ./... 2>/dev/null | grep -c -- '--- SKIP' || true

# Go's benchmarks, then both suites of tools/bench: whole commands against cp, and the
# engine, each against the peers where PEERS_VENV has them. A quick try:
# BENCH="-layers 2 -n 1" BENCH_ENGINE="-n 1 -records 1 -only score,card"
BENCH ?=
BENCH_ENGINE ?=
BENCHTIME ?= 200ms
bench:
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) ./...
	COPPICE_SHARED=$(abspath $(SHARED)) $(GO) run ./tools/bench -venv "$(wildcard $(PEERS_VENV))" $(BENCH)
	COPPICE_SHARED=$(abspath $(SHARED)) $(GO) run ./tools/bench -suite engine -json bench-out/engine.json -venv "$(wildcard $(PEERS_VENV))" -peer-n 3 $(BENCH_ENGINE)

# The report's pages in Debian's chromium (or what CHROMIUM names): script errors, requests,
# overflow, axe-core. SHOTS=DIR keeps pictures. npm brings playwright-core and axe-core.
SHOTS ?=
browser:
	rm -rf bench-out/pages && mkdir -p bench-out/pages
	COPPICE_REPORT_PAGES=$(CURDIR)/bench-out/pages $(GO) test -count=1 -run TestWritePages ./report
	cd tools/browser && npm ci --ignore-scripts --no-audit --no-fund
	cd tools/browser && node check.mjs $(if $(SHOTS),--shots $(abspath $(SHOTS))) $(CURDIR)/bench-out/pages/*.html

peers-venv:
	PEERS_VENV=$(PEERS_VENV) tools/peers/make_venv.sh

peers:
	PEERS_VENV=$(PEERS_VENV) COPPICE_SHARED=$(abspath $(SHARED)) tools/peers/run.sh

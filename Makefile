GO ?= go
PREFIX ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# Without the codec's functions for each type of slice and map, which save little here, the binary is a fifth smaller. Its
# copies for each format stay (codec.notmono is slower). The tests and the benchmarks build with the same tags.
TAGS = codec.notfastpath
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
# Integration tests wait for real programs. They find hangs themselves, before this limit does.
TIMEOUT = 75m
# Tests wait for other programs half of their time, so more of them run at once than there are processors.
PARALLEL = 4

# A program built with -race sleeps for a second before it exits, and the tests start thousands.
export GORACE ?= atexit_sleep_ms=20

# go test, with a list at the end of skipped tests and the reasons.
GOTEST = $(GO) run gotest.tools/gotestsum@v1.13.0 --format standard-quiet --

.PHONY: help build install man test check cover soak-tests fuzz vulncheck lint bench packages pictures clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

build: ## build the static binary bin/mitogend
	CGO_ENABLED=0 $(GO) build -tags $(TAGS) -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/mitogend ./cmd/mitogend

install: build ## install it in $(PREFIX)/bin, and its man pages in $(PREFIX)/share/man
	install -D -m 755 bin/mitogend $(DESTDIR)$(PREFIX)/bin/mitogend
	bin/mitogend help --man $(DESTDIR)$(PREFIX)/share/man

man: build ## write the man pages to bin/man
	bin/mitogend help --man bin/man

lint: ## go vet, gofmt and staticcheck
	@unformatted=$$(git ls-files -c -o --exclude-standard '*.go' | xargs gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "not as gofmt writes it:"; echo "$$unformatted"; exit 1; fi
	$(GO) mod tidy -diff
	cd integration/bench && $(GO) mod tidy -diff
	$(GO) vet ./...
	$(STATICCHECK) ./...
	cd integration/bench && $(GO) vet ./... && $(STATICCHECK) ./...

test: ## install what tests need (as root), then lint and all tests; see CONTRIBUTING.md
	.ci/install
	$(MAKE) --no-print-directory lint
	@.ci/vulncheck
	cd integration/bench && $(GO) test ./...
	@FUZZTIME=50000x .ci/fuzz
	$(GO) test -count 1 -run '^(TestCostOf|TestFirstCollection)' ./pyproto ./integration
	$(GOTEST) -race -timeout $(TIMEOUT) -parallel $(PARALLEL) ./...

check: ## lint, and all tests but integration under an old and a new Python, within two minutes
	@.ci/check

cover: ## each package's coverage by its own tests; integration, which drives the built binary, does not count
	$(GO) test -cover -timeout $(TIMEOUT) -parallel $(PARALLEL) $$($(GO) list ./... | grep -v /integration)

soak-tests: ## run everything again and again, for hours: idle and busy, shuffled, as root and as an ordinary user
	@.ci/soak

fuzz: ## run each fuzz target with a million inputs (FUZZTIME=...)
	@.ci/fuzz

vulncheck: ## look for known vulnerabilities, if their database can be reached
	@.ci/vulncheck

bench: ## measure beside Mitogen and execnet; docs/performance.md says what and how (BENCH=... for flags)
	.ci/install
	cd integration/bench && $(GO) run . $(BENCH)

packages: ## run programs with real packages, served and from the disk, and write docs/packages.md; unpacks about 370 MB from Debian once, as root
	.ci/corpus all
	MITOGEND_PACKAGES=$(CURDIR)/docs/packages.md $(GO) test ./integration -run '^TestPackages$$' -v -count 1 -timeout $(TIMEOUT)

pictures: build ## make the pictures of docs/pictures again, with tmux
	docs/pictures/make.sh

clean: ## remove built files
	rm -rf bin

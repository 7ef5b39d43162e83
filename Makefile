GO ?= go
PREFIX ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
# Integration tests wait for real programs; a hang is found by them, not by this.
TIMEOUT = 45m
# Tests wait for other programs half of their time: more of them at once than there are processors.
PARALLEL = 4

# A program built with -race sleeps for a second before it exits, and the tests start thousands.
export GORACE ?= atexit_sleep_ms=20

# go test, with a list at the end of what was skipped and why.
GOTEST = $(GO) run gotest.tools/gotestsum@v1.13.0 --format standard-quiet --

.PHONY: help build install man test check soak-tests fuzz vulncheck lint bench packages pictures clean

help: ## list what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 10

build: ## build the static binary bin/mitogend
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/mitogend ./cmd/mitogend

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
	@FUZZTIME=8s .ci/fuzz
	$(GOTEST) -race -timeout $(TIMEOUT) -parallel $(PARALLEL) ./...

check: ## the quick form, within two minutes: lint, and all but integration under an old and a new Python
	@.ci/check

soak-tests: ## about an hour: everything again and again, idle and busy, shuffled, as root and as an ordinary user
	@.ci/soak

fuzz: ## each fuzz target for a minute (FUZZTIME=...)
	@.ci/fuzz

vulncheck: ## look for known vulnerabilities, where their database can be reached
	@.ci/vulncheck

bench: ## measure beside Mitogen and execnet; docs/performance.md says what and how (BENCH=... for flags)
	.ci/install
	cd integration/bench && $(GO) run . $(BENCH)

packages: ## use real packages served and from the disk, and write docs/packages.md; unpacks about 370 MB of Debian's once, as root
	.ci/corpus all
	MITOGEND_PACKAGES=$(CURDIR)/docs/packages.md $(GO) test ./integration -run '^TestPackages$$' -v -count 1 -timeout $(TIMEOUT)

pictures: build ## make the pictures of docs/pictures anew, by tmux
	docs/pictures/make.sh

clean: ## remove what was built
	rm -rf bin

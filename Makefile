# Builds and tests libssl. CONTRIBUTING.md describes the main targets; .ci/run calls them in CI.

# This module and the nested modules with tests, except tests/page, which needs a browser, and the one that
# tests/porting/spacemonkey tests. Hidden folders contain sysroots and build caches.
nested = $(shell find . -mindepth 2 -name go.mod -not -path './.*' -printf '%h ')
elsewhere = ./tests/page ./porting/spacemonkey/libp2p
tested = . $(foreach m,$(filter-out $(elsewhere),$(nested)),$(if $(shell find $(m) -name '*_test.go' -print -quit),$(m)))

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## a C compiler, pkg-config and the headers of OpenSSL, installed if you may
	@tests/setup.sh

servers: # programs that the tests run
	@tests/setup.sh redis-server memcached g++ nginx-light haproxy postgresql 'softhsm2?' 'opensc?' 'pkcs11-provider?'

build: setup ## bin/sslsess
	go build -o bin/sslsess ./cmd/sslsess

demo: build ## three servers, one shared store, one client: which resume, and how long it takes
	@bin/sslsess demo

test: servers ## all tests, with the race detector and the usual check of the cgo pointer rules
	@set -e; for m in $(tested); do (cd $$m && set -x && GODEBUG=cgocheck=1 go test -vet=off -race -count=1 ./...); done

lint: setup ## gofmt, go vet, and C warnings as errors
	@bad=$$(find . -name '*.go' -not -path './.*' -exec gofmt -l {} +); [ -z "$$bad" ] || { echo "gofmt these:" $$bad; exit 1; }
	@set -e; for m in . $(nested); do (cd $$m && go vet -race ./...); done # -race: as the tests are built, so that both compile once
	@tests/cwarnings.sh

check: ## the tests that take longer (leak, matrix and more), partly side by side; PARTS="leak fuzz" for some
	@tests/check.sh $(PARTS)

leak: servers ## the suite under AddressSanitizer with leak detection, and with the thorough check of the cgo pointer rules; P=./cgo for one package
	tests/leak.sh $(P)

fuzz: setup ## each fuzz target for T, default 10s (T=10m for a long round); ASAN=1 under AddressSanitizer
	@tests/fuzz.sh $(or $(T),10s) $(if $(ASAN),-asan)

soak: setup ## all features at once under load, for T (default 2m), with a report; RACE=1 with the race detector
	go test $(if $(RACE),-race) -count=1 -v -timeout 0 ./tests/soak -soak.for=$(or $(T),2m)

outages: servers ## stores that fail in every way, under load, for T (default 1m), with a table of the results
	go test -count=1 -v -timeout 0 ./tests/outages -outages.for=$(or $(T),1m)

matrix: servers ## the suite on OpenSSL 1.1.1, 3.0, 3.5, 3.6 and 4.0, one line each; V=3.5 for one of them, P=./cgo for one package
	@PACKAGES="$(P)" tests/matrix.sh $(V)

conform: setup ## run the facts on each OpenSSL and write CONFORMANCE.md; CHECK=1 only checks that the file is current
	@tests/conform.sh $(if $(CHECK),check)

pictures: # docs/pictures/*.svg from the text beside each, on white; needs mscgen
	@for f in $(basename $(wildcard docs/pictures/*.msc)); do \
		mscgen -T svg -i $$f.msc -o - | sed 's|^ stroke-width=.*>$$|&<rect width="100%" height="100%" fill="white"/>|' >$$f.svg; done

page: setup # the page of sslsess serve -http, in a browser
	@tests/setup.sh chromium
	cd tests/page && GOFLAGS="$$(go env GOFLAGS) -race" go test -count=1 ./... # sslsess, which it builds, is built so too

mutants: setup ## break each rule on purpose, and check that the conformance suite notices
	@go run ./tests/mutate $(N)

docker-test: ## build, run and disturb the fleet of docker/compose.yml, if there is a Docker engine
	@tests/docker.sh

install-cabi: setup ## lssl, the store layer for programs in C: library, header and pkg-config file; PREFIX, DESTDIR
	PREFIX=$(PREFIX) cabi/build.sh bin/cabi
	install -d $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include
	cp -P bin/cabi/lib/liblssl.* $(DESTDIR)$(PREFIX)/lib/
	install -m 644 bin/cabi/lib/pkgconfig/lssl.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig/
	install -m 644 bin/cabi/include/lssl.h $(DESTDIR)$(PREFIX)/include/

PREFIX = /usr/local

bench: setup ## compare libssl with C, crypto/tls and another binding
	@tests/setup.sh redis-server || true # without it, rows that need it say so
	@bench/run.sh

bench-servers: setup ## compare with nginx, HAProxy, httpd and crypto/tls; ARGS="-rounds 5 -n 2000 -servers nginx,libssl"
	@tests/setup.sh nginx-light haproxy apache2-bin redis-server
	@tests/sysroots.sh 1.1.1 && client=1.1.1; CLIENT_OPENSSL=$$client bench/servers/run.sh $(ARGS) # the client takes the least CPU with it

clean: ## remove the files that the other targets made
	rm -rf bin .sysroots

.PHONY: help setup servers build demo test lint check leak fuzz soak outages matrix conform page mutants docker-test install-cabi bench bench-servers clean

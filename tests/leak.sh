#!/bin/bash
# leak.sh [PACKAGE...]: all tests that link libssl, or those of the packages, with the C side under AddressSanitizer and
# UndefinedBehaviorSanitizer. Go's -asan also reports at exit all memory that C allocated, did not free and no longer points
# to. Then most of them run once more under Go's thorough check of the cgo pointer rules.
set -euo pipefail
cd "$(dirname "$0")/.."

run() { echo "+ $*"; env "$@"; }

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
undefined='-fsanitize=undefined -fno-sanitize-recover=all'
# -o keeps the symbols that a report's stack needs. Nothing is suppressed.
run CGO_CFLAGS="-O2 -g $undefined" CGO_LDFLAGS="$undefined" ASAN_OPTIONS=detect_leaks=1 go test -asan -count=1 -o "$bin" ${*:-$(tests/linked.sh)}
run GOEXPERIMENT=cgocheck2 go test -count=1 ${*:-$(tests/linked.sh -few)}

#!/bin/bash
# The packages whose tests link libssl: for what depends on it there is no need to run the others again.
set -euo pipefail
cd "$(dirname "$0")/.."
go list -test -f '{{.ImportPath}} {{.Deps}}' ./... | grep -F "$(go list ./cgo)" | sed -n 's/^\([^ ]*\)\.test .*/\1/p'

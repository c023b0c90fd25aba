#!/bin/bash
# The packages whose tests link libssl: for what depends on it there is no need to run the others again. With -few those
# are left out that build a program for each of their cases, which takes longer than all the rest.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1-} in
'') many='^$' ;;
-few) many='/(examples/c|tests/porting|tests/porting/road)$' ;;
*) echo "usage: linked.sh [-few]" >&2; exit 2 ;;
esac
go list -test -f '{{.ImportPath}} {{.Deps}}' ./... | grep -F "$(go list ./cgo)" | sed -n 's/^\([^ ]*\)\.test .*/\1/p' | grep -vE "$many"

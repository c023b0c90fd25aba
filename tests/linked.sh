#!/bin/bash
# The packages whose tests link libssl: for what depends on it there is no need to run the others again. With -few those
# are left out that build programs, which takes longer than all the rest; with -programs it is only those. With -c it is only
# those that hold C or drive it themselves.
set -euo pipefail
cd "$(dirname "$0")/.."
only= but='^$' programs='/(tests/cabitest|tests/porting/road)$'
case ${1-} in
'') ;;
-few) but=$programs ;;
-programs) only=$programs ;;
-c) only="^$(go list -m)(/cgo|/tests/(callbacks|conformance|internal/cref|porting/mixed))?\$" ;;
*) echo "usage: linked.sh [-few | -programs | -c]" >&2; exit 2 ;;
esac
go list -test -f '{{.ImportPath}} {{.Deps}}' ./... | grep -F "$(go list ./cgo)" | sed -n 's/^\([^ ]*\)\.test .*/\1/p' |
	grep -E "$only" | grep -vE "$but"

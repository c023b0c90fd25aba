#!/bin/bash
# conform.sh [check]: runs the facts on each supported OpenSSL and writes CONFORMANCE.md. With check it writes nothing, and
# fails if the file is stale. Patch levels of a version may behave differently (F2.14). If the file was made on another patch
# level than the one installed, check ignores the behaviour of that version.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/versions.sh

case ${1-} in "" | check) ;; *) echo "usage: conform.sh [check]" >&2; exit 2 ;; esac
tests/sysroots.sh
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
reports=() status=0
for version in $VERSIONS; do
	log=$dir/$version.log report=$dir/$version.json
	# With the flags of the matrix, so that both share the build cache.
	tests/with-openssl.sh "$version" go test -race -count=1 -run '^TestFacts_Hold' ./tests/conformance -args -report "$report" >"$log" 2>&1 ||
		{ status=1; grep -v '^ok' "$log" | tail -n 40; }
	[ -s "$report" ] || { echo "conform: no report of OpenSSL $version" >&2; exit 1; }
	reports+=("$report")
done
# It exits with 1 if a report deviates. The tests above have printed the deviation already.
go run ./cmd/sslsess conform -markdown "${reports[@]}" >"$dir/CONFORMANCE.md" || [ $status = 1 ]
if [ "${1-}" != check ]; then
	cp "$dir/CONFORMANCE.md" CONFORMANCE.md
	echo "conform: CONFORMANCE.md is written"
	exit $status
fi

releases() { sed -n 's/^Made on OpenSSL \(.*\)\.$/\1/p' "$1" | tr , '\n'; }
moved=$(paste -d, <(releases CONFORMANCE.md) <(releases "$dir/CONFORMANCE.md") | awk -F, '{ gsub(/ /, "") } $1 != $2 { print NR }')

# judged FILE: prints the part of the file that check compares. If some versions have another patch level now, it leaves out
# their columns, and the letters and texts about differences between versions.
judged() {
	awk -v moved="$moved" '
		BEGIN { FS = " [|] "; OFS = " | "; n = split(moved, columns, "\n") }
		n == 0 { print; next }
		/^## / { differ = /Where versions differ/ }
		differ || /^Made on / { next }
		/^\| F[0-9]/ {
			for (i = 3; i <= NF; i++) sub(/ [a-z]( \|)?$/, "", $i)
			for (i = 1; i <= n; i++) $(columns[i] + 2) = ""
		}
		{ print }
	' "$1"
}

if diff -u <(judged CONFORMANCE.md) <(judged "$dir/CONFORMANCE.md"); then
	echo "conform: CONFORMANCE.md is current${moved:+, as far as it was made on the releases that are here}"
else
	echo "conform: CONFORMANCE.md is stale: make conform writes it anew" >&2
	status=1
fi
exit $status

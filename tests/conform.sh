#!/bin/bash
# conform.sh [check]: runs the facts on each supported OpenSSL and writes CONFORMANCE.md. With check it writes nothing and
# fails where the file is stale: where the same releases do something else than it says. Patch levels may differ (F2.14), so
# that on others what differs is shown and not judged.
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
	# As the matrix builds its tests, so that what one has compiled the other has too.
	tests/with-openssl.sh "$version" go test -race -count=1 -run '^TestFacts_Hold' ./tests/conformance -args -report "$report" >"$log" 2>&1 ||
		{ status=1; grep -v '^ok' "$log" | tail -n 40; }
	[ -s "$report" ] || { echo "conform: no report of OpenSSL $version" >&2; exit 1; }
	reports+=("$report")
done
# It exits 1 where a report deviates, which was told above.
go run ./cmd/sslsess conform -markdown "${reports[@]}" >"$dir/CONFORMANCE.md" || [ $status = 1 ]
if [ "${1-}" != check ]; then
	cp "$dir/CONFORMANCE.md" CONFORMANCE.md
	echo "conform: CONFORMANCE.md is written"
elif diff -u CONFORMANCE.md "$dir/CONFORMANCE.md"; then
	echo "conform: CONFORMANCE.md is current"
elif ! diff -q <(grep '^Made on ' CONFORMANCE.md) <(grep '^Made on ' "$dir/CONFORMANCE.md") >/dev/null; then
	echo "conform: CONFORMANCE.md was made on other releases, which may differ as above"
else
	echo "conform: CONFORMANCE.md is stale: make conform writes it anew" >&2
	status=1
fi
exit $status

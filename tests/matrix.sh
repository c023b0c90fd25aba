#!/bin/bash
# matrix.sh [VERSION...]: the tests that link libssl, race detector on, against each supported OpenSSL; one line each.
# Fails where one is not green, shows what failed there, and keeps the whole log. PACKAGES names some instead of all.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/versions.sh

# running VERSION: prints the version that OpenSSL reports in a program built for VERSION.
running() {
	local dir
	dir=$(mktemp -d)
	cat >"$dir/v.c" <<-C
		#include <openssl/crypto.h>
		#include <stdio.h>
		int main(void) { puts(OpenSSL_version(OPENSSL_VERSION)); return 0; }
	C
	tests/with-openssl.sh "$1" sh -c 'gcc $CGO_CFLAGS -o "$0/v" "$0/v.c" $CGO_LDFLAGS -lcrypto && "$0/v"' "$dir" | awk '{ print $2 }'
	rm -rf "$dir"
}

# failures LOG: prints the output of the failing tests and packages in a JSON log of go test, as text.
failures() {
	awk '
		function field(name,    a) { return match($0, "\"" name "\":\"[^\"]*\"") ? substr($0, RSTART, RLENGTH) : "" }
		{ key = field("Package") field("Test") }
		NR == FNR { if (/"Action":"fail"/) failed[key] = 1; next }
		!/^{/ || /"Action":"build-output"/ || (/"Action":"output"/ && key in failed)
	' "$1" "$1" | sed -e 's/^{.*"Output":"\(.*\)"}$/\1/' -e 's/\\n$//' -e 's/\\n/\n/g' -e 's/\\t/\t/g' -e 's/\\"/"/g' \
		-e 's/\\u003c/</g' -e 's/\\u003e/>/g' -e 's/\\u0026/\&/g' -e 's/\\\\/\\/g' | grep -v '^=== '
}

[ $# -gt 0 ] || set -- $VERSIONS
tests/sysroots.sh "$@"
mkdir -p .sysroots/logs
total=0 total_failed=0 status=0
for version in "$@"; do
	log=$(mktemp ".sysroots/logs/$version.XXXXXX.json")
	start=$SECONDS word=ok
	name=$(running "$version") || name=$version
	case $name in "$version" | "$version".* | "$version"[a-z]) ;; *) echo "matrix: built for OpenSSL $version, but $name runs" >&2; exit 1 ;; esac
	tests/with-openssl.sh "$version" tests/cwarnings.sh >"$log" 2>&1 || word=FAILED
	LIBSSL_TEST_OPENSSL=$name tests/with-openssl.sh "$version" go test -race -count=1 -json ${PACKAGES:-$(tests/linked.sh)} >>"$log" 2>&1 || word=FAILED
	passed=$(grep -c '"Action":"pass".*"Test":' "$log") || word=FAILED # no test passed: nothing was tested
	failed=$(grep -c '"Action":"fail".*"Test":' "$log") || true
	skipped=$(grep -c '"Action":"skip".*"Test":' "$log") || true
	counts="$passed passed"
	[ "$failed" = 0 ] || counts+=", $failed failed"
	[ "$skipped" = 0 ] || counts+=", $skipped skipped"
	printf 'openssl %-7s %-7s %s  %ds\n' "$name" "$word" "$counts" $((SECONDS - start))
	if [ $word = ok ]; then
		rm "$log"
	else
		status=1
		failures "$log" | tail -n 60
		echo "matrix: the whole log is $log"
	fi
	total=$((total + passed)) total_failed=$((total_failed + failed))
done
echo "$total passed, $total_failed failed"
exit $status

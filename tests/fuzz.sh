#!/bin/bash
# fuzz.sh DURATION [-asan]: runs each fuzz target of the module that long, one after the other; one line each, and what
# it found where it found something. Go keeps the input in the package's testdata/fuzz. With -asan the C side runs under
# AddressSanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { echo "usage: fuzz.sh DURATION [-asan]" >&2; exit 2; }
duration=$1
shift

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0 targets=0
# Only packages that have some: to list them a package's tests are built.
files=$(go list -f '{{$p := .}}{{range .TestGoFiles}}{{$p.Dir}}/{{.}} {{end}}{{range .XTestGoFiles}}{{$p.Dir}}/{{.}} {{end}}' ./...)
for dir in $(grep -l '^func Fuzz' $files | xargs -n 1 dirname | sort -u | sed "s|^$PWD|.|"); do
	names=$(go test "$@" -list '^Fuzz' "$dir")
	for target in $(grep '^Fuzz' <<<"$names"); do
		targets=$((targets + 1)) word=ok
		# Go knows little of what is new to C, so that making inputs small takes time and gains nothing.
		go test "$@" -run '^$' -fuzz "^$target\$" -fuzztime "$duration" -fuzzminimizetime 10x "$dir" >"$log" 2>&1 || word=FAILED
		execs=$(sed -n 's/.* execs: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
		# A worker that is cut off when the time is over is reported as if it had found something; what is found is written.
		if grep -q '^ *context deadline exceeded' "$log" && ! grep -q 'Failing input written' "$log"; then word=ok; fi
		grep -q "^fuzz: elapsed" "$log" || word=FAILED # it did not even begin
		echo "fuzz $dir $target $word $duration, ${execs:-0} execs"
		if [ $word = FAILED ]; then
			status=1
			grep -v '^fuzz: elapsed' "$log" | tail -n 100
		fi
	done
done
[ $targets -gt 0 ] || { echo "fuzz: no target found" >&2; exit 1; }
exit $status

#!/bin/bash
# fuzz.sh DURATION [-asan]: runs the fuzz targets of the module one after the other, each for DURATION. It prints one line for
# each, and the log of a failure. Go keeps the failing input in testdata/fuzz of the package. With -asan the C side runs
# under AddressSanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { echo "usage: fuzz.sh DURATION [-asan]" >&2; exit 2; }
duration=$1
shift

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0 targets=0
# Only packages with fuzz targets, because `go test -list` builds the tests of a package.
files=$(go list -f '{{$p := .}}{{range .TestGoFiles}}{{$p.Dir}}/{{.}} {{end}}{{range .XTestGoFiles}}{{$p.Dir}}/{{.}} {{end}}' ./...)
for dir in $(grep -l '^func Fuzz' $files | xargs -n 1 dirname | sort -u | sed "s|^$PWD|.|"); do
	names=$(go test "$@" -list '^Fuzz' "$dir")
	for target in $(grep '^Fuzz' <<<"$names"); do
		targets=$((targets + 1)) word=ok
		# Go sees no coverage of the C code, so minimizing an input takes time and gains little.
		go test "$@" -run '^$' -fuzz "^$target\$" -fuzztime "$duration" -fuzzminimizetime 10x "$dir" >"$log" 2>&1 || word=FAILED
		execs=$(sed -n 's/.* execs: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
		# At the end of the time go test may report an interrupted worker as a failure. A real failure has a written input.
		if grep -q '^ *context deadline exceeded' "$log" && ! grep -q 'Failing input written' "$log"; then word=ok; fi
		grep -q "^fuzz: elapsed" "$log" || word=FAILED # fuzzing did not start
		echo "fuzz $dir $target $word $duration, ${execs:-0} execs"
		if [ $word = FAILED ]; then
			status=1
			grep -v '^fuzz: elapsed' "$log" | tail -n 100
		fi
	done
done
[ $targets -gt 0 ] || { echo "fuzz: no target found" >&2; exit 1; }
exit $status

#!/bin/bash
# check.sh [PART...]: what takes too long for .ci/run, all of it or the parts named. One line a part with its result and its
# time, the end of its log where it failed, and a summary to paste. A part that takes longer than its limit has failed. The last
# line of a log is the part's own result if it begins with the part's name: NAME: ok or skipped, and what it has to say.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/versions.sh

# make test has run on the machine's own OpenSSL.
others=$(for v in $VERSIONS; do is_host "$v" || echo -n "$v "; done)

# Name, limit in minutes, and whether it may run beside others: what has loads and deadlines of its own is alone. Longest first.
parts='matrix 40 beside
mutants 40 beside
programs 40 beside
leak 40 beside
conform 20 beside
fuzz 20 beside
page 15 beside
goroutines 15 beside
allocations 15 beside
chaos 15 beside
outages 10 alone
soak 10 alone
docker-test 40 alone'

part() {
	case $1 in
	matrix) make matrix V="$others" P="$few" ;;
	programs) make matrix V="$others" P="$programs" ;;
	conform) make conform CHECK=1 ;;
	fuzz) make fuzz T=5s ;;
	goroutines) go test -race -count=1 . -args -threads=false ;; # Listeners without threads
	allocations) go test -count=1 ./tests/allocations -allocations.failures=3000 ;;
	chaos)
		go test -race -count=1 ./tests/chaos -chaos.for=1m
		ASAN_OPTIONS=detect_leaks=0 go test -asan -count=1 ./tests/chaos -chaos.for=1m
		;;
	outages) make outages T=1m ;;
	soak) make soak T=1m ;;
	*) make "$1" ;;
	esac
}
few=$(tests/linked.sh -few | xargs) programs=$(tests/linked.sh -programs | xargs)
export -f part
export others few programs

names=$(awk '{ print $1 }' <<<"$parts")
[ $# -gt 0 ] || set -- $names
for name in "$@"; do
	grep -qx "$name" <<<"$names" || { echo "check: no part $name; there are" $names >&2; exit 2; }
done

# Once for all parts, so that no two do it at the same time.
asked=" $* "
tests/setup.sh redis-server memcached g++ nginx-light haproxy 'softhsm2?' 'opensc?' 'pkcs11-provider?'
case $asked in *" matrix "* | *" programs "* | *" conform "*) tests/sysroots.sh ;; esac

logs=$PWD/.sysroots/logs
mkdir -p "$logs"
results=$(mktemp)
trap 'rm -f "$results"' EXIT
trap 'kill $(jobs -rp) 2>/dev/null; exit 130' INT TERM

# run NAME MINUTES: its line is printed in one piece.
run() {
	local log=$logs/check.$1.log start=$SECONDS word=ok own= tail= line
	timeout -k 60 "$2m" bash -euo pipefail -c 'part "$1"' part "$1" >"$log" 2>&1 </dev/null &
	trap "kill $!" TERM # timeout hands it on to all that it started
	wait $! || case $? in
	124 | 137) word="FAILED: not over after $2 min" ;;
	*) word=FAILED ;;
	esac
	[ "$word" != ok ] || own=$(tail -n 1 "$log" | sed -n "s/^$1: \(ok\|skipped\)/\1/p")
	line=$(printf '%-11s %5ds  %s' "$1" $((SECONDS - start)) "${own:-$word}")
	echo "$line" >>"$results"
	[ "$word" = ok ] || tail=$(printf '\n%s\ncheck: the whole log is %s' "$(tail -n 40 "$log")" "$log")
	echo "$line$tail"
}

# named MODE: the parts asked for of that mode, with their limits.
named() { while read -r name minutes mode; do case $asked in *" $name "*) [ "$mode" != "$1" ] || echo "$name $minutes" ;; esac; done <<<"$parts"; }

# Two at a time, each with its share of the cores.
beside=2
while read -r name minutes; do
	while [ "$(jobs -rp | wc -l)" -ge $beside ]; do wait -n || true; done
	GOFLAGS="$(go env GOFLAGS) -p=$((($(nproc) + beside - 1) / beside))" run "$name" "$minutes" &
done < <(named beside)
wait
while read -r name minutes; do
	run "$name" "$minutes" &
	wait $!
done < <(named alone)

failed=$(grep -c '^[a-z-]* *[0-9]*s  FAILED' "$results" || true)
printf '\ncheck: %s%s, %s, OpenSSL %s and %s, %d cores, %dm%02ds\n' "$(git rev-parse --short HEAD)" \
	"$(git diff --quiet HEAD || echo ' with changes')" "$(go env GOVERSION)" "$(pkg-config --modversion libssl)" "${others% }" \
	"$(nproc)" $((SECONDS / 60)) $((SECONDS % 60))
cat "$results"
skipped=$(grep -c '^[a-z-]* *[0-9]*s  skipped' "$results" || true)
echo "$(($(wc -l <"$results") - failed - skipped)) passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]

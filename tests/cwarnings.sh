#!/bin/bash
# Compiles this module's own C, and no other, with every warning an error: all of it, or what the packages in PACKAGES need.
# Under with-openssl.sh it does so against that version's headers. Called with compiler arguments it is the compiler of that
# build: the flags can't be given in CGO_CFLAGS, since Go's own runtime/cgo does not compile with -Wextra.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

if [ $# -gt 0 ]; then
	case "$PWD/ $*" in
	"$root"/*) set -- "$@" -Wall -Wextra -Werror ;;
	*"-I $root"*) set -- "$@" -Wall -Wextra -Werror -Wno-unused-parameter ;; # the code that cgo generates around our preambles
	esac
	exec gcc "$@"
fi
cd "$root"
packages=$(go list -deps -test -f '{{if and .CgoFiles .Module (not .ForTest)}}{{if .Module.Main}}{{.ImportPath}}{{end}}{{end}}' ${PACKAGES:-./...})
# -race: as the tests are built, so that most of what these packages stand on is compiled once for both.
[ -z "$packages" ] || CC=$root/tests/cwarnings.sh go build -race $packages

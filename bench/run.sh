#!/bin/sh
# Builds the yardsticks and the bench program in a temporary folder and runs it; arguments are
# passed on (see go run ./bench -h). CGO_CFLAGS and CGO_LDFLAGS apply to the C program too, so that
# both sides of every ratio use the same OpenSSL.
set -eu
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

# shellcheck disable=SC2086,SC2046 # flags are lists
${CC:-cc} -O2 -Wall -Wextra -std=gnu11 -pthread ${CGO_CFLAGS:-} -o "$tmp/yardstick" bench/yardstick/yardstick.c \
	$(pkg-config --cflags --libs libssl libcrypto) ${CGO_LDFLAGS:-}
# Newer releases of OpenSSL have dropped functions that this binding uses.
libp2p=$tmp/libp2p no_libp2p=
if ! (cd bench/libp2p && go build -o "$tmp/libp2p" .) 2>"$tmp/errors"; then
	libp2p= no_libp2p="it does not build here: $(grep -m1 error "$tmp/errors" || tail -n1 "$tmp/errors")"
	echo "bench: libp2p/go-openssl is left out: $no_libp2p" >&2
fi
go test -c -o "$tmp/dispatch" ./tests/internal/cref
go build -o "$tmp/bench" ./bench

"$tmp/bench" -yardstick "$tmp/yardstick" -libp2p "$libp2p" -no-libp2p "$no_libp2p" -dispatch "$tmp/dispatch" "$@"

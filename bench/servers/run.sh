#!/bin/sh
# Builds the servers of this repository and the client in a temporary folder and runs the comparison; arguments are passed on
# (see bench/servers/run.sh -h). PKG_CONFIG_PATH, CGO_CFLAGS and CGO_LDFLAGS choose the OpenSSL of both. CLIENT_OPENSSL=1.1.1
# chooses another one for the client, which tests/sysroots.sh has fetched. The other servers come from packages and use the
# OpenSSL that they were built for.
set -eu
cd "$(dirname "$0")/../.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP
chmod 711 "$tmp" # workers that run as another user read below it

# shellcheck disable=SC2016 # another shell expands it, with the flags of that OpenSSL
${CLIENT_OPENSSL:+tests/with-openssl.sh "$CLIENT_OPENSSL"} sh -c '${CC:-cc} -O2 -Wall -Wextra -std=gnu11 -pthread ${CGO_CFLAGS:-} \
	-o "$1" bench/servers/load/load.c $(pkg-config --cflags --libs libssl libcrypto) ${CGO_LDFLAGS:-}' sh "$tmp/load"
go build -o "$tmp/sslsess" ./cmd/sslsess
go build -o "$tmp/servers" ./bench/servers

# In the background, since a shell does not react to signals while it waits for a program in the foreground.
TMPDIR=$tmp "$tmp/servers" -load "$tmp/load" -sslsess "$tmp/sslsess" "$@" &
trap 'kill "$!" 2>/dev/null || true' INT TERM HUP
status=0
wait "$!" || status=$?
while kill -0 "$!" 2>/dev/null; do # a signal ended the wait: the program is still stopping its servers
	status=0
	wait "$!" || status=$?
done
exit "$status"

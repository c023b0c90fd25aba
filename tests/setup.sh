#!/bin/bash
# Makes sure that this machine can build libssl: Go as new as go.mod asks, a C compiler, pkg-config, OpenSSL's headers.
# Says nothing and asks no network where all is there; installs what is missing through apt-get where the user may.
# Arguments name further Debian packages to have; a program of a package's name will do.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "setup: $*" >&2; exit 1; }

need_go=$(awk '$1 == "go" { print $2 }' go.mod)
command -v go >/dev/null || fail "Go is missing: install Go $need_go or newer (https://go.dev/dl/)"
have_go=$(GOTOOLCHAIN=local go env GOVERSION)
have_go=${have_go#go}; have_go=${have_go%% *}; have_go=${have_go%%-*}
if [ "$(printf '%s\n' "$need_go" "$have_go" | sort -V | head -n1)" != "$need_go" ] &&
	[ "$(go env GOTOOLCHAIN)" = local ]; then # elsewhere the go command fetches the toolchain itself
	fail "Go $have_go is too old: install Go $need_go or newer (https://go.dev/dl/)"
fi

missing=()
command -v gcc >/dev/null && echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || missing+=(gcc libc6-dev)
command -v pkg-config >/dev/null || missing+=(pkg-config)
# The compiler is asked and not only pkg-config, which may not be there yet.
if ! pkg-config --exists libssl 2>/dev/null && ! echo '#include <openssl/ssl.h>' | gcc -E - >/dev/null 2>&1; then
	missing+=(libssl-dev)
fi
for p in "$@"; do
	command -v "$p" >/dev/null || dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

by_hand="install with your package manager: ${missing[*]} (Debian's names)"
command -v apt-get >/dev/null || fail "$by_hand"
if [ "$(id -u)" = 0 ]; then
	root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	root=(sudo -n)
else
	fail "run as root: apt-get install ${missing[*]}"
fi
echo "setup: installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 </dev/null; }
# An index that is missing or old shows itself as a failed install: only then is it fetched.
install || { "${root[@]}" apt-get update >"$log" 2>&1 && install; } || { tail -n 20 "$log" >&2; fail "apt-get failed; $by_hand"; }

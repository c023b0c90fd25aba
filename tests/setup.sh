#!/bin/bash
# Makes sure that this machine can build libssl: the Go version of go.mod, a C compiler, pkg-config and the headers of
# OpenSSL. If all is there, it prints nothing and uses no network. Otherwise it installs the missing packages with apt-get,
# if the user may. Arguments name more Debian packages; a program with the name of the package counts as installed. A
# package with a ? at the end is optional.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "setup: $*" >&2; exit 1; }

need_go=$(awk '$1 == "go" { print $2 }' go.mod)
command -v go >/dev/null || fail "Go is missing: install Go $need_go or newer (https://go.dev/dl/)"
have_go=$(GOTOOLCHAIN=local go env GOVERSION)
have_go=${have_go#go}; have_go=${have_go%% *}; have_go=${have_go%%-*}
if [ "$(printf '%s\n' "$need_go" "$have_go" | sort -V | head -n1)" != "$need_go" ] &&
	[ "$(go env GOTOOLCHAIN)" = local ]; then # with other settings the go command downloads the toolchain
	fail "Go $have_go is too old: install Go $need_go or newer (https://go.dev/dl/)"
fi

missing=() wanted=()
command -v gcc >/dev/null && echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || missing+=(gcc libc6-dev)
command -v pkg-config >/dev/null || missing+=(pkg-config)
# Try the compiler too, since pkg-config may not be installed yet.
if ! pkg-config --exists libssl 2>/dev/null && ! echo '#include <openssl/ssl.h>' | gcc -E - >/dev/null 2>&1; then
	missing+=(libssl-dev)
fi
for p in "$@"; do
	name=${p%\?}
	command -v "$name" >/dev/null || dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed && continue
	if [ "$p" = "$name" ]; then missing+=("$name"); else wanted+=("$name"); fi
done
[ ${#missing[@]} -gt 0 ] || [ ${#wanted[@]} -gt 0 ] || exit 0

# unable REASON: handles that nothing can be installed.
unable() {
	[ ${#missing[@]} -eq 0 ] || fail "$1"
	echo "setup: ${wanted[*]} is not to be had here, and left out"
	exit 0
}
by_hand="install with your package manager: ${missing[*]} (Debian's names)"
command -v apt-get >/dev/null || unable "$by_hand"
if [ "$(id -u)" = 0 ]; then
	root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	root=(sudo -n)
else
	unable "run as root: apt-get install ${missing[*]}"
fi
log=$(mktemp) sources=$(mktemp)
trap 'rm -f "$log" "$sources"' EXIT
apt() { "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@" >"$log" 2>&1 </dev/null; }
install() { apt install -y --no-install-recommends "$@"; }
# Fetches the package index only if an install fails, which happens when the index is missing or old.
installed() { install "$@" || { apt update && install "$@"; }; }
# Installs from the backports of this Debian release, without adding them to the sources of apt.
backported() {
	local release uri suite
	release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	suite=$release-backports
	read -r uri < <(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Release: $release" 'Component: main') || return
	{ cat /etc/apt/sources.list 2>/dev/null || true
	  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main"; } >"$sources"
	chmod a+r "$sources"
	apt -o Dir::Etc::SourceList="$sources" update && install -o Dir::Etc::SourceList="$sources" -t "$suite" "$@"
}
if [ ${#missing[@]} -gt 0 ]; then
	echo "setup: installing ${missing[*]}"
	installed "${missing[@]}" || { tail -n 20 "$log" >&2; fail "apt-get failed; $by_hand"; }
fi
for p in "${wanted[@]}"; do
	echo "setup: installing $p"
	installed "$p" || backported "$p" || echo "setup: $p is not to be had here, and left out: $(tail -n 1 "$log")"
done

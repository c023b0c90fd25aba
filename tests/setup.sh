#!/bin/bash
# Makes sure that this machine can build libssl: Go as new as go.mod asks, a C compiler, pkg-config, OpenSSL's headers.
# Says nothing and asks no network where all is there; installs what is missing through apt-get where the user may.
# Arguments name further Debian packages to have; a program of a package's name will do. One with a ? behind it is left out
# where it cannot be had.
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

missing=() wanted=()
command -v gcc >/dev/null && echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || missing+=(gcc libc6-dev)
command -v pkg-config >/dev/null || missing+=(pkg-config)
# The compiler is asked and not only pkg-config, which may not be there yet.
if ! pkg-config --exists libssl 2>/dev/null && ! echo '#include <openssl/ssl.h>' | gcc -E - >/dev/null 2>&1; then
	missing+=(libssl-dev)
fi
for p in "$@"; do
	name=${p%\?}
	command -v "$name" >/dev/null || dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed && continue
	if [ "$p" = "$name" ]; then missing+=("$name"); else wanted+=("$name"); fi
done
[ ${#missing[@]} -gt 0 ] || [ ${#wanted[@]} -gt 0 ] || exit 0

# unable REASON: nothing can be installed.
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
# An index that is missing or old shows itself as a failed install: only then is it fetched.
installed() { install "$@" || { apt update && install "$@"; }; }
# What Debian has for this release in its backports, without leaving them in apt's sources.
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

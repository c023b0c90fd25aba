#!/bin/bash
# Makes a sysroot under .sysroots/ for each named OpenSSL version (default: all that the matrix needs). It unpacks the Debian
# packages of that version, with the C library they were built against. It needs no root and no container.
#
# The mirror is the one that apt uses on this machine, or $DEBIAN_MIRROR and $DEBIAN_SECURITY_MIRROR. Signatures are checked
# with the archive keyring of Debian. Lists, cache and status of apt live under .sysroots/; those of the machine are not
# changed. A version that the installed libssl-dev has needs no sysroot. A finished sysroot is not fetched again: delete it
# to renew it.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/versions.sh

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
fail() { echo "sysroots: $*" >&2; exit 1; }

# suites VERSION: prints the Debian suites with that version. The highest version number wins, so security fixes do.
suites() {
	case $1 in
	1.1.1) echo bullseye bullseye-security ;;
	3.0) echo bookworm bookworm-security ;;
	3.5) echo trixie trixie-security ;;
	3.6) echo sid ;;
	4.0) echo experimental sid ;;
	*) fail "no suite is known for OpenSSL $1" ;;
	esac
}

# setup_apt VERSION DIR: writes a configuration with which apt uses only DIR.
setup_apt() {
	local main security base suite
	main=${DEBIAN_MIRROR:-$(mirror debian)}
	security=${DEBIAN_SECURITY_MIRROR:-$(mirror debian-security)}
	[ -n "$main" ] || fail "apt's sources name no Debian mirror; set DEBIAN_MIRROR"
	[ -r "$keyring" ] || fail "$keyring is missing: apt-get install debian-archive-keyring"
	mkdir -p "$2"/{lists/partial,cache/archives/partial,preferences.d}
	: >"$2/status"
	for suite in $(suites "$1"); do
		base=$main
		case $suite in *-security) base=$security ;; esac
		[ -z "$base" ] || echo "deb [signed-by=$keyring] $base $suite main"
	done >"$2/sources.list"
	cat >"$2/apt.conf" <<-CONF
		Dir::State "$2";
		Dir::State::lists "$2/lists";
		Dir::State::status "$2/status";
		Dir::Cache "$2/cache";
		Dir::Etc::sourcelist "$2/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "$2/preferences.d";
		APT::Sandbox::User "$(id -un)";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		Acquire::Retries "3";
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
	CONF
}

make_sysroot() {
	local version=$1 dir root apt full runtime packages
	dir=$(pwd)/.sysroots
	mkdir -p "$dir"
	root=$(mktemp -d "$dir/tmp.$version.XXXXXX")
	trap "rm -rf '$root'" EXIT
	apt=$root/apt
	setup_apt "$version" "$apt"
	get() { apt-get -q -c "$apt/apt.conf" "$@" >"$root/log" 2>&1 && ! grep -q '^[EW]:' "$root/log" || { tail -n 20 "$root/log" >&2; fail "$version: apt-get $1 failed"; }; }
	cache() { apt-cache -c "$apt/apt.conf" "$@"; }
	get update

	full=$(cache madison libssl-dev | awk -v v="$version" '{ if (index($3, v ".") == 1 || $3 ~ "^" v "[a-z]") { print $3; exit } }')
	[ -n "$full" ] || fail "$version: $(suites "$version") hold no such libssl-dev, only $(cache madison libssl-dev | awk '{ print $3 }' | xargs)"
	runtime=$(cache show "libssl-dev=$full" | sed -n 's/^Depends:.*\(libssl[0-9][a-z0-9.]*\) (= .*/\1/p')
	packages=("libssl-dev=$full" "$runtime=$full" "openssl=$full")
	if cache madison openssl-provider-fips | grep -qF " $full "; then
		packages+=("openssl-provider-fips=$full")
	fi
	if needs_libc "$version"; then
		packages+=(libc6 libc6-dev linux-libc-dev libgcc-s1 zlib1g libzstd1)
	fi
	mkdir "$root/debs" "$root/sysroot"
	(cd "$root/debs" && get download "${packages[@]}")
	for deb in "$root"/debs/*.deb; do
		dpkg-deb -f "$deb" Package Version | awk '{ printf "%s%s", $2, NR % 2 ? "=" : "\n" }' >>"$root/sysroot/.packages"
		dpkg -x "$deb" "$root/sysroot"
	done
	# Newer packages install everything under /usr; the links at the top are in package base-files.
	for link in lib lib64; do
		[ -e "$root/sysroot/$link" ] || ln -s "usr/$link" "$root/sysroot/$link"
	done
	rm -rf "$dir/$version"
	mv "$root/sysroot" "$dir/$version" # last, so that only a complete sysroot gets this name
	echo "sysroots: OpenSSL $version is $full"
}

[ $# -gt 0 ] || set -- $VERSIONS
for version in "$@"; do
	is_host "$version" || [ -e ".sysroots/$version/.packages" ] || (make_sysroot "$version") || exit 1
done

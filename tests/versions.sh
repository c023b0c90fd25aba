# The other scripts source this file: the supported OpenSSL versions, which of them the machine has installed, and the
# archive that Debian packages come from.

VERSIONS="1.1.1 3.0 3.5 3.6 4.0"

# is_host VERSION: succeeds if the installed libssl-dev has that version.
is_host() {
	case $(pkg-config --modversion libssl 2>/dev/null) in
	"$1" | "$1".* | "$1"[a-z]*) return 0 ;;
	*) return 1 ;;
	esac
}

# needs_libc VERSION: succeeds if the packages of that version may need a newer C library than this machine has.
needs_libc() { [ "$1" != 1.1.1 ]; }

# mirror debian|debian-security: prints the address of that archive, as apt resolves the sources of this machine.
mirror() {
	apt-get update --print-uris 2>/dev/null |
		sed -n "s#^'\([^']*/$1\)/\+dists/[^/]*/InRelease'.*#\1#p" | head -n1
}

# Sourced by the scripts beside it: the supported OpenSSL versions, and which of them the machine has itself.

VERSIONS="1.1.1 3.0 3.5 3.6 4.0"

# is_host VERSION: the machine's own libssl-dev is of that version.
is_host() {
	case $(pkg-config --modversion libssl 2>/dev/null) in
	"$1" | "$1".* | "$1"[a-z]*) return 0 ;;
	*) return 1 ;;
	esac
}

# needs_libc VERSION: that version's packages want a C library of their own, newer than an older machine's.
needs_libc() { [ "$1" != 1.1.1 ]; }

#!/bin/bash
# with-openssl.sh VERSION COMMAND...: runs the command so that Go and C programs compile, link and run with that OpenSSL
# version. It is the installed one, or the sysroot that sysroots.sh has made.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/versions.sh"
[ $# -ge 2 ] || { echo "usage: with-openssl.sh VERSION COMMAND..." >&2; exit 2; }
version=$1
shift

root=${here%/tests}/.sysroots/$version
if [ -e "$root/.packages" ]; then
	arch=$(gcc -print-multiarch)
	libs=$root/usr/lib/$arch
	if needs_libc "$version"; then
		for loader in "$root"/lib64/ld-linux*.so.* "$root"/lib/ld-linux*.so.*; do [ ! -e "$loader" ] || break; done
		CGO_CFLAGS="${CGO_CFLAGS--O2 -g} --sysroot=$root"
		CGO_LDFLAGS="${CGO_LDFLAGS-} --sysroot=$root -L$libs -Wl,--dynamic-linker=$loader -Wl,-rpath,$libs"
		# The internal linker of Go would use the loader of the machine, which cannot run the libc of the sysroot.
		export GOFLAGS="$(go env GOFLAGS) -ldflags=-linkmode=external"
	else # only OpenSSL differs
		CGO_CFLAGS="${CGO_CFLAGS--O2 -g} -I$root/usr/include -I$root/usr/include/$arch"
		CGO_LDFLAGS="${CGO_LDFLAGS-} -L$libs -Wl,-rpath,$libs"
	fi
	# The build cache of Go depends on the flags, not on files in the sysroot. This flag rebuilds cgo packages when the sysroot
	# has changed, while pure Go packages stay shared.
	CGO_CFLAGS+=" -DSYSROOT_PACKAGES=$(cksum <"$root/.packages" | tr -d ' ')"
	export CGO_CFLAGS CGO_LDFLAGS
	export PKG_CONFIG_PATH=$libs/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
	# Each OpenSSL uses the configuration and the modules of its own packages, not those of the machine.
	export OPENSSL_CONF=$root/etc/ssl/openssl.cnf
	export OPENSSL_MODULES=$libs/ossl-modules
elif ! is_host "$version"; then
	echo "with-openssl: there is no OpenSSL $version here: run tests/sysroots.sh $version first" >&2
	exit 1
fi
exec "$@"

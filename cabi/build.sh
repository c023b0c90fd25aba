#!/bin/bash
# build.sh DIR [GO BUILD FLAGS...]: builds the library, shared and static, into DIR/lib, and puts its pkg-config file and its
# header into DIR/lib/pkgconfig and DIR/include. `make install-cabi` copies these. The pkg-config file is for the prefix
# $PREFIX, default /usr/local.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
[ $# -ge 1 ] || { echo "usage: build.sh DIR [GO BUILD FLAGS...]" >&2; exit 2; }
mkdir -p "$1/lib/pkgconfig" "$1/include"
out=$(cd "$1" && pwd)
shift

abi=$(awk '$2 == "LSSL_ABI_VERSION" { print $3 }' "$root/cabi/lssl.h")
cd "$root"
# Go writes a header of its exports beside each library. Programs don't need it; it is removed below.
go build "$@" -buildmode=c-shared -ldflags="-s -w -extldflags '-Wl,-soname,liblssl.so.$abi -Wl,--version-script=$root/cabi/lssl.map'" \
	-o "$out/lib/liblssl.so.$abi" ./cabi
go build "$@" -buildmode=c-archive -ldflags="-s -w" -o "$out/lib/liblssl.a" ./cabi
# The static library is one object that exports the same symbols as the shared one: a program may link its own SQLite.
ld -r -d --whole-archive "$out/lib/liblssl.a" -o "$out/lib/lssl.o"
objcopy --wildcard --keep-global-symbol='lssl_*' "$out/lib/lssl.o"
rm "$out/lib/liblssl.a"
ar rcs "$out/lib/liblssl.a" "$out/lib/lssl.o"
rm -f "$out/lib/lssl.o" "$out/lib/"*.h
ln -sf "liblssl.so.$abi" "$out/lib/liblssl.so"
cp cabi/lssl.h "$out/include/"
sed -e "s|@PREFIX@|${PREFIX:-/usr/local}|" -e "s|@VERSION@|$abi.0.0|" cabi/lssl.pc.in >"$out/lib/pkgconfig/lssl.pc"

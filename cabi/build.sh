#!/bin/bash
# build.sh DIR [GO BUILD FLAGS...]: the library, shared and static, with its header and its pkg-config file (for the prefix
# $PREFIX, default /usr/local), into DIR/lib and DIR/include: what `make install-cabi` copies.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
[ $# -ge 1 ] || { echo "usage: build.sh DIR [GO BUILD FLAGS...]" >&2; exit 2; }
mkdir -p "$1/lib/pkgconfig" "$1/include"
out=$(cd "$1" && pwd)
shift

abi=$(awk '$2 == "LSSL_ABI_VERSION" { print $3 }' "$root/cabi/lssl.h")
cd "$root"
# Go writes a header of its exports beside each; they are not the programs'.
go build "$@" -buildmode=c-shared -ldflags="-s -w -extldflags '-Wl,-soname,liblssl.so.$abi -Wl,--version-script=$root/cabi/lssl.map'" \
	-o "$out/lib/liblssl.so.$abi" ./cabi
go build "$@" -buildmode=c-archive -ldflags="-s -w" -o "$out/lib/liblssl.a" ./cabi
# One object that shows what the shared library shows: programs may have an SQLite of their own.
ld -r -d --whole-archive "$out/lib/liblssl.a" -o "$out/lib/lssl.o"
objcopy --wildcard --keep-global-symbol='lssl_*' "$out/lib/lssl.o"
rm "$out/lib/liblssl.a"
ar rcs "$out/lib/liblssl.a" "$out/lib/lssl.o"
rm -f "$out/lib/lssl.o" "$out/lib/"*.h
ln -sf "liblssl.so.$abi" "$out/lib/liblssl.so"
cp cabi/lssl.h "$out/include/"
sed -e "s|@PREFIX@|${PREFIX:-/usr/local}|" -e "s|@VERSION@|$abi.0.0|" cabi/lssl.pc.in >"$out/lib/pkgconfig/lssl.pc"

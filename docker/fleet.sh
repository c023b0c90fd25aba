#!/bin/bash
# fleet.sh COMMAND [ARG...]: the files that the nodes of compose.yml share. ca.pem, which the clients trust, and ring, which
# seals the key ring in the store, are for all; each node has a folder with a certificate, its key and a copy of the ring.
#   init NODE...           makes what is missing
#   certificate NODE       gives the node a new certificate; a running node follows
#   rotate [FLAG...]       puts a fresh key into the ring, as sslsess keyring rotate; the nodes have it after ring NODE
#   forget                 drops all keys of the ring but the newest
#   ring NODE              gives the node the ring; a running node follows
set -euo pipefail
cd /fleet
umask 077
# The same names everywhere, the CN included, or the nodes do not share sessions.
nodes=DNS:node1,DNS:node2,DNS:node3,DNS:localhost

# install FILE NODE NAME: replaces a file of the node in one step.
install() {
	chown sslsess "$1"
	mv "$1" "$2/$3"
}

certificate() {
	local made=.$1
	openssl req -x509 -CA ca.pem -CAkey ca.key -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=fleet \
		-addext "subjectAltName=$nodes" -addext basicConstraints=critical,CA:FALSE -keyout "$made.key" -out "$made.pem" 2>/dev/null
	install "$made.key" "$1" key.pem
	install "$made.pem" "$1" cert.pem
}

ring() {
	cp ring ".$1.ring"
	install ".$1.ring" "$1" ring
}

init() {
	local node
	chmod a+rx .
	[ -e ring ] || sslsess keyring new ring
	if [ ! -e ca.pem ]; then
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=fleet CA" \
			-keyout ca.key -out .ca.pem 2>/dev/null
		chmod a+r .ca.pem
		mv .ca.pem ca.pem
	fi
	for node; do
		[ ! -e "$node/ring" ] || continue
		mkdir -p "$node"
		chmod a+rx "$node"
		certificate "$node"
		ring "$node"
	done
}

rotate() { sslsess keyring rotate "$@" ring; }

forget() {
	grep -v '^#' ring | head -n 1 >.ring
	mv .ring ring
}

"$@"

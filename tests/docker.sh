#!/bin/bash
# docker.sh: builds the images, runs the fleet of docker/compose.yml, and shows that it does what it is for: sessions of
# one node resume on all, also after a node was killed and while Valkey is down nobody's handshake fails. Where no Docker
# engine answers it says so, and that is no failure.
set -euo pipefail
cd "$(dirname "$0")/.."

docker info >/dev/null 2>&1 || { echo "docker-test: no Docker engine answers here: nothing was tested"; exit 0; }
compose() { docker compose -f docker/compose.yml "$@"; }
trap 'compose down -v --remove-orphans >/dev/null 2>&1' EXIT
probe() { compose run --rm client; }
say() { printf '\n== %s\n' "$*"; }

say "three nodes, one Valkey"
compose up -d --build --wait node1 node2 node3 valkey prometheus
[ "$(compose exec -T node1 id -u)" != 0 ] || { echo "docker-test: a node runs as root" >&2; exit 1; }
probe

say "a node killed and restarted"
compose kill -s KILL node1
compose up -d --wait node1
probe

say "Valkey killed: full handshakes, none failed"
compose kill -s KILL valkey
compose run --rm client bench -ca /fleet/cert.pem -n 50 node1:8443 node2:8443 node3:8443
compose up -d --wait valkey
for _ in $(seq 30); do # a node's circuit breaker tries again every second
	probe >/dev/null 2>&1 && break
	sleep 1
done
probe
echo "docker-test: ok"

#!/bin/bash
# docker.sh: builds the image, runs the fleet of docker/compose.yml and tests it. Sessions of each node resume on every node,
# and still do after a node was killed. With Valkey killed no handshake fails. Without a Docker engine it prints a message
# and succeeds.
set -euo pipefail
cd "$(dirname "$0")/.."

docker info >/dev/null 2>&1 || { echo "docker-test: no Docker engine answers here: nothing was tested"; exit 0; }
compose() { docker compose -f docker/compose.yml "$@"; }
client() { compose run --rm --no-deps client "$@"; }
say() { printf '\n== %s\n' "$*"; }
fail() { echo "docker-test: $*" >&2; exit 1; }
# Stops everything, on success and on failure.
trap 'compose --profile client down -v --remove-orphans >/dev/null 2>&1' EXIT

say "three nodes, one Valkey"
compose up -d --build --wait node1 node2 node3 prometheus grafana
[ "$(compose exec -T node1 id -u)" != 0 ] || fail "a node runs as root"
client

say "Prometheus has the nodes' numbers, Grafana the dashboard"
for _ in $(seq 30); do # Prometheus scrapes every 5 s
	compose exec -T prometheus wget -qO- 'http://localhost:9090/api/v1/query?query=sum(libssl_handshake_seconds_count)' | grep -q '"value"' && break
	sleep 1
done
compose exec -T prometheus wget -qO- 'http://localhost:9090/api/v1/query?query=sum(libssl_handshake_seconds_count)' | grep '"value"' || fail "Prometheus has no numbers"
compose exec -T grafana wget -qO- http://localhost:3000/api/dashboards/uid/libssl-sessions | grep -q '"title":"libssl sessions"' || fail "Grafana has no dashboard"

say "a node killed: the others go on resuming"
compose kill -s KILL node1
client probe -matrix -ca /fleet/cert.pem node2:8443 node3:8443
compose up -d --wait node1
client

say "Valkey killed: full handshakes, none failed"
compose kill -s KILL valkey
client bench -ca /fleet/cert.pem -n 50 node1:8443 node2:8443 node3:8443
compose up -d --wait valkey
for _ in $(seq 30); do # a node's circuit breaker tries again every second
	client >/dev/null 2>&1 && break
	sleep 1
done
client
echo "docker-test: ok"

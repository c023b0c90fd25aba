#!/bin/bash
# docker.sh: builds the images of docker/, runs the fleet of docker/compose.yml, disturbs it and shows that no handshake
# failed. Its last line is the result. Without a Docker engine that line says so, and the status is 0.
#
# Images that cannot be pulled are made on this machine: Debian with debootstrap, Go from the machine, and Valkey and
# Prometheus from Debian's packages. Grafana is not in Debian. All that the test makes is removed at its end, except the
# packed Debian in .sysroots/, which saves a minute the next time.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/versions.sh

skip() { echo "docker-test: skipped: $*"; exit 0; }
fail() { echo "docker-test: failed: $*" >&2; exit 1; }
say() { printf '\n== %s (at %ds)\n' "$*" "$SECONDS"; }

docker info >/dev/null 2>&1 || skip "no Docker engine answers here"
if docker compose version >/dev/null 2>&1; then
	compose=(docker compose)
elif command -v docker-compose >/dev/null; then
	compose=(docker-compose)
else
	skip "neither docker compose nor docker-compose is installed"
fi
project=libssl-docker-test # not the name in docker/.env: a fleet that runs here stays
compose() { "${compose[@]}" -p "$project" -f docker/compose.yml "$@"; }
nodes="node1 node2 node3"

tmp=$(mktemp -d)
made=() # images
cleanup() {
	docker rm -f "$project-load" >/dev/null 2>&1 || true
	compose --profile client down -v --remove-orphans >"$tmp/down" 2>&1 || cat "$tmp/down" >&2
	[ ${#made[@]} = 0 ] || docker rmi "${made[@]}" >/dev/null || true
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# The images.

# provide IMAGE COMMAND...: pulls the image unless it is here, or else makes it with the command.
provide() {
	local image=$1 from=pulled
	shift
	if docker image inspect "$image" >/dev/null 2>&1; then
		from="already here"
	elif ! docker pull -q "$image" >/dev/null 2>&1; then
		"$@" "$image" >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; fail "$image cannot be pulled, nor made"; }
		made=("$image" "${made[@]}") # those that were made last are removed first
		from="made here"
	fi
	echo "$image: $from"
}

# build IMAGE CONTEXT: builds the Dockerfile of standard input.
build() { docker build -q -t "$1" -f - "$2"; }

debian() {
	local packed=.sysroots/docker/bookworm.tar
	if [ ! -e "$packed" ]; then
		tests/setup.sh debootstrap
		debootstrap --variant=minbase --include=ca-certificates bookworm "$tmp/debian" "${DEBIAN_MIRROR:-$(mirror debian)}"
		apt-config dump | grep -E '^Acquire::(Check|https?)' >"$tmp/debian/etc/apt/apt.conf.d/99machine" || true
		rm -rf "$tmp"/debian/var/{cache/apt/archives/*.deb,lib/apt/lists/*}
		mkdir -p "${packed%/*}"
		tar -C "$tmp/debian" -cf "$packed.part" .
		mv "$packed.part" "$packed"
	fi
	docker import "$packed" "$1"
}

golang() {
	local root
	root=$(go env GOROOT)
	mkdir -p "$tmp/golang/go"
	tar -C "$root" -c . | tar -C "$tmp/golang/go" -x
	# The modules travel with Go, and its go.env makes them the proxy: the Dockerfiles need no network for them.
	GOMODCACHE=$tmp/modules GOFLAGS=-modcacherw GOPROXY="file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)" go mod download
	mv "$tmp/modules/cache/download" "$tmp/golang/go/modules"
	printf '%s\n' GOPROXY=file:///usr/local/go/modules GOSUMDB=off GOTOOLCHAIN=local >"$tmp/golang/go/go.env"
	build "$1" "$tmp/golang" <<-'EOF'
		FROM debian:bookworm
		RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev make pkg-config && rm -rf /var/lib/apt/lists/*
		COPY go /usr/local/go
		ENV PATH=/usr/local/go/bin:$PATH
	EOF
}

valkey() {
	build "$1" "$tmp/empty" <<-'EOF'
		FROM debian:bookworm
		RUN sed 's/ bookworm / bookworm-backports /' /etc/apt/sources.list >/etc/apt/sources.list.d/backports.list \
			&& apt-get update && apt-get install -y --no-install-recommends -t bookworm-backports valkey-server
		USER nobody
		WORKDIR /tmp
		CMD ["valkey-server"]
	EOF
}

prometheus() {
	build "$1" "$tmp/empty" <<-'EOF'
		FROM debian:bookworm
		RUN apt-get update && apt-get install -y --no-install-recommends prometheus && install -d -o nobody /data
		USER nobody
		ENTRYPOINT ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/data"]
	EOF
}

# composed NAME: the image of that name in compose.yml, with its tag.
composed() { sed -n "s|^ *image: \($1:.*\)|\1|p" docker/compose.yml; }

images() {
	mkdir "$tmp/empty"
	provide debian:bookworm debian
	provide debian:bookworm-slim docker tag debian:bookworm
	provide golang:1.26-bookworm golang
	provide "$(composed valkey/valkey)" valkey
	provide "$(composed prom/prometheus)" prometheus
	docker pull -q "$(composed grafana/grafana)" >/dev/null 2>&1 && grafana=grafana ||
		echo "$(composed grafana/grafana): left out: it cannot be pulled, and Debian has no package of it"
	made=(sslsess sslsess-build "${made[@]}")
	docker build -q --target build -t sslsess-build -f docker/Dockerfile . # named, so that it can be removed
	docker build -q -t sslsess -f docker/Dockerfile .
}

# The fleet.

container() { compose ps -q "$1"; }

# eventually SECONDS COMMAND...: tries once a second, and shows what the last try printed.
eventually() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@" >"$tmp/try" 2>&1; do
		[ $SECONDS -lt $deadline ] || { cat "$tmp/try" >&2; fail "still not: $*"; }
		sleep 1
	done
	cat "$tmp/try"
}

# serves NODE: its page answers, under the port that compose.yml publishes.
serves() { curl -fsS "http://127.0.0.1:808${1#node}/healthz"; }

# resumes NODE...: sessions of each node resume on each node.
resumes() { compose run --rm -T --no-deps client probe -matrix -ca /fleet/ca.pem "${@/%/:8443}" 2>/dev/null; }
all_resume() { resumes $nodes; }

# under_load "NODE..." COMMAND...: runs the command while clients connect to the nodes, with sessions and without. No
# handshake may fail.
full=0 resumed=0
under_load() {
	local report reached=($1)
	shift
	docker run -d --name "$project-load" --cpus 0.5 --network "${project}_front" -v "${project}_fleet:/fleet:ro" sslsess \
		bench -json -mode mixed -c 4 -d 1h -ca /fleet/ca.pem "${reached[@]/%/:8443}" >/dev/null
	sleep 1
	"$@"
	sleep 1
	docker stop -t 30 "$project-load" >/dev/null
	report=$(docker logs "$project-load" 2>/dev/null)
	docker rm "$project-load" >/dev/null
	jq -r '"\(.full.count) full and \(.resumed.count) resumed handshakes in \(.seconds | round) s, \(.failed) failed"' <<<"$report"
	jq -e '.failed == 0 and .full.count > 20' <<<"$report" >/dev/null || fail "handshakes failed, or none was made: $report"
	full=$((full + $(jq .full.count <<<"$report"))) resumed=$((resumed + $(jq .resumed.count <<<"$report")))
}

# query EXPRESSION: the values that Prometheus has for it, one a line.
query() { curl -fsS --data-urlencode "query=$1" http://127.0.0.1:9090/api/v1/query | jq -er '.data.result[].value[1]'; }

# dashboard: each expression of it has a value.
dashboard() {
	local expression
	while read -r expression; do
		query "$expression" >/dev/null || { echo "no value for $expression"; return 1; }
	done < <(jq -r '.panels[].targets[].expr' metrics/prom/dashboard.json)
}

scraped() { [ "$(query 'count(up{job="sslsess"} == 1)')" = 3 ]; }

# The disturbances. Each ends with the fleet as it was.

kill_node() {
	docker kill "$(container "$1")" >/dev/null
	eventually 10 resumes node2 node3
	docker start "$(container "$1")" >/dev/null
	eventually 30 serves "$1"
}

# cut SERVICE NETWORK
cut() { docker network disconnect "${project}_$2" "$(container "$1")"; }
mend() { docker network connect --alias "$1" "${project}_$2" "$(container "$1")"; }

cut_node_from_clients() {
	cut "$1" front
	sleep 3
	eventually 10 resumes node1 node2
	mend "$1" front
}

cut_node_from_store() {
	cut "$1" store
	sleep 3
	eventually 10 resumes node1 node3
	! all_resume >/dev/null || fail "$1 was not cut off"
	mend "$1" store
}

cut_valkey() {
	cut valkey store
	sleep 4
	! all_resume >/dev/null || fail "Valkey was not cut off"
	mend valkey store
}

hang_valkey() {
	docker pause "$(container valkey)" >/dev/null
	sleep 4
	docker unpause "$(container valkey)" >/dev/null
}

kill_valkey() {
	docker kill "$(container valkey)" >/dev/null
	sleep 4
	docker start "$(container valkey)" >/dev/null
}

fleet() { compose run --rm -T --no-deps fleet "$@" 2>"$tmp/fleet" || { cat "$tmp/fleet" >&2; return 1; }; }

certificate() {
	docker exec "$(container "$1")" bash -c 'openssl s_client -connect localhost:8443 </dev/null 2>/dev/null | openssl x509 -noout -serial'
}

has_another_certificate() { [ "$(certificate "$1")" != "$2" ]; }

roll_certificate() {
	local node old
	for node in $nodes; do
		old=$(certificate "$node")
		fleet certificate "$node"
		eventually 30 has_another_certificate "$node" "$old"
		eventually 10 all_resume
	done
}

follow=6 # seconds: the nodes look at their files every five

# give_ring: to one node after the other.
give_ring() {
	local node
	for node in $nodes; do
		fleet ring "$node"
		sleep "$follow"
		eventually 10 all_resume
	done
}

roll_ring() {
	fleet rotate -after 40s
	local sealing=$((SECONDS + 41))
	give_ring
	while [ $SECONDS -lt $sealing ]; do sleep 1; done
	eventually 10 all_resume
}

ring_in_store() { docker exec "$(container node1)" sslsess store ls valkey://valkey:6379/0 | grep 6c696273736c206b65792072696e67; }

restart_node() {
	docker stop -t 20 "$(container "$1")" >/dev/null
	docker start "$(container "$1")" >/dev/null
	eventually 30 serves "$1"
}

tests/setup.sh jq curl
say "images"
grafana=
images

say "three nodes, one Valkey"
compose up -d $nodes prometheus $grafana >"$tmp/up" 2>&1 || { cat "$tmp/up" >&2; fail "the fleet does not start"; }
for node in $nodes; do eventually 60 serves "$node"; done
[ "$(docker exec "$(container node1)" id -u)" != 0 ] || fail "a node runs as root"
published=$(docker ps --filter "label=com.docker.compose.project=$project" --format '{{.Ports}}' | tr ',' '\n' | grep -e '->' | grep -v '^ *127\.0\.0\.1:' || true)
[ -z "$published" ] || fail "published beyond this host: $published"
eventually 30 all_resume

say "a node is killed"
under_load "node2 node3" kill_node node1
eventually 30 all_resume

say "a node is cut off from clients"
under_load "node1 node2" cut_node_from_clients node3
eventually 30 all_resume

say "a node is cut off from Valkey"
under_load "$nodes" cut_node_from_store node2
eventually 30 all_resume

say "Valkey is cut off"
under_load "$nodes" cut_valkey
eventually 30 all_resume

say "Valkey hangs"
under_load "$nodes" hang_valkey
eventually 30 all_resume

say "a new certificate, one node after the other"
under_load "$nodes" roll_certificate

say "a new key for the ring, one node after the other"
under_load "$nodes" roll_ring

say "Valkey is killed and comes back empty: the nodes put the ring back, under the new key"
under_load "$nodes" kill_valkey
eventually 30 all_resume
eventually 60 ring_in_store

say "the old key goes, and each node starts again with the new one alone"
fleet forget
under_load "$nodes" give_ring
under_load "node2 node3" restart_node node1
under_load "node1 node3" restart_node node2
under_load "node1 node2" restart_node node3
eventually 30 all_resume

say "the numbers in Prometheus"
eventually 30 scraped
eventually 30 dashboard
failed=$(query 'sum(max_over_time(libssl_context_handshakes_failed_total{reason!="disconnected"}[1h]))') # the load ends by disconnecting
[ "$failed" = 0 ] || fail "the nodes count $failed failed handshakes"
undecodable=$(query 'sum(max_over_time(libssl_session_lookups_total{result="undecodable"}[1h]))')
[ "$undecodable" = 0 ] || fail "$undecodable sessions were sealed under a key that another node lacked"
if [ -n "$grafana" ]; then
	eventually 60 curl -fsS http://127.0.0.1:3000/api/dashboards/uid/libssl-sessions -o /dev/null
	! curl -fsS http://127.0.0.1:3000/api/admin/stats >/dev/null 2>&1 || fail "Grafana has an anonymous admin"
fi

echo
echo "docker-test: ok: $full full and $resumed resumed handshakes while 3 nodes and Valkey were disturbed, 0 failed"

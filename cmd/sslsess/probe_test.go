package main

import (
	"encoding/json"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/libssl-go/libssl/tests/servertest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func probed(t *testing.T, status int, args ...string) probeReport {
	t.Helper()
	r := sslsess(t, append([]string{"probe", "-json"}, args...)...)
	require.Equal(t, status, r.status, r.stderr)
	var report probeReport
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
	return report
}

func TestProbe_AllResume(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	url := "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")
	first, second := f.serve("-node", "n1", "-store", url), f.serve("-node", "n2", "-store", url)
	for _, version := range []string{"1.2", "1.3"} {
		report := probed(t, 0, "-ca", f.caFile, "-tls", version, first.addr, second.addr)
		assert.Equal(t, "n1", report.IssuedBy)
		assert.Equal(t, 2, report.Total)
		assert.Equal(t, 2, report.Resumed)
		for i, want := range []struct{ addr, node string }{{first.addr, "n1"}, {second.addr, "n2"}} {
			n := report.Nodes[i]
			assert.Equal(t, want.addr, n.Addr)
			assert.Equal(t, want.node, n.Node)
			assert.Equal(t, "TLSv"+version, n.Version)
			assert.Regexp(t, "^TLS_", n.Cipher)
			assert.True(t, n.Resumed)
			assert.Positive(t, *n.ResumedMS)
			assert.Equal(t, i == 0, n.FullMS != nil)
			assert.Empty(t, n.Error)
		}
	}
	r := sslsess(t, "probe", "-ca", f.caFile, "-servername", "localhost", first.addr, second.addr)
	requireOK(t, r)
	assert.Contains(t, r.stdout, "issued by n1, resumed on 2 of 2")
	assert.Regexp(t, `(?m)^`+first.addr+` +n1 +TLSv1.3 +TLS_\w+ +yes +[0-9.]+ +[0-9.]+ *$`, r.stdout)
}

// The JSON keys are a contract: there must be exactly these.
func TestProbe_JSONHasTheContractsKeys(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := f.serve()
	r := sslsess(t, "probe", "-json", "-insecure", n.addr)
	requireOK(t, r)
	var report map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
	keys := func(m map[string]any) (all []string) {
		for k := range m {
			all = append(all, k)
		}
		return all
	}
	assert.ElementsMatch(t, []string{"issued_by", "total", "resumed", "nodes"}, keys(report))
	assert.ElementsMatch(t, []string{"addr", "node", "version", "cipher", "resumed", "full_ms", "resumed_ms", "error"},
		keys(report["nodes"].([]any)[0].(map[string]any)))
}

func TestProbe_StatusIs1UnlessAllResume(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, stranger, none := f.serve("-node", "one"), f.serve("-node", "stranger"), f.serve("-tickets", "none")
	away := servertest.FreeAddr(t)

	report := probed(t, 1, "-ca", f.caFile, one.addr, stranger.addr, away, one.addr)
	assert.Equal(t, "one", report.IssuedBy)
	assert.Equal(t, 4, report.Total)
	assert.Equal(t, 2, report.Resumed)
	assert.True(t, report.Nodes[0].Resumed)
	assert.False(t, report.Nodes[1].Resumed)
	assert.Equal(t, "stranger", report.Nodes[1].Node)
	assert.NotNil(t, report.Nodes[1].FullMS)
	assert.Contains(t, report.Nodes[1].Error, "not resumed")
	assert.Contains(t, report.Nodes[2].Error, "refused")
	assert.True(t, report.Nodes[3].Resumed)

	report = probed(t, 1, "-ca", f.caFile, "-tls", "1.3", none.addr)
	assert.Contains(t, report.Nodes[0].Error, "no session")
	assert.NotNil(t, report.Nodes[0].FullMS)

	report = probed(t, 1, "-ca", f.caFile, away, one.addr)
	assert.Equal(t, away, report.IssuedBy)
	assert.Zero(t, report.Resumed)
	assert.Contains(t, report.Nodes[1].Error, "no session to try")

	r := sslsess(t, "probe", "-ca", f.caFile, one.addr, stranger.addr)
	requireFailure(t, r, 1, "1 of 2 did not resume: "+stranger.addr+": not resumed: the server made a full handshake")
	assert.Contains(t, r.stdout, "issued by one, resumed on 1 of 2")
}

// The error line names the address and the reason, whether the connection fails or the handshake.
func TestProbe_ErrorsNameTheAddress(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	away, distrusted := servertest.FreeAddr(t), f.serve().addr
	requireFailure(t, sslsess(t, "probe", away), 1, "1 of 1 did not resume: dial tcp "+away+": connect: connection refused")
	r := sslsess(t, "probe", distrusted)
	requireFailure(t, r, 1, "1 of 1 did not resume: "+distrusted+": ")
	assert.Contains(t, r.stderr, "certificate verify failed")
	r = sslsess(t, "bench", "-n", "1", distrusted)
	requireFailure(t, r, 1, "1 handshakes failed: "+distrusted+": ")
}

// Two servers share a store and a ring. The third shares the store, but has another ring.
func TestProbe_MatrixShowsWhoResumesWhom(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	dir := t.TempDir()
	ring := func(name string) string {
		path := filepath.Join(dir, name)
		requireOK(t, sslsess(t, "keyring", "new", path))
		return path
	}
	shared, own := ring("shared"), ring("own")
	url := "sqlite:" + filepath.Join(dir, "sessions.db")
	var nodes []*node
	var addrs []string
	for _, n := range []struct{ name, keys string }{{"n1", shared}, {"n2", shared}, {"n3", own}} {
		server := f.serve("-node", n.name, "-store", url, "-keyring", n.keys)
		nodes, addrs = append(nodes, server), append(addrs, server.addr)
	}
	probe := func(args ...string) result {
		return sslsess(t, append(append([]string{"probe", "-matrix", "-ca", f.caFile}, args...), addrs...)...)
	}
	for _, version := range []string{"1.2", "1.3"} {
		r := probe("-json", "-tls", version)
		require.Equal(t, 1, r.status, r.stderr)
		var matrix []probeReport
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &matrix))
		require.Len(t, matrix, 3)
		for i, row := range matrix {
			assert.Equal(t, []string{"n1", "n2", "n3"}[i], row.IssuedBy)
			assert.Equal(t, 3, row.Total)
			assert.Equal(t, []int{2, 2, 1}[i], row.Resumed)
			require.Len(t, row.Nodes, 3)
			for j, n := range row.Nodes {
				assert.Equal(t, addrs[j], n.Addr)
				assert.Equal(t, (i == 2) == (j == 2), n.Resumed, "%s: %d on %d", version, i, j)
				assert.Equal(t, i == j || !n.Resumed, n.FullMS != nil)
			}
		}
	}

	r := probe()
	requireFailure(t, r, 1, "4 of 9 did not resume")
	yes := ` +yes, \d+\.\d\d ms`
	assert.Regexp(t, `(?m)\AISSUED BY  ON n1 +ON n2 +ON n3\nn1`+yes+yes+` +no\nn2`+yes+yes+` +no\nn3 +no +no`+yes+`\n\n`, r.stdout)
	assert.Contains(t, r.stdout, "\nn1 on n3: not resumed: the server made a full handshake\n")
	assert.Regexp(t, `\nresumed 5 of 9\n\z`, r.stdout)

	// A server that is down issues and resumes nothing. The others are not affected.
	away := addrs[2]
	nodes[2].end(syscall.SIGTERM)
	r = probe()
	requireFailure(t, r, 1, "5 of 9 did not resume")
	assert.Regexp(t, `\n`+away+` +- +- +no\n`, r.stdout)
	assert.Regexp(t, `\nn2 on `+away+`: .*refused\n`, r.stdout)
	assert.NotContains(t, r.stdout, "no session to try")

	addrs = addrs[:2]
	r = probe()
	requireOK(t, r)
	assert.Contains(t, r.stdout, "resumed 4 of 4")
}

func TestProbe_Verifies(t *testing.T) {
	t.Parallel()
	f, other := newFleet(t), newFleet(t)
	n := f.serve()
	for name, args := range map[string][]string{
		"system roots": {n.addr},
		"another CA":   {"-ca", other.caFile, n.addr},
		"another name": {"-ca", f.caFile, "-servername", "elsewhere.test", n.addr},
	} {
		t.Run(name, func(t *testing.T) {
			report := probed(t, 1, args...)
			assert.Contains(t, report.Nodes[0].Error, "certificate verify failed")
		})
	}
	assert.Equal(t, 1, probed(t, 0, "-insecure", n.addr).Resumed)
	requireFailure(t, sslsess(t, "probe", "-ca", filepath.Join(t.TempDir(), "none"), n.addr), 1, "no such file")
	requireFailure(t, sslsess(t, "probe", "-ca", f.key, n.addr), 1, f.key)
}

// The probe ends in time for an address without an HTTP server, or without any server.
func TestProbe_MeetsAnyServer(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	silent := f.serve("-backend", backend(t, func(c *net.TCPConn) {
		buf := make([]byte, 4096)
		for {
			if _, err := c.Read(buf); err != nil {
				c.Close()
				return
			}
		}
	}))
	report := probed(t, 0, "-ca", f.caFile, silent.addr)
	assert.Equal(t, silent.addr, report.IssuedBy)
	assert.Empty(t, report.Nodes[0].Node)

	plain := backend(t, func(c *net.TCPConn) { c.Write([]byte("220 mail\r\n")); c.Close() })
	assert.NotEmpty(t, probed(t, 1, "-insecure", plain).Nodes[0].Error)
}

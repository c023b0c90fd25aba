package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/servertest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBench_CountsWhatItMakes(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := f.serve()
	for _, version := range []string{"1.2", "1.3"} {
		for mode, want := range map[string]struct{ full, resumed int64 }{
			"full": {30, 0}, "resumed": {0, 30}, "mixed": {15, 15},
		} {
			t.Run(version+" "+mode, func(t *testing.T) {
				r := sslsess(t, "bench", "-json", "-ca", f.caFile, "-n", "30", "-c", "1", "-tls", version, "-mode", mode, n.addr)
				requireOK(t, r)
				var report benchReport
				require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
				assert.Equal(t, want.full, report.Full.Count)
				assert.Equal(t, want.resumed, report.Resumed.Count)
				assert.Zero(t, report.Failed)
				assert.Empty(t, report.Errors)
				for _, times := range []benchTimes{report.Full, report.Resumed} {
					if times.Count > 0 {
						assert.Positive(t, times.Min)
						assert.LessOrEqual(t, times.Min, times.P50)
						assert.LessOrEqual(t, times.P50, times.P99)
						assert.LessOrEqual(t, times.P99, times.Max)
						assert.Positive(t, times.PerSecond)
					}
				}
			})
		}
	}
}

func TestBench_DrawsAHistogram(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := f.serve()
	r := sslsess(t, "bench", "-ca", f.caFile, "-d", "300ms", "-c", "3", "-mode", "mixed", n.addr)
	requireOK(t, r)
	assert.Regexp(t, `(?m)^full +\d+ `, r.stdout)
	assert.Regexp(t, `(?m)^resumed +\d+ `, r.stdout)
	assert.Contains(t, r.stdout, "█")
	assert.Regexp(t, `\n3 clients, 0\.\d s: \d+ handshakes, 0 failed, 0 not resumed\n$`, r.stdout)
	assert.Empty(t, r.stderr, "a progress line without a terminal")
}

// A terminal shows one progress line, which is cleared at the end. The script command, which every Debian has, provides the
// terminal.
func TestBench_ShowsProgressOnATerminal(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := f.serve()
	bench := strings.Join([]string{"exec", os.Args[0], "bench", "-insecure", "-d", "1s", "-c", "2", "-mode", "mixed", n.addr}, " ")
	out, err := exec.CommandContext(t.Context(), "script", "--quiet", "--return", "--command", bench, "/dev/null").CombinedOutput()
	require.NoError(t, err, "%s", out)
	lines := strings.Split(string(out), "\r\x1b[K")
	require.Greater(t, len(lines), 2)
	require.Empty(t, lines[0])
	for _, line := range lines[1 : len(lines)-1] {
		require.Regexp(t, `^\d+\.\d s: \d+ full, \d+ resumed, 0 failed, \d+/s$`, line)
	}
	require.Regexp(t, `^HANDSHAKES `, lines[len(lines)-1])
}

// Many clients connect to the servers in turn, and resume on each a session that another server issued.
func TestBench_ManyClientsAndServers(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	url := "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")
	var nodes []*node
	var addrs []string
	for range 3 {
		n := f.serve("-store", url, "-http", "127.0.0.1:0")
		nodes, addrs = append(nodes, n), append(addrs, n.addr)
	}
	// On a busy machine the store may be too slow for so many clients: then a handshake is full.
	r := sslsess(t, append([]string{"bench", "-json", "-ca", f.caFile, "-mode", "resumed", "-n", "300", "-c", "100"}, addrs...)...)
	var report benchReport
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &report), r.stderr)
	assert.Equal(t, addrs, report.Addrs)
	assert.Equal(t, 100, report.Concurrency)
	assert.EqualValues(t, 300, report.Full.Count+report.Resumed.Count)
	assert.Equal(t, report.Full.Count, report.NotResumed)
	assert.Positive(t, report.Resumed.Count)
	assert.Zero(t, report.Failed)
	for _, n := range nodes {
		resp, err := http.Get("http://" + n.says("http on ") + "/stats")
		require.NoError(t, err)
		defer resp.Body.Close()
		var s struct{ Cache libssl.CacheStats }
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&s))
		assert.Greater(t, s.Cache.Full.Count()+s.Cache.Resumed.Count(), uint64(50), "its share")
	}
}

// Servers that share nothing do not resume each other's sessions, and the status reports it.
func TestBench_SaysWhereNothingResumes(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	r := sslsess(t, "bench", "-json", "-ca", f.caFile, "-n", "10", "-c", "1", "-mode", "resumed", f.serve().addr, f.serve().addr)
	requireFailure(t, r, 1, "10 handshakes should have resumed and were full")
	var report benchReport
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
	assert.EqualValues(t, 10, report.Full.Count)
	assert.EqualValues(t, 10, report.NotResumed)
}

func TestBench_Fails(t *testing.T) {
	t.Parallel()
	nobody := servertest.FreeAddr(t)
	r := sslsess(t, "bench", "-insecure", "-n", "5", nobody)
	requireFailure(t, r, 1, "5 handshakes failed")
	assert.Contains(t, r.stdout, "5 x ")

	for name, args := range map[string][]string{
		"no address":        {},
		"no port":           {"localhost"},
		"no clients":        {"-c", "0", nobody},
		"no time":           {"-d", "0s", nobody},
		"both ends":         {"-n", "1", "-d", "1s", nobody},
		"no such mode":      {"-mode", "half", nobody},
		"ca and insecure":   {"-ca", "x", "-insecure", nobody},
		"flags behind args": {nobody, "-json"},
	} {
		t.Run(name, func(t *testing.T) {
			r := sslsess(t, append([]string{"bench"}, args...)...)
			require.Equal(t, 2, r.status, strings.TrimSpace(r.stderr))
		})
	}
}

package main

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/libssl-go/libssl/tests/servertest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func doctored(t *testing.T, status int, args ...string) doctorReport {
	t.Helper()
	r := sslsess(t, append([]string{"doctor", "-json"}, args...)...)
	require.Equal(t, status, r.status, "stdout: %s\nstderr: %s", r.stdout, r.stderr)
	var report doctorReport
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
	require.Len(t, report.Versions, 2)
	assert.Equal(t, "TLSv1.2", report.Versions[0].Version)
	assert.Equal(t, "TLSv1.3", report.Versions[1].Version)
	return report
}

// wrongs returns the words of all findings.
func (r doctorReport) wrongs() (all []string) {
	for _, f := range r.Findings {
		all = append(all, f.Wrong)
	}
	return all
}

// kind is the expected result of a server that resumes.
type kind struct {
	session  string // "id", "ticket", or "" if it resumes nothing
	stateful bool
	lifetime int64
	renews   bool
}

// some is any lifetime: releases of HAProxy differ.
const some = -1

// checkOne requires the result of a server in both versions, and a finding for each version in which it resumes nothing.
func checkOne(t *testing.T, caFile, addr string, kinds ...kind) {
	t.Helper()
	status := 0
	var wrongs []string
	for i, k := range kinds {
		if k.session == "" {
			status = 1
			wrongs = append(wrongs, []string{"TLSv1.2", "TLSv1.3"}[i]+": "+addr+" issues no session, so each handshake is a full one")
		}
	}
	report := doctored(t, status, "-ca", caFile, "-servername", "localhost", addr)
	assert.Equal(t, wrongs, report.wrongs())
	for i, k := range kinds {
		require.Len(t, report.Versions[i].Nodes, 1)
		assert.Empty(t, report.Versions[i].Across)
		c := report.Versions[i].Nodes[0]
		assert.Equal(t, addr, c.Addr)
		assert.Empty(t, c.Error)
		if k.lifetime == some && c.LifetimeSeconds > 0 {
			k.lifetime = c.LifetimeSeconds
		}
		assert.Equal(t, k, kind{c.Session, c.Stateful, c.LifetimeSeconds, c.Renewed}, c)
		assert.Equal(t, k.session == "ticket", c.TicketBytes > 0)
		if k.session != "" {
			assert.Equal(t, doctorTries, c.Resumed, c)
			assert.True(t, c.Again, c)
		}
	}
}

func TestDoctor_OwnServer(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	const lifetime = 7200
	for mode, kinds := range map[string][]kind{
		"stateful":  {{"id", true, 0, false}, {"ticket", true, lifetime, true}},
		"stateless": {{"ticket", false, lifetime, false}, {"ticket", false, lifetime, true}},
		"none":      {{"id", true, 0, false}, {}},
	} {
		t.Run(mode, func(t *testing.T) { checkOne(t, f.caFile, f.serve("-tickets", mode).addr, kinds...) })
	}
}

func TestDoctor_Nginx(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for name, c := range map[string]struct {
		settings []string
		kinds    []kind
	}{
		"tickets": {nil, []kind{{"ticket", false, 300, false}, {"ticket", false, 300, true}}},
		"ids": {[]string{"ssl_session_tickets off;", "ssl_session_cache shared:tls:1m;"},
			[]kind{{"id", true, 0, false}, {"ticket", true, 300, true}}},
	} {
		t.Run(name, func(t *testing.T) {
			checkOne(t, f.caFile, servertest.Nginx(t, f.cert, f.key, c.settings...), c.kinds...)
		})
	}
	t.Run("early data", func(t *testing.T) {
		addr := servertest.Nginx(t, f.cert, f.key, "ssl_early_data on;")
		c := doctored(t, 0, "-ca", f.caFile, addr).Versions[1].Nodes[0]
		assert.EqualValues(t, 16384, c.MaxEarlyData)
		assert.Equal(t, 2, c.EarlyAccepted, "nginx leaves replays to the application")
		r := sslsess(t, "doctor", "-ca", f.caFile, addr)
		assert.Contains(t, r.stdout, "  16384 bytes, accepted twice\n")
	})
	t.Run("no cache", func(t *testing.T) {
		addr := servertest.Nginx(t, f.cert, f.key, "ssl_session_tickets off;", "ssl_session_cache off;")
		report := doctored(t, 1, "-ca", f.caFile, addr)
		assert.Equal(t, []string{
			"TLSv1.2: " + addr + " issues no session, so each handshake is a full one",
			"TLSv1.3: " + addr + " resumes 0 of 3 sessions that it has issued", // it names sessions that it does not keep
		}, report.wrongs())
		assert.Contains(t, report.Findings[1].Do, "turn the session cache on")
	})
}

func TestDoctor_HAProxy(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for name, c := range map[string]struct {
		settings []string
		kinds    []kind
	}{
		"tickets": {nil, []kind{{"ticket", false, some, false}, {"ticket", false, some, true}}},
		"ids":     {[]string{"no-tls-tickets"}, []kind{{"id", true, 0, false}, {"ticket", true, some, true}}},
	} {
		t.Run(name, func(t *testing.T) {
			checkOne(t, f.caFile, servertest.HAProxy(t, f.cert, f.key, c.settings...), c.kinds...)
		})
	}
}

func TestDoctor_HAProxyWithEarlyData(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	c := doctored(t, 0, "-ca", f.caFile, servertest.HAProxy(t, f.cert, f.key, "allow-0rtt")).Versions[1].Nodes[0]
	assert.Positive(t, c.MaxEarlyData)
	assert.Equal(t, 2, c.EarlyAccepted, c)
}

// cryptoTLS starts a server of crypto/tls. With keys, the first seals its tickets, and it opens those of all.
func (f *testFleet) cryptoTLS(config *tls.Config, keys ...byte) (addr string) {
	f.t.Helper()
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	require.NoError(f.t, err)
	config.Certificates = []tls.Certificate{cert}
	if len(keys) > 0 {
		var all [][32]byte
		for _, k := range keys {
			all = append(all, [32]byte{k})
		}
		config.SetSessionTicketKeys(all)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	require.NoError(f.t, err)
	srv := &http.Server{Handler: http.NotFoundHandler()}
	go srv.Serve(l)
	f.t.Cleanup(func() { srv.Close() })
	return l.Addr().String()
}

func TestDoctor_CryptoTLS(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	const week = 7 * 24 * 3600
	checkOne(t, f.caFile, f.cryptoTLS(&tls.Config{}), kind{"ticket", false, 0, true}, kind{"ticket", false, week, true})
	checkOne(t, f.caFile, f.cryptoTLS(&tls.Config{SessionTicketsDisabled: true}), kind{}, kind{})
}

// Servers with the same ticket keys resume each other's sessions; the report explains those that do not.
func TestDoctor_ComparesTicketKeys(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b, c := f.cryptoTLS(&tls.Config{}, 1), f.cryptoTLS(&tls.Config{}, 1), f.cryptoTLS(&tls.Config{}, 2)
	report := doctored(t, 0, "-ca", f.caFile, a, b)
	assert.Empty(t, report.Findings)
	for _, v := range report.Versions {
		resumed, total := v.Across.count()
		assert.Equal(t, []int{4, 4}, []int{resumed, total})
	}

	report = doctored(t, 1, "-ca", f.caFile, a, b, c)
	const differ = ": the ticket keys differ; refused: a ticket of "
	refused := differ + a + " on " + c + "; a ticket of " + b + " on " + c + "; a ticket of " + c + " on " + a + ", " + b
	assert.Equal(t, []string{"TLSv1.2" + refused, "TLSv1.3" + refused}, report.wrongs())
	assert.ElementsMatch(t, []string{a, b, c}, report.Findings[0].Addrs)
	assert.Contains(t, report.Findings[0].Do, "the same ticket keys")

	rotated := f.cryptoTLS(&tls.Config{}, 3, 1)
	report = doctored(t, 1, "-ca", f.caFile, a, rotated)
	refused = ": some servers have a ticket key that others do not have yet; refused: a ticket of " + rotated + " on " + a
	assert.Equal(t, []string{"TLSv1.2" + refused, "TLSv1.3" + refused}, report.wrongs())
}

// The servers keep their sessions each for itself.
func TestDoctor_SaysWhichCachesAreNotShared(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b, stateless := f.serve("-node", "n1").addr, f.serve("-node", "n2").addr, f.serve("-tickets", "stateless").addr
	r := sslsess(t, "doctor", "-ca", f.caFile, a, b)
	requireFailure(t, r, 1, "findings: 2, the first: TLSv1.2: the session caches are not shared")
	assert.Regexp(t, `(?m)^`+a+` +n1 +id, stateful +- +3 of 3 +yes +no +no$`, r.stdout)
	assert.Regexp(t, `(?m)^`+b+` +n2 +ticket, stateful +2h0m0s +3 of 3 +yes +yes +no$`, r.stdout)
	assert.Regexp(t, `(?m)^n1 +yes, \d+\.\d\d ms +no$`, r.stdout)
	assert.Contains(t, r.stdout, "\n2. TLSv1.3: the session caches are not shared; refused: a ticket of "+a+" on "+b+
		"; a ticket of "+b+" on "+a+"\n   to do: let all servers share one session cache or store\n")
	report := doctored(t, 1, "-ca", f.caFile, a, stateless)
	require.Len(t, report.Findings, 2)
	assert.Contains(t, report.Findings[0].Wrong, "some servers keep sessions, and others seal them in tickets")

	r = sslsess(t, "doctor", "-ca", f.caFile, a)
	requireOK(t, r)
	assert.Regexp(t, `\nnothing is wrong\n\z`, r.stdout)
}

// Two servers behind one address share nothing. Each connection goes to the other one than the last did.
func TestDoctor_SeesThroughABalancer(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	servers := []string{f.serve("-tickets", "stateless").addr, f.serve("-tickets", "stateless").addr}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	var turn atomic.Int64
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", servers[turn.Add(1)%2])
			if err != nil {
				from.Close()
				continue
			}
			for _, ends := range [][2]net.Conn{{from, to}, {to, from}} {
				go func() {
					io.Copy(ends[0], ends[1])
					ends[0].Close()
				}()
			}
		}
	}()
	addr := l.Addr().String()
	report := doctored(t, 1, "-ca", f.caFile, addr)
	assert.Equal(t, []string{
		"TLSv1.2: " + addr + " resumes 0 of 3 sessions that it has issued",
		"TLSv1.3: " + addr + " resumes 0 of 3 sessions that it has issued",
	}, report.wrongs())
	assert.Contains(t, report.Findings[0].Do, "behind the address have the same ticket keys")
}

// A server that fails is named with the reason, and the others are examined.
func TestDoctor_NamesServersThatFail(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	away, alive := servertest.FreeAddr(t), f.serve().addr
	report := doctored(t, 1, "-ca", f.caFile, away, alive)
	require.Equal(t, []string{"no connection: dial tcp " + away + ": connect: connection refused"}, report.wrongs())
	assert.Equal(t, []string{away}, report.Findings[0].Addrs)
	assert.Equal(t, doctorTries, report.Versions[0].Nodes[1].Resumed)

	report = doctored(t, 1, alive)
	require.Len(t, report.Findings, 1)
	assert.Contains(t, report.Findings[0].Wrong, "no connection: "+alive+": ")
	assert.Contains(t, report.Findings[0].Wrong, "certificate verify failed")
	assert.Contains(t, report.Findings[0].Do, "-ca")

	old := f.serve("-tls", "1.2").addr
	report = doctored(t, 0, "-ca", f.caFile, old)
	assert.Empty(t, report.Findings, "a server may have one version only")
	report = doctored(t, 1, "-ca", f.caFile, old, alive)
	require.NotEmpty(t, report.Findings)
	last := report.Findings[len(report.Findings)-1]
	assert.Contains(t, last.Wrong, "TLSv1.3: "+old+" fails, and other servers have this version")
}

// The JSON keys are a contract: there must be exactly these.
func TestDoctor_JSONHasTheContractsKeys(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	r := sslsess(t, "doctor", "-json", "-insecure", f.serve().addr, f.serve("-tickets", "none").addr)
	require.Equal(t, 1, r.status)
	var report struct {
		Versions []struct {
			Version string
			Nodes   []map[string]any
			Across  []map[string]any
		}
		Findings []map[string]any
	}
	d := json.NewDecoder(strings.NewReader(r.stdout))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&report))
	keys := func(m map[string]any) (all []string) {
		for k := range m {
			all = append(all, k)
		}
		return all
	}
	assert.ElementsMatch(t, []string{"addr", "node", "error", "session", "stateful", "ticket_bytes", "lifetime_s", "max_early_data", "early_data_accepted",
		"tries", "resumed", "again", "renewed", "resume_error", "no_answer"}, keys(report.Versions[1].Nodes[0]))
	assert.ElementsMatch(t, []string{"issued_by", "total", "resumed", "nodes"}, keys(report.Versions[0].Across[0]))
	assert.ElementsMatch(t, []string{"version", "addrs", "wrong", "do"}, keys(report.Findings[0]))
}

// The servers have the same ticket keys, but each has a certificate for its own name, so a client that verifies does not
// offer the session of one to the other.
func TestDoctor_AsksForTheCommonName(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	var addrs []string
	for _, host := range []string{"127.0.0.1", "localhost"} {
		f.cert, f.key = f.ca.LeafFiles(t, host)
		_, port, _ := net.SplitHostPort(f.cryptoTLS(&tls.Config{}, 1))
		addrs = append(addrs, net.JoinHostPort(host, port))
	}
	report := doctored(t, 1, "-ca", f.caFile, addrs[0], addrs[1])
	require.Len(t, report.Findings, 2)
	assert.Contains(t, report.Findings[1].Wrong, "TLSv1.3: the addresses have different names")
	assert.Contains(t, report.Findings[1].Do, "-servername")
}

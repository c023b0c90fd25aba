package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// healthy resumes tickets as a server should.
func healthy(addr string) checkup {
	return checkup{Addr: addr, Session: "ticket", TicketBytes: 200, LifetimeSeconds: 7200, Tries: doctorTries, Resumed: doctorTries,
		Again: true, Renewed: true}
}

// accepts makes a matrix of the servers a, b and c; refused pairs are an issuer and the server that refuses its session.
func accepts(refused ...string) (m probeMatrix) {
	addrs := []string{"a:1", "b:1", "c:1"}
	for _, issuer := range addrs {
		row := probeReport{IssuedBy: issuer}
		for _, on := range addrs {
			n := probeNode{Addr: on, Resumed: true}
			for _, pair := range refused {
				if pair == issuer[:1]+on[:1] {
					n.Resumed = false
				}
			}
			row.Nodes = append(row.Nodes, n)
		}
		m = append(m, row)
	}
	return m
}

func TestDiagnose_FindsEachFault(t *testing.T) {
	for name, c := range map[string]struct {
		edit  func(v *versionReport)
		wrong string // empty: nothing is wrong
		do    string
	}{
		"nothing":          {func(*versionReport) {}, "", ""},
		"single use":       {func(v *versionReport) { v.Nodes[1].Again = false }, "", ""},
		"a week":           {func(v *versionReport) { setLifetimes(v, 604800) }, "", ""},
		"beyond a week":    {func(v *versionReport) { setLifetimes(v, 604801) }, "a:1 announces a ticket lifetime of 168h0m1s", "seven days"},
		"no lifetime":      {func(v *versionReport) { setLifetimes(v, 0) }, "a:1 announces a ticket lifetime of 0", "timeout"},
		"other lifetime":   {func(v *versionReport) { v.Nodes[2].LifetimeSeconds = 300 }, "lifetimes differ: 2h0m0s on a:1, 2h0m0s on b:1, 5m0s on c:1", "the same"},
		"no renewal":       {func(v *versionReport) { v.Nodes[1].Renewed = false }, "b:1 sends no ticket after a resumption", "send a ticket"},
		"one of three":     {func(v *versionReport) { v.Nodes[1].Resumed = 1 }, "b:1 resumes 1 of 3 sessions", "the same ticket keys"},
		"no cache":         {func(v *versionReport) { v.Nodes[1].Resumed, v.Nodes[1].Stateful = 0, true }, "b:1 resumes 0 of 3", "turn the session cache on"},
		"no session":       {func(v *versionReport) { v.Nodes[1] = checkup{Addr: "b:1", NoAnswer: "EOF"} }, "b:1 issues no session, so each handshake is a full one (tickets may come with an answer, but the server did not answer the HTTP request: EOF)", "turn"},
		"failure":          {func(v *versionReport) { v.Nodes[1].ResumeError = "alert" }, "b:1 fails where a client offers a session, instead of a full handshake: alert", "log"},
		"version missing":  {func(v *versionReport) { v.Nodes[1] = checkup{Addr: "b:1", Error: "no 1.3"} }, "b:1 fails, and other servers have this version: no 1.3", "same protocol"},
		"nowhere":          {func(v *versionReport) { *v = versionReport{Version: v.Version, Nodes: failing("no 1.3")} }, "", ""},
		"keys":             {func(v *versionReport) { v.Across = accepts("ab", "ba") }, "the ticket keys differ; refused: a ticket of a:1 on b:1; a ticket of b:1 on a:1", "ticket keys"},
		"rotation":         {func(v *versionReport) { v.Across = accepts("ab", "ac") }, "some servers have a ticket key that others do not have yet; refused: a ticket of a:1 on b:1, c:1", "newest"},
		"caches":           {func(v *versionReport) { setStateful(v, 0, 1, 2); v.Across = accepts("ac", "ca") }, "the session caches are not shared; refused: a ticket of a:1 on c:1", "one session cache"},
		"different kinds":  {func(v *versionReport) { setStateful(v, 1); v.Across = accepts("ab", "ba") }, "some servers keep sessions, and others seal them", "alike"},
		"kinds that share": {func(v *versionReport) { setStateful(v, 1) }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := versionReport{"TLSv1.3", []checkup{healthy("a:1"), healthy("b:1"), healthy("c:1")}, accepts()}
			c.edit(&v)
			alive := versionReport{"TLSv1.2", []checkup{healthy("a:1"), healthy("b:1"), healthy("c:1")}, nil}
			found := diagnose([]versionReport{alive, v}, "name.test")
			if c.wrong == "" {
				require.Empty(t, found)
				return
			}
			require.NotEmpty(t, found)
			assert.Equal(t, "TLSv1.3", found[0].Version)
			assert.Contains(t, found[0].Wrong, "TLSv1.3: ")
			assert.Contains(t, found[0].Wrong, c.wrong)
			assert.Contains(t, found[0].Do, c.do)
			assert.NotEmpty(t, found[0].Addrs)
		})
	}
}

func setLifetimes(v *versionReport, seconds int64) {
	for i := range v.Nodes {
		v.Nodes[i].LifetimeSeconds = seconds
	}
}

func setStateful(v *versionReport, nodes ...int) {
	for _, i := range nodes {
		v.Nodes[i].Stateful = true
	}
}

func failing(reason string) []checkup {
	return []checkup{{Addr: "a:1", Error: reason}, {Addr: "b:1", Error: reason}, {Addr: "c:1", Error: reason}}
}

// The limits of TLS 1.3 are none of TLS 1.2: a lifetime of 0 leaves it open, and clients use a ticket many times.
func TestDiagnose_TLS12HasOtherRules(t *testing.T) {
	c := healthy("a:1")
	c.LifetimeSeconds, c.Renewed = 0, false
	assert.Empty(t, diagnose([]versionReport{{"TLSv1.2", []checkup{c}, nil}}, ""))
}

// A session may be good for one name only, so a comparison of servers with different names needs -servername.
func TestDiagnose_AsksForTheCommonName(t *testing.T) {
	v := versionReport{"TLSv1.3", []checkup{healthy("a:1"), healthy("b:1"), healthy("c:1")}, accepts("ab", "ba")}
	found := diagnose([]versionReport{v}, "")
	require.Len(t, found, 1)
	assert.Contains(t, found[0].Wrong, "different names")
	assert.Contains(t, found[0].Do, "-servername")
}

func TestDiagnose_NamesServersThatAreAway(t *testing.T) {
	versions := []versionReport{{"TLSv1.2", failing("refused"), nil}, {"TLSv1.3", failing("certificate verify failed"), nil}}
	versions[1].Nodes[1] = healthy("b:1")
	found := diagnose(versions, "")
	require.Len(t, found, 2)
	assert.Equal(t, finding{"", []string{"a:1"}, "no connection: a:1: certificate verify failed",
		"name its CA with -ca and its name with -servername, or do not verify it: -insecure"}, found[0])
	assert.Equal(t, []string{"c:1"}, found[1].Addrs)
}

func TestSomeOf_NamesAFew(t *testing.T) {
	assert.Equal(t, "a, b, c", someOf([]string{"a", "b", "c"}))
	assert.Equal(t, "a, b and 2 others", someOf([]string{"a", "b", "c", "d"}))
}

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// finding is something that is wrong, in words.
type finding struct {
	Version string   `json:"version"` // empty if it concerns all
	Addrs   []string `json:"addrs"`
	Wrong   string   `json:"wrong"`
	Do      string   `json:"do"`
}

// diagnosis collects the findings of one protocol version.
type diagnosis struct {
	versionReport
	serverName string
	findings   []finding
}

// diagnose finds what is wrong in the reports. The same servers are in all of them, in the same order.
func diagnose(versions []versionReport, serverName string) []finding {
	findings, dead := unreachable(versions)
	for _, v := range versions {
		d := diagnosis{versionReport: versionReport{Version: v.Version, Across: v.Across}, serverName: serverName}
		for i, c := range v.Nodes {
			if !dead[i] {
				d.Nodes = append(d.Nodes, c)
			}
		}
		d.spoken()
		for _, c := range d.Nodes {
			if c.Error == "" {
				d.node(c)
			}
		}
		d.lifetimes()
		d.across()
		findings = append(findings, d.findings...)
	}
	return findings
}

// unreachable finds the servers that fail in all versions.
func unreachable(versions []versionReport) (findings []finding, dead []bool) {
	findings = []finding{}
	for i, c := range versions[0].Nodes {
		fails := !slices.ContainsFunc(versions, func(v versionReport) bool { return v.Nodes[i].Error == "" })
		dead = append(dead, fails)
		if !fails {
			continue
		}
		reason := versions[len(versions)-1].Nodes[i].Error // with the newest, which most servers have
		do := "start the server, or correct the address"
		if strings.Contains(reason, "certificate") {
			do = "name its CA with -ca and its name with -servername, or do not verify it: -insecure"
		}
		findings = append(findings, finding{Addrs: []string{c.Addr}, Wrong: "no connection: " + withAddr(c.Addr, reason), Do: do})
	}
	return findings, dead
}

func withAddr(addr, text string) string {
	if text = oneLine(text); strings.Contains(text, addr) {
		return text
	}
	return addr + ": " + text
}

func (d *diagnosis) add(addrs []string, do, format string, args ...any) {
	wrong := d.Version + ": " + fmt.Sprintf(format, args...)
	d.findings = append(d.findings, finding{Version: d.Version, Addrs: addrs, Wrong: wrong, Do: do})
}

// spoken finds a version that only some of the servers have.
func (d *diagnosis) spoken() {
	var without []string
	reason := ""
	for _, c := range d.Nodes {
		if c.Error != "" {
			without, reason = append(without, c.Addr), oneLine(c.Error)
		}
	}
	if len(without) > 0 && len(without) < len(d.Nodes) {
		d.add(without, "set the same protocol versions on all servers: a session of one version is useless in another",
			"%s fails, and other servers have this version: %s", someOf(without), reason)
	}
}

// node finds what is wrong with the sessions of one server.
func (d *diagnosis) node(c checkup) {
	addrs := []string{c.Addr}
	switch {
	case c.Session == "":
		d.add(addrs, "turn session tickets or a session cache on", "%s issues no session, so each handshake is a full one%s", c.Addr, unanswered(c))
	case c.ResumeError != "":
		d.add(addrs, "look into the log of the server; one that asks clients for certificates needs a session id context",
			"%s fails where a client offers a session, instead of a full handshake: %s", c.Addr, oneLine(c.ResumeError))
	case !c.resumes():
		do := "let all processes and servers behind the address " + share(c)
		if c.Stateful {
			do = "turn the session cache on, and " + do
		}
		d.add(addrs, do,
			"%s resumes %d of %d sessions that it has issued", c.Addr, c.Resumed, c.Tries)
	case d.is13() && !c.Renewed:
		d.add(addrs, "let the server send a ticket after a resumption too",
			"%s sends no ticket after a resumption, and clients use a TLS 1.3 ticket once: they resume only every other time%s", c.Addr, unanswered(c))
	}
	// RFC 8446, section 4.6.1, has both limits.
	const week = 7 * 24 * time.Hour
	lifetime := time.Duration(c.LifetimeSeconds) * time.Second
	switch {
	case c.Session == "" || !d.is13():
	case lifetime == 0:
		d.add(addrs, "set a session timeout", "%s announces a ticket lifetime of 0, so clients drop the ticket", c.Addr)
	case lifetime > week:
		d.add(addrs, "set a session timeout of at most seven days", "%s announces a ticket lifetime of %v, beyond the seven days of the standard", c.Addr, lifetime)
	}
}

func (d *diagnosis) is13() bool { return d.Version == "TLSv1.3" }

// unanswered explains why tickets may be missing.
func unanswered(c checkup) string {
	if c.NoAnswer == "" {
		return ""
	}
	return " (tickets may come with an answer, but the server did not answer the HTTP request: " + oneLine(c.NoAnswer) + ")"
}

// share returns the advice for servers that do not resume each other's sessions.
func share(c checkup) string {
	if c.Stateful {
		return "share one session cache or store"
	}
	return "have the same ticket keys, from one file, and the same session id context"
}

// lifetimes finds servers that announce different lifetimes.
func (d *diagnosis) lifetimes() {
	var addrs, texts []string
	seen := map[int64]bool{}
	for _, c := range d.Nodes {
		if c.Session == "ticket" && c.Error == "" {
			seen[c.LifetimeSeconds] = true
			addrs = append(addrs, c.Addr)
			texts = append(texts, fmt.Sprintf("%v on %s", time.Duration(c.LifetimeSeconds)*time.Second, c.Addr))
		}
	}
	if len(seen) > 1 {
		d.add(addrs, "set the same session timeout on all servers", "ticket lifetimes differ: %s", strings.Join(texts, ", "))
	}
}

// across finds the servers that do not resume the sessions of others.
func (d *diagnosis) across() {
	var texts, addrs []string
	oneWay := true
	for i, row := range d.Across {
		var refusing []string
		for j, n := range row.Nodes {
			if i != j && !n.Resumed {
				refusing = append(refusing, n.Addr)
				oneWay = oneWay && d.Across[j].Nodes[i].Resumed
			}
		}
		if len(refusing) > 0 {
			addrs = append(addrs, row.Nodes[i].Addr)
			addrs = append(addrs, refusing...)
			texts = append(texts, fmt.Sprintf("%s of %s on %s", d.kind(row.Nodes[i].Addr), row.Nodes[i].Addr, someOf(refusing)))
		}
	}
	if len(texts) == 0 {
		return
	}
	slices.Sort(addrs)
	addrs = slices.Compact(addrs)
	why, do := d.cause(addrs, oneWay)
	d.add(addrs, do, "%s; refused: %s", why, strings.Join(texts, "; "))
}

// kind names the sessions of a server.
func (d *diagnosis) kind(addr string) string {
	if d.find(addr).Session == "ticket" {
		return "a ticket"
	}
	return "a session id"
}

func (d *diagnosis) find(addr string) checkup {
	i := slices.IndexFunc(d.Nodes, func(c checkup) bool { return c.Addr == addr })
	return d.Nodes[i]
}

// cause explains why the servers refuse each other's sessions. With oneWay, one of each pair resumes those of the other.
func (d *diagnosis) cause(addrs []string, oneWay bool) (why, do string) {
	first := d.find(addrs[0])
	for _, addr := range addrs[1:] {
		c := d.find(addr)
		switch {
		case nameFor(addr, d.serverName) != nameFor(first.Addr, d.serverName):
			return "the addresses have different names, and a session may be good for one name only",
				"give the name that clients use with -servername, and look again"
		case c.Session != first.Session || c.Stateful != first.Stateful:
			return "some servers keep sessions, and others seal them in tickets", "configure all servers alike"
		}
	}
	switch {
	case first.Stateful:
		return "the session caches are not shared", "let all servers " + share(first)
	case oneWay:
		return "some servers have a ticket key that others do not have yet", "give all servers the newest keys before one of them seals with it"
	}
	return "the ticket keys differ", "let all servers " + share(first)
}

// someOf names at most three addresses.
func someOf(addrs []string) string {
	if len(addrs) > 3 {
		return fmt.Sprintf("%s and %d others", strings.Join(addrs[:2], ", "), len(addrs)-2)
	}
	return strings.Join(addrs, ", ")
}

package main

import (
	"context"
	"encoding/asn1"
	"errors"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/libssl-go/libssl"
)

var doctorCommand = command{
	name:  "doctor",
	args:  "ADDR...",
	about: "what a server or a fleet does with sessions, what is wrong, and what to do",
	long: `It connects to each address with TLS 1.2 and with TLS 1.3, and sends a small HTTP request
each time. For each version it shows

SESSION    an id or a ticket. A stateful session is in the memory or the store of the
           server; a stateless one is in the ticket, which the server's key seals
LIFETIME   of the ticket, as the server announces it. There is none for an id
RESUMED    how many new sessions of the server it resumed itself
AGAIN      whether a session resumes a second time
RENEWED    whether a resumption brings a new ticket
EARLY DATA how many bytes a ticket allows, and whether the server accepts them. Twice means that
           it accepts those of one ticket again: an application must expect a replay

and, for a fleet, which server resumes the sessions of which other server. The status is 0
if nothing is wrong, and 1 otherwise.`,
	flags: doctor,
}

// doctorTries is the number of sessions that each server should resume itself. Several servers behind one address may
// resume only some of them.
const doctorTries = 3

// doctorReport is the output of -json.
type doctorReport struct {
	Versions []versionReport `json:"versions"`
	Findings []finding       `json:"findings"`
}

// versionReport is the result for one protocol version.
type versionReport struct {
	Version string      `json:"version"`
	Nodes   []checkup   `json:"nodes"`
	Across  probeMatrix `json:"across"` // of the nodes that resume their own sessions, if there are several
}

// checkup is the result for one address and one protocol version.
type checkup struct {
	Addr            string `json:"addr"`
	Node            string `json:"node"`
	Error           string `json:"error"`   // of a full handshake
	Session         string `json:"session"` // "id" or "ticket"; empty if the server issued none
	Stateful        bool   `json:"stateful"`
	TicketBytes     int    `json:"ticket_bytes"`
	LifetimeSeconds int64  `json:"lifetime_s"` // of the ticket; TLS 1.2 has 0 for a lifetime that the server leaves open
	MaxEarlyData    uint32 `json:"max_early_data"`
	Tries           int    `json:"tries"`
	Resumed         int    `json:"resumed"`
	Again           bool   `json:"again"`
	Renewed         bool   `json:"renewed"`
	EarlyAccepted   int    `json:"early_data_accepted"` // of two connections that used one ticket for early data
	ResumeError     string `json:"resume_error"`        // of a handshake that offered a session
	NoAnswer        string `json:"no_answer"`           // why there was no answer to the HTTP request
}

func (c *checkup) resumes() bool { return c.Tries > 0 && c.Resumed == c.Tries }

func doctor(fs *flag.FlagSet) action {
	client := addClientFlags(fs)
	asJSON := fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, std stdio, addrs []string) error {
		if err := client.check(addrs); err != nil {
			return err
		}
		var report doctorReport
		for _, version := range []string{"1.2", "1.3"} {
			v, err := examine(ctx, client, version, addrs)
			if err != nil {
				return err
			}
			report.Versions = append(report.Versions, v)
		}
		report.Findings = diagnose(report.Versions, *client.serverName)
		show := report.print
		if *asJSON {
			show = func(w io.Writer) error { return printJSON(w, report) }
		}
		err := show(std.out)
		if n := len(report.Findings); err == nil && n > 0 {
			err = fmt.Errorf("findings: %d, the first: %s", n, report.Findings[0].Wrong)
		}
		return err
	}
}

// examination is of all addresses in one protocol version.
type examination struct {
	ctx        context.Context
	sslCtx     *libssl.Context
	serverName string
}

func examine(ctx context.Context, client clientFlags, version string, addrs []string) (versionReport, error) {
	r := versionReport{Version: "TLSv" + version}
	sslCtx, err := client.newContext(version)
	if err != nil {
		return r, err
	}
	defer sslCtx.Close()
	e := examination{ctx, sslCtx, *client.serverName}
	var resuming []string
	for _, addr := range addrs {
		c := e.checkup(addr)
		if c.resumes() {
			resuming = append(resuming, addr)
		}
		r.Nodes = append(r.Nodes, c)
	}
	if len(resuming) > 1 {
		for _, issuer := range resuming {
			r.Across = append(r.Across, e.across(issuer, resuming))
		}
	}
	return r, nil
}

func (e examination) call(addr string, offer *libssl.Session) (visit, error) {
	return call(e.ctx, e.sslCtx, addr, nameFor(addr, e.serverName), offer)
}

// checkup resumes new sessions of a server on the server itself, each once, and the last one twice.
func (e examination) checkup(addr string) (c checkup) {
	c.Addr = addr
	for range doctorTries {
		if more := e.try(&c); !more {
			break
		}
	}
	return c
}

// try makes a full handshake and resumes its session. It reports whether another try makes sense.
func (e examination) try(c *checkup) (more bool) {
	full, err := e.call(c.Addr, nil)
	defer full.Session.Release()
	if err == nil && full.Session != nil {
		err = c.describe(full.Session)
	}
	if err != nil {
		c.Error = err.Error()
		return false
	}
	c.Node = full.Answer.Node
	if full.NoAnswer != nil {
		c.NoAnswer = full.NoAnswer.Error()
	}
	if full.Session == nil {
		return false
	}
	c.Tries++
	second, err := e.call(c.Addr, full.Session)
	defer second.Session.Release()
	if err != nil {
		c.ResumeError = err.Error()
		return true
	}
	if !second.Resumed {
		return true
	}
	c.Resumed++
	c.Renewed = second.Session != nil && second.Session.ID() != full.Session.ID()
	if c.Resumed == doctorTries {
		third, err := e.call(c.Addr, full.Session)
		third.Session.Release()
		c.Again = err == nil && third.Resumed
		e.earlyData(c)
	}
	return true
}

// earlyData sends early data twice with one new ticket, if it allows that.
func (e examination) earlyData(c *checkup) {
	full, err := e.call(c.Addr, nil)
	defer full.Session.Release()
	if err != nil || full.Session.MaxEarlyData() == 0 {
		return
	}
	for range 2 {
		v, err := callWith(e.ctx, e.sslCtx, c.Addr, nameFor(c.Addr, e.serverName), full.Session, asEarlyData)
		v.Session.Release()
		if err == nil && v.EarlyData {
			c.EarlyAccepted++
		}
	}
}

// longestID is the length of the longest session id in bytes. A ticket that is no longer has no room for the secret of a
// session and the seal, so it is the name of a session that the server keeps.
const longestID = 32

func (c *checkup) describe(s *libssl.Session) error {
	ticket, lifetime, err := ticketOf(s)
	if err != nil {
		return err
	}
	c.Session, c.Stateful = "id", true
	if s.HasTicket() {
		c.Session, c.Stateful = "ticket", len(ticket) <= longestID
	}
	c.TicketBytes, c.LifetimeSeconds, c.MaxEarlyData = len(ticket), lifetime, s.MaxEarlyData()
	return nil
}

// ticketOf returns the ticket of a session and the lifetime in seconds that the server announced for it. Both are in the DER
// form of a session, each in a context-specific tag of its own, which is the same in all releases of OpenSSL.
func ticketOf(s *libssl.Session) (ticket []byte, lifetime int64, err error) {
	const lifetimeTag, ticketTag = 9, 10
	der, err := s.MarshalBinary()
	if err != nil {
		return nil, 0, err
	}
	defer clear(der) // it has the session's secret
	var fields, field asn1.RawValue
	_, err = asn1.Unmarshal(der, &fields)
	for rest := fields.Bytes; err == nil && len(rest) > 0; {
		rest, err = asn1.Unmarshal(rest, &field)
		if err != nil || field.Class != asn1.ClassContextSpecific {
			continue
		}
		switch field.Tag {
		case lifetimeTag:
			_, err = asn1.Unmarshal(field.Bytes, &lifetime)
		case ticketTag:
			_, err = asn1.Unmarshal(field.Bytes, &ticket)
		}
	}
	return ticket, lifetime, err
}

// across gets a new session from the issuer for each address. A server may accept a session only once, so that one
// session for all addresses would not do.
func (e examination) across(issuer string, addrs []string) probeReport {
	report := probeReport{IssuedBy: issuer, Total: len(addrs)}
	for _, addr := range addrs {
		n := probeNode{Addr: addr}
		full, err := e.call(issuer, nil)
		if err == nil && full.Session == nil {
			err = errors.New("the server issued no session")
		}
		if err != nil {
			n.Error = err.Error()
		} else if v := n.try(e.ctx, e.sslCtx, nameFor(addr, e.serverName), full.Session); v.Resumed {
			report.Resumed++
		}
		full.Session.Release()
		report.Nodes = append(report.Nodes, n)
	}
	return report
}

func (r doctorReport) print(w io.Writer) error {
	for _, v := range r.Versions {
		if err := v.print(w); err != nil {
			return err
		}
	}
	if len(r.Findings) == 0 {
		_, err := fmt.Fprintln(w, "nothing is wrong")
		return err
	}
	for i, f := range r.Findings {
		if _, err := fmt.Fprintf(w, "%d. %s\n   to do: %s\n", i+1, f.Wrong, f.Do); err != nil {
			return err
		}
	}
	return nil
}

func (v versionReport) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "%s\tNODE\tSESSION\tLIFETIME\tRESUMED\tAGAIN\tRENEWED\tEARLY DATA\n", v.Version)
	for _, c := range v.Nodes {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", c.Addr, orDash(c.Node), c.row())
	}
	fmt.Fprintln(tw)
	if err := tw.Flush(); err != nil || len(v.Across) == 0 {
		return err
	}
	if err := v.Across.print(w); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

// row returns the cells from SESSION on.
func (c checkup) row() string {
	switch {
	case c.Error != "":
		return oneLine(c.Error)
	case c.Session == "":
		return "none"
	}
	session, lifetime := c.Session+", stateless", "-"
	if c.Stateful {
		session = c.Session + ", stateful"
	}
	if c.LifetimeSeconds > 0 {
		lifetime = (time.Duration(c.LifetimeSeconds) * time.Second).String()
	}
	return fmt.Sprintf("%s\t%s\t%d of %d\t%s\t%s\t%s", session, lifetime, c.Resumed, c.Tries, yesNo(c.Again), yesNo(c.Renewed), c.earlyData())
}

func (c checkup) earlyData() string {
	if c.MaxEarlyData == 0 {
		return "no"
	}
	return fmt.Sprintf("%d bytes, accepted %s", c.MaxEarlyData, []string{"never", "once", "twice"}[c.EarlyAccepted])
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

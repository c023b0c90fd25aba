package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/libssl-go/libssl"
)

var probeCommand = command{
	name:  "probe",
	args:  "ADDR...",
	about: "which servers of a fleet resume a session of the first",
	long: `It makes a full handshake with the first address and tries to resume the session on every
address, including the first. The status is 0 only if all resumed. Times cover the
handshake, without the TCP connection. NODE is the name that sslsess serve gives itself.

With -matrix each address issues a session in turn. A row shows the server that issued
the session, a column the server that should resume it. With -json the output is then a
list with one report for each address.`,
	flags: probe,
}

// probeReport is the output of -json.
type probeReport struct {
	IssuedBy string      `json:"issued_by"` // the node's name, or its address
	Total    int         `json:"total"`
	Resumed  int         `json:"resumed"`
	Nodes    []probeNode `json:"nodes"`
}

// probeNode is the result for one address. A time is null if there was no such handshake.
type probeNode struct {
	Addr      string   `json:"addr"`
	Node      string   `json:"node"`
	Version   string   `json:"version"`
	Cipher    string   `json:"cipher"`
	Resumed   bool     `json:"resumed"`
	FullMS    *float64 `json:"full_ms"`
	ResumedMS *float64 `json:"resumed_ms"`
	Error     string   `json:"error"`
}

func (n *probeNode) saw(v *visit) {
	n.Node, n.Version, n.Cipher, n.Resumed = v.Answer.Node, v.Version, v.Cipher, v.Resumed
	ms := milliseconds(v.Took)
	if v.Resumed {
		n.ResumedMS = &ms
	} else {
		n.FullMS = &ms
	}
}

// try offers a session to the address and notes the result. The Session of the visit is released.
func (n *probeNode) try(ctx context.Context, sslCtx *libssl.Context, serverName string, offer *libssl.Session) visit {
	v, err := call(ctx, sslCtx, n.Addr, serverName, offer)
	if err != nil {
		n.Error = err.Error()
		return v
	}
	v.Session.Release()
	if n.saw(&v); !v.Resumed {
		n.Error = "not resumed: the server made a full handshake"
	}
	return v
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func probe(fs *flag.FlagSet) action {
	client, version := addClientFlags(fs), tlsFlag(fs)
	matrix := fs.Bool("matrix", false, "try the sessions of every address, not only of the first")
	asJSON := fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, std stdio, addrs []string) error {
		if err := client.check(addrs); err != nil {
			return err
		}
		sslCtx, err := client.newContext(*version)
		if err != nil {
			return err
		}
		defer sslCtx.Close()

		issuers := addrs[:1]
		if *matrix {
			issuers = addrs
		}
		var rows probeMatrix
		for i := range issuers {
			rows = append(rows, probeAll(ctx, sslCtx, *client.serverName, addrs, i))
		}
		switch {
		case *asJSON && *matrix:
			err = printJSON(std.out, rows)
		case *asJSON:
			err = printJSON(std.out, rows[0])
		case *matrix:
			err = rows.print(std.out)
		default:
			err = rows[0].print(std.out)
		}
		if resumed, total := rows.count(); err == nil && resumed < total {
			err = fmt.Errorf("%d of %d did not resume: %s", total-resumed, total, rows.firstError())
		}
		return err
	}
}

func newClientContext(ca string, insecure bool, version string) (*libssl.Context, error) {
	ctx, err := libssl.NewContext(libssl.ClientRole)
	if err != nil {
		return nil, err
	}
	err = setVersions(ctx, version)
	if err == nil && insecure {
		err = ctx.SetVerify(libssl.VerifyNone)
	}
	if err == nil && ca != "" {
		var pem []byte
		if pem, err = os.ReadFile(ca); err == nil {
			if err = ctx.AddRootCAsPEM(pem); err != nil {
				err = fmt.Errorf("%s: %w", ca, err)
			}
		}
	}
	if err != nil {
		ctx.Close()
		return nil, err
	}
	return ctx, nil
}

// noSession is the error of an address that was not tried.
const noSession = "there is no session to try"

// probeAll gets a session from the address issuer and tries it on all addresses.
func probeAll(ctx context.Context, sslCtx *libssl.Context, serverName string, addrs []string, issuer int) probeReport {
	report := probeReport{IssuedBy: addrs[issuer], Total: len(addrs)}
	var first probeNode
	full, err := call(ctx, sslCtx, addrs[issuer], nameFor(addrs[issuer], serverName), nil)
	defer full.Session.Release()
	if err != nil {
		first.Error = err.Error()
	} else {
		first.saw(&full)
		if full.Answer.Node != "" {
			report.IssuedBy = full.Answer.Node
		}
		if full.Session == nil {
			first.Error = "the server issued no session"
			if full.NoAnswer != nil {
				first.Error += ": " + full.NoAnswer.Error()
			}
		}
	}
	for i, addr := range addrs {
		n := probeNode{}
		if i == issuer {
			n = first
		}
		n.Addr = addr
		if full.Session == nil {
			if n.Error == "" {
				n.Error = noSession
			}
		} else if v := n.try(ctx, sslCtx, nameFor(addr, serverName), full.Session); v.Resumed {
			report.Resumed++
		}
		report.Nodes = append(report.Nodes, n)
	}
	return report
}

func (r probeReport) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ADDR\tNODE\tVERSION\tCIPHER\tRESUMED\tFULL ms\tRESUMED ms\tERROR")
	for _, n := range r.Nodes {
		resumed := "no"
		if n.Resumed {
			resumed = "yes"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Addr, orDash(n.Node), orDash(n.Version), orDash(n.Cipher), resumed,
			msOrDash(n.FullMS), msOrDash(n.ResumedMS), oneLine(n.Error))
	}
	fmt.Fprintf(tw, "\nissued by %s, resumed on %d of %d\n", r.IssuedBy, r.Resumed, r.Total)
	return tw.Flush()
}

// probeMatrix has a row for each issuer. All rows have the same addresses.
type probeMatrix []probeReport

func (m probeMatrix) count() (resumed, total int) {
	for _, row := range m {
		resumed, total = resumed+row.Resumed, total+row.Total
	}
	return resumed, total
}

// firstError returns the error of the first address that did not resume.
func (m probeMatrix) firstError() string {
	for _, row := range m {
		for _, n := range row.Nodes {
			switch {
			case n.Resumed:
			case strings.Contains(n.Error, n.Addr):
				return n.Error
			default:
				return n.Addr + ": " + n.Error
			}
		}
	}
	return ""
}

// name returns the name of the server of a column, or its address if no row has its name.
func (m probeMatrix) name(column int) string {
	for _, row := range m {
		if n := row.Nodes[column]; n.Node != "" {
			return n.Node
		}
	}
	return m[0].Nodes[column].Addr
}

func (m probeMatrix) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "ISSUED BY")
	for i := range m {
		fmt.Fprintf(tw, "\tON %s", m.name(i))
	}
	var errors strings.Builder
	for i, row := range m {
		fmt.Fprintf(tw, "\n%s", m.name(i))
		for j, n := range row.Nodes {
			switch {
			case n.Resumed:
				fmt.Fprintf(tw, "\tyes, %.2f ms", *n.ResumedMS)
			case n.Error == noSession:
				fmt.Fprint(tw, "\t-")
			default:
				fmt.Fprint(tw, "\tno")
				fmt.Fprintf(&errors, "%s on %s: %s\n", m.name(i), m.name(j), oneLine(n.Error))
			}
		}
	}
	resumed, total := m.count()
	fmt.Fprintf(tw, "\n\n%sresumed %d of %d\n", &errors, resumed, total)
	return tw.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func msOrDash(ms *float64) string {
	if ms == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f", *ms)
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

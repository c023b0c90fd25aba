package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/libssl-go/libssl"
)

var demoCommand = command{
	name:  "demo",
	about: "three servers, one shared store, one client: which resume, and how long it takes",
	long: `Three sslsess serve processes share a sqlite store in a temporary folder. A client makes
a full handshake with node1 and resumes its session on node2 and node3. Then node1 is
killed and restarted, and the client resumes there too. It does so in TLS 1.2 by session
id and in TLS 1.3 with stateful tickets. If openssl s_client is installed, it does the
same. The last line is "demo: ok" or "demo: FAILED: reason".`,
	flags: func(*flag.FlagSet) action {
		return func(ctx context.Context, std stdio, args []string) error {
			if err := wantArgs(args, 0, 0); err != nil {
				return err
			}
			ctx, stop := untilSignal(ctx)
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, demoTimeout)
			defer cancel()
			err := demo(ctx, std.out)
			if err == nil {
				_, err = fmt.Fprintln(std.out, "demo: ok")
				return err
			}
			switch ctx.Err() {
			case context.Canceled:
				err = errors.New("interrupted")
			case context.DeadlineExceeded:
				err = fmt.Errorf("not done after %v: %w", demoTimeout, err)
			}
			fmt.Fprintf(std.out, "demo: FAILED: %s\n", oneLine(err.Error()))
			return errReported
		}
	},
}

const (
	demoTimeout = 45 * time.Second
	startLimit  = 10 * time.Second // for a server to print its address, or to end
	rounds      = 5                // handshakes of the libssl client; the table shows their median
	demoName    = "localhost"      // the server name that clients send and verify
)

var demoVersions = []struct{ flag, title string }{
	{"1.2", "TLS 1.2, by session id"},
	{"1.3", "TLS 1.3, with stateful tickets"},
}

// demo runs in its own temporary folder and removes it.
func demo(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "sslsess-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	f := &fleet{dir: dir, out: out}
	defer func() { err = errors.Join(err, f.stop()) }() // before the folder is removed

	if err := f.start(ctx); err != nil {
		return err
	}
	clients, closeClients, err := f.clients(out)
	if err != nil {
		return err
	}
	defer closeClients()

	// All sessions come from node1, so that its restart must not lose them.
	var rows []*demoRow
	for _, c := range clients {
		row := &demoRow{client: c}
		rows = append(rows, row)
		row.visit(ctx, f.nodes[0], "full")
		row.visit(ctx, f.nodes[1], "resumed")
		row.visit(ctx, f.nodes[2], "resumed")
	}
	if err := f.restart(ctx, 0); err != nil {
		return err
	}
	for _, row := range rows {
		row.visit(ctx, f.nodes[0], "resumed")
	}
	return printDemo(out, rows)
}

// ---- the servers --------------------------------------------------------------------

// fleet is the servers and the folder that they share.
type fleet struct {
	dir   string
	out   io.Writer
	nodes []*demoNode
}

type demoNode struct {
	name, addr string
	restarted  bool
	process    *os.Process // nil: not running
	stderr     *bytes.Buffer
	exited     chan error
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fleet) start(ctx context.Context) error {
	cert, key, err := selfSigned()
	if err != nil {
		return err
	}
	err = errors.Join(os.WriteFile(f.path("cert.pem"), cert, 0o600), os.WriteFile(f.path("key.pem"), key, 0o600))
	if err != nil {
		return err
	}
	fmt.Fprintf(f.out, "%s\none sqlite store, one certificate, three servers:\n", libssl.Version())
	for i := range 3 {
		n := &demoNode{name: fmt.Sprintf("node%d", i+1), addr: "127.0.0.1:0"}
		f.nodes = append(f.nodes, n)
		if err := f.launch(ctx, n); err != nil {
			return err
		}
		fmt.Fprintf(f.out, "  %s on %s, process %d\n", n.name, n.addr, n.process.Pid)
	}
	return nil
}

// launch starts a server process and waits until it listens.
func (f *fleet) launch(ctx context.Context, n *demoNode) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, "serve", "-listen", n.addr, "-node", n.name,
		"-cert", f.path("cert.pem"), "-key", f.path("key.pem"), "-store", "sqlite:"+f.path("sessions.db"))
	stderr, exited, line := &bytes.Buffer{}, make(chan error, 1), make(chan string, 1)
	cmd.Stderr = stderr
	endWithParent(cmd)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	n.process, n.stderr, n.exited = cmd.Process, stderr, exited
	go func() {
		r := bufio.NewReader(stdout)
		first, _ := r.ReadString('\n')
		line <- strings.TrimSpace(first)
		io.Copy(io.Discard, r)
		exited <- cmd.Wait()
	}()

	var first string
	select {
	case first = <-line:
	case <-time.After(startLimit):
		return fmt.Errorf("%s did not start listening", n.name)
	case <-ctx.Done():
		return ctx.Err()
	}
	addr, ok := strings.CutPrefix(first, "listening on ")
	if !ok {
		n.process.Kill()
		return fmt.Errorf("%s did not start: %w", n.name, n.wait())
	}
	n.addr = addr
	return nil
}

// wait returns how the process ended, with its standard error if it failed.
func (n *demoNode) wait() error {
	err := <-n.exited
	n.process = nil
	if err != nil && n.stderr.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, n.stderr)
	}
	return err
}

// restart kills a server, like a crash, and starts it again at the same address.
func (f *fleet) restart(ctx context.Context, i int) error {
	n := f.nodes[i]
	if err := n.process.Kill(); err != nil {
		return err
	}
	n.wait() // returns an error, because it was killed
	n.restarted = true
	if err := f.launch(ctx, n); err != nil {
		return err
	}
	fmt.Fprintf(f.out, "%s was killed (SIGKILL) and started again, process %d\n", n.name, n.process.Pid)
	return nil
}

// stop ends all servers, and kills those that do not end in time.
func (f *fleet) stop() error {
	var errs []error
	for _, n := range f.nodes {
		if p := n.process; p != nil {
			p.Signal(syscall.SIGTERM)
			defer time.AfterFunc(startLimit, func() { p.Kill() }).Stop()
		}
	}
	for _, n := range f.nodes {
		if n.process == nil {
			continue
		}
		if err := n.wait(); err != nil {
			errs = append(errs, fmt.Errorf("%s did not end well: %w", n.name, err))
		}
	}
	return errors.Join(errs...)
}

// ---- the clients --------------------------------------------------------------------

// demoClient makes a full handshake and keeps the session, or offers the session
// that it has kept.
type demoClient interface {
	name() string
	title() string
	full(ctx context.Context, addr string) (handshake, error)
	resume(ctx context.Context, addr string) (handshake, error)
}

type handshake struct {
	answer
	resumed bool          // as the client sees it
	took    time.Duration // 0 if unknown
}

func (f *fleet) clients(out io.Writer) (all []demoClient, closeAll func(), err error) {
	var own []*ownClient
	closeAll = func() {
		for _, c := range own {
			c.close()
		}
	}
	openssl, lookErr := exec.LookPath("openssl")
	for _, v := range demoVersions {
		ctx, err := newClientContext(f.path("cert.pem"), false, v.flag)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		c := &ownClient{heading: v.title, ssl: ctx}
		own = append(own, c)
		all = append(all, c)
		if lookErr == nil {
			all = append(all, &sClient{
				heading: v.title, openssl: openssl, version: "-tls" + strings.ReplaceAll(v.flag, ".", "_"),
				ca: f.path("cert.pem"), session: f.path("session-" + v.flag + ".pem"),
			})
		}
	}
	if lookErr != nil {
		fmt.Fprintln(out, "the openssl command is missing: only the libssl client runs")
	}
	return all, closeAll, nil
}

// ownClient is a client of package libssl.
type ownClient struct {
	heading string
	ssl     *libssl.Context
	session *libssl.Session
}

func (c *ownClient) name() string  { return "libssl" }
func (c *ownClient) title() string { return c.heading }

func (c *ownClient) close() {
	c.session.Release()
	c.ssl.Close()
}

func (c *ownClient) full(ctx context.Context, addr string) (handshake, error) {
	return c.median(ctx, addr, nil, func(v *visit) error {
		if v.Session == nil {
			return fmt.Errorf("no session was issued: %v", v.NoAnswer)
		}
		c.session.Release()
		c.session, v.Session = v.Session, nil
		return nil
	})
}

func (c *ownClient) resume(ctx context.Context, addr string) (handshake, error) {
	return c.median(ctx, addr, c.session, func(*visit) error { return nil })
}

// median makes a few handshakes and returns the one with the median time. It
// returns at once if a handshake is full but should resume, or the reverse.
func (c *ownClient) median(ctx context.Context, addr string, offer *libssl.Session, each func(*visit) error) (handshake, error) {
	var seen []handshake
	for range rounds {
		v, err := call(ctx, c.ssl, addr, demoName, offer)
		if err == nil && v.Answer.Node == "" {
			err = errors.Join(errors.New("no answer"), v.NoAnswer)
		}
		if err == nil {
			err = each(&v)
		}
		v.Session.Release()
		if err != nil {
			return handshake{}, err
		}
		h := handshake{answer: v.Answer, resumed: v.Resumed, took: v.Took}
		if v.Resumed != (offer != nil) {
			return h, nil
		}
		seen = append(seen, h)
	}
	slices.SortFunc(seen, func(a, b handshake) int { return int(a.took - b.took) })
	return seen[len(seen)/2], nil
}

// sClient is openssl s_client.
type sClient struct{ heading, openssl, version, ca, session string }

func (c *sClient) name() string  { return "s_client" }
func (c *sClient) title() string { return c.heading }

func (c *sClient) full(ctx context.Context, addr string) (handshake, error) {
	return c.run(ctx, addr, "-sess_out", c.session)
}

func (c *sClient) resume(ctx context.Context, addr string) (handshake, error) {
	return c.run(ctx, addr, "-sess_in", c.session)
}

var sClientSays = regexp.MustCompile(`(?m)^(New|Reused), `)

func (c *sClient) run(ctx context.Context, addr string, more ...string) (h handshake, err error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	args := append([]string{"s_client", "-connect", addr, "-servername", demoName, c.version,
		"-CAfile", c.ca, "-verify_return_error", "-ign_eof"}, more...)
	cmd := exec.CommandContext(ctx, c.openssl, args...)
	endWithParent(cmd)
	// s_client writes the HTTP answer to standard output, among its own lines.
	cmd.Stdin = strings.NewReader("GET / HTTP/1.1\r\nHost: " + demoName + "\r\nConnection: close\r\n\r\n")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return h, fmt.Errorf("openssl s_client: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	says := sClientSays.FindSubmatch(out)
	if says == nil {
		return h, errors.New("openssl s_client says neither New nor Reused")
	}
	h.resumed = string(says[1]) == "Reused"
	for line := range bytes.Lines(out) {
		if bytes.HasPrefix(line, []byte(`{"node"`)) {
			return h, json.Unmarshal(line, &h.answer)
		}
	}
	return h, errors.New("openssl s_client got no answer from the server")
}

// ---- results ------------------------------------------------------------------------

// demoRow is a client and its visits.
type demoRow struct {
	client demoClient
	cells  []demoCell
}

type demoCell struct {
	node, want string
	took       time.Duration
	problem    error
}

// visit connects the client to a node and checks whether the handshake is as
// wanted, "full" or "resumed".
func (r *demoRow) visit(ctx context.Context, n *demoNode, want string) {
	cell := demoCell{node: n.name, want: want}
	if n.restarted {
		cell.node += ", restarted"
	}
	var h handshake
	if want == "full" {
		h, cell.problem = r.client.full(ctx, n.addr)
	} else if r.cells[0].problem != nil {
		cell.problem = errors.New("there is no session to resume")
	} else {
		h, cell.problem = r.client.resume(ctx, n.addr)
	}
	switch {
	case cell.problem != nil:
	case h.Node != n.name:
		cell.problem = fmt.Errorf("%s answered", h.Node)
	case h.resumed != (want == "resumed"), h.Resumed != h.resumed, (h.ResumedFrom != "") != h.resumed:
		cell.problem = fmt.Errorf("not %s: resumed is %t at the client and %t at the server, from session %q", want, h.resumed, h.Resumed, h.ResumedFrom)
	}
	cell.took = h.took
	r.cells = append(r.cells, cell)
}

func (c demoCell) String() string {
	switch {
	case c.problem != nil:
		return "FAILED"
	case c.took == 0:
		return c.want
	}
	return fmt.Sprintf("%s %.2f ms", c.want, milliseconds(c.took))
}

// printDemo prints a table per TLS version and returns the first problem.
func printDemo(out io.Writer, rows []*demoRow) error {
	var first error
	title := ""
	tw := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		if r.client.title() != title {
			title = r.client.title()
			fmt.Fprintf(tw, "\n%s\n", title)
			fmt.Fprint(tw, "  client")
			for _, c := range r.cells {
				fmt.Fprintf(tw, "\t%s", c.node)
			}
			fmt.Fprintln(tw)
		}
		fmt.Fprintf(tw, "  %s", r.client.name())
		for _, c := range r.cells {
			fmt.Fprintf(tw, "\t%v", c)
			if c.problem != nil && first == nil {
				first = fmt.Errorf("%s: %s on %s: %w", title, r.client.name(), c.node, c.problem)
			}
		}
		fmt.Fprintln(tw)
	}
	fmt.Fprintf(tw, "\ntimes are medians of %d handshakes, seen by the client, without the TCP connection\n", rounds)
	return errors.Join(first, tw.Flush())
}

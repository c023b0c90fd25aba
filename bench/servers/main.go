// Command servers measures what a TLS connection costs servers that people run: nginx, HAProxy, httpd, and net/http on crypto/tls,
// beside servers of this repository. It prints Markdown tables. bench/servers/run.sh builds all that it needs and runs it.
//
// A connection is: TCP connect, handshake, GET, a small answer, close. The client is a C program (load/). The cost is the CPU
// time of all processes of the server, with that of Redis where the server keeps its sessions there. Each round samples the
// servers one after the other. A ratio to nginx is the median of the ratios of the rounds.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	var err error
	if len(os.Args) > 2 && os.Args[1] == "child" {
		err = child(os.Args[2], os.Args[3:])
	} else {
		err = bench()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "servers:", err)
		os.Exit(1)
	}
}

// The modes that -modes chooses from.
const (
	unpinned = "unpinned"
	pinned   = "pinned"
	latency  = "latency"
)

// row is one kind of connection.
type row struct{ name, title, version, kind string }

func (r row) String() string { return r.name }

var allRows = []row{
	{"full12", "full 1.2", "1.2", "full"},
	{"full13", "full 1.3", "1.3", "full"},
	{"res12id", "resumed 1.2 (ids)", "1.2", "resumed"},
	{"res13st", "resumed 1.3 (stateful)", "1.3", "resumed"},
}

// settings are what the flags say.
type settings struct {
	rounds, n, clients     int
	load, sslsess          string
	modes                  []string
	rows                   []row
	servers                []server
	serverCPUs, clientCPUs string // "": not pinned
}

func bench() error {
	s, err := parse()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	dir, err := os.MkdirTemp("", "servers")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	site, err := newSite(dir, s.sslsess)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n\n%s\n", environment(s.load), versions(s.servers))
	var failed error // a server that breaks does not take the others with it
	if slices.Contains(s.modes, unpinned) {
		all := *s
		all.serverCPUs, all.clientCPUs = "", ""
		failed = all.measure(ctx, site)
	}
	if s.needsCPUs() && ctx.Err() == nil {
		failed = errors.Join(failed, s.measure(ctx, site))
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return failed
}

func parse() (*settings, error) {
	s, all := new(settings), []string{unpinned, pinned, latency}
	flag.IntVar(&s.rounds, "rounds", 5, "samples of each server behind a figure")
	flag.IntVar(&s.n, "n", 2000, "connections in a sample")
	flag.IntVar(&s.clients, "clients", 8, "client threads, each with one connection at a time")
	modes := flag.String("modes", strings.Join(all, ","),
		"unpinned: CPU with server and client on all cores; pinned: CPU with the server on one core; latency: p99 of the pinned server at 70 % of its throughput")
	rows := flag.String("rows", list(allRows), "kinds of connections")
	servers := flag.String("servers", list(allServers), "servers; ratios need nginx")
	flag.StringVar(&s.serverCPUs, "server-cpus", "", "cores of the pinned server, as taskset -c takes them (default: the first one)")
	flag.StringVar(&s.clientCPUs, "client-cpus", "", "cores of its client (default: the others)")
	flag.StringVar(&s.load, "load", "", "the client, built from bench/servers/load")
	flag.StringVar(&s.sslsess, "sslsess", "", "the program built from cmd/sslsess")
	flag.Parse()
	if flag.NArg() > 0 || s.rounds < 1 || s.n < 1 || s.clients < 1 || s.load == "" || s.sslsess == "" {
		flag.Usage()
		os.Exit(2)
	}
	var err1, err2, err3, err4 error
	s.modes, err1 = choose(*modes, all, func(mode string) string { return mode })
	s.rows, err2 = choose(*rows, allRows, row.String)
	s.servers, err3 = choose(*servers, allServers, server.String)
	if s.needsCPUs() {
		s.serverCPUs, s.clientCPUs, err4 = chooseCPUs(s.serverCPUs, s.clientCPUs)
	}
	return s, errors.Join(err1, err2, err3, err4)
}

func (s *settings) needsCPUs() bool {
	return slices.Contains(s.modes, pinned) || slices.Contains(s.modes, latency)
}

func list[T fmt.Stringer](all []T) string {
	var names []string
	for _, x := range all {
		names = append(names, x.String())
	}
	return strings.Join(names, ",")
}

// choose returns the elements of all that a flag names, in the order of all.
func choose[T any](flagged string, all []T, name func(T) string) (chosen []T, err error) {
	wanted := strings.Split(flagged, ",")
	for _, x := range all {
		if slices.Contains(wanted, name(x)) {
			chosen = append(chosen, x)
			wanted = slices.DeleteFunc(wanted, func(w string) bool { return w == name(x) })
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("there is no %s", cmp.Or(strings.Join(wanted, ", "), `""`))
	}
	return chosen, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/libssl-go/libssl/bench/rig"
)

// In the mode latency, the client starts connections at this part of the saturated rate, on one of so many threads.
const (
	utilisation  = 0.7
	pacedThreads = 64
)

// settle is how long after the last answer the server's CPU time still counts.
const settle = 50 * time.Millisecond

// sample is what one run of the client measured.
type sample struct {
	cost, rate, p99  float64 // µs of CPU a connection; connections a second; s
	busy, clientBusy float64 // cores that server and client kept busy
}

// cell is one server in one row.
type cell struct{ server, row string }

// results are the samples of each cell, by round. A cell that failed is nil.
type results map[cell][]sample

// measure starts the servers, takes the samples of one or two modes and prints the tables.
func (s *settings) measure(ctx context.Context, at *site) (failed error) {
	cores := runtime.NumCPU()
	if s.serverCPUs != "" {
		cpus, err := expand(s.serverCPUs)
		if err != nil {
			return err
		}
		cores = len(cpus)
	}
	var all []*instance
	defer func() {
		for _, in := range all {
			in.stop()
		}
	}()
	broken := results{}
	for _, sv := range s.servers {
		in, err := startServer(ctx, sv, at, s.serverCPUs, cores)
		all = append(all, in)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s does not start: %w", sv.name, err))
			for _, r := range s.rows {
				broken[cell{sv.name, r.name}] = nil
			}
		}
	}
	saturated, err := s.inTurns(ctx, all, broken, func(in *instance, r row) (sample, error) {
		return s.sample(ctx, in, r, s.clients, 0)
	})
	failed = errors.Join(failed, err)
	if ctx.Err() != nil {
		return failed
	}
	if s.serverCPUs == "" || slices.Contains(s.modes, pinned) {
		s.printCosts(saturated)
	}
	if s.serverCPUs != "" && slices.Contains(s.modes, latency) {
		paced, err := s.inTurns(ctx, all, saturated, func(in *instance, r row) (sample, error) {
			rates := saturated.values(in.name, r.name, func(x sample) float64 { return x.rate })
			return s.sample(ctx, in, r, pacedThreads, utilisation*median(rates))
		})
		failed = errors.Join(failed, err)
		if ctx.Err() == nil {
			s.printLatencies(paced)
		}
	}
	return failed
}

// inTurns takes the rounds' samples of all cells but those that failed before. The servers of a row are sampled one after the
// other, in every second round backwards.
func (s *settings) inTurns(ctx context.Context, all []*instance, before results, take func(*instance, row) (sample, error)) (results, error) {
	got, failed := results{}, error(nil)
	for key, samples := range before {
		if samples == nil {
			got[key] = nil
		}
	}
	for round := range s.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d ...\n", round+1, s.rounds)
		order := slices.Clone(all)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, r := range s.rows {
			for _, in := range order {
				key := cell{in.name, r.name}
				if samples, tried := got[key]; in.lacks == r.name || tried && samples == nil {
					continue
				}
				x, err := take(in, r)
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				if err != nil {
					failed = errors.Join(failed, fmt.Errorf("%s, %s: %w", in.name, r.title, err))
					got[key] = nil
					continue
				}
				got[key] = append(got[key], x)
			}
		}
	}
	return got, failed
}

// sample runs the client against one server. It makes rate connections a second, or as many as it can if rate is 0.
func (s *settings) sample(ctx context.Context, in *instance, r row, threads int, rate float64) (x sample, err error) {
	host, port, err := net.SplitHostPort(in.addr)
	if err != nil {
		return x, err
	}
	args := []string{s.load, host, port, r.version, r.kind, strconv.Itoa(min(threads, s.n))}
	if s.clientCPUs != "" {
		args = append([]string{"taskset", "-c", s.clientCPUs}, args...)
	}
	client, err := rig.StartCoProcess(args[0], args[1:], nil)
	if err != nil {
		return x, err
	}
	defer context.AfterFunc(ctx, client.Kill)()
	if _, err := client.Ask("prime"); err != nil {
		return x, err
	}
	time.Sleep(settle)
	before, err := in.cpu()
	if err != nil {
		return x, errors.Join(err, client.Close())
	}
	answer, err := client.Ask(fmt.Sprintf("run %d %g", s.n, rate))
	if err != nil {
		return x, err
	}
	time.Sleep(settle)
	after, err := in.cpu()
	if err = errors.Join(err, client.Close()); err != nil {
		return x, err
	}
	used, err := spent(before, after)
	if err != nil {
		return x, err
	}
	return r.read(answer, used)
}

// read makes a sample of what the client answered. All connections must have resumed, or none, as the row says.
func (r row) read(answer string, used time.Duration) (x sample, err error) {
	var n, resumed int
	var secs, cpu, p50 float64
	if _, err := fmt.Sscan(answer, &n, &resumed, &secs, &cpu, &p50, &x.p99); err != nil {
		return x, fmt.Errorf("the client says %q: %w", answer, err)
	}
	wanted := 0
	if r.kind == "resumed" {
		wanted = n
	}
	if resumed != wanted {
		return x, fmt.Errorf("%d of %d connections resumed, not %d", resumed, n, wanted)
	}
	x.cost, x.rate = used.Seconds()*1e6/float64(n), float64(n)/secs
	x.busy, x.clientBusy = used.Seconds()/secs, cpu/secs
	return x, nil
}

// ---- cores ----

// chooseCPUs fills in the default cores of server and client: the first that this process may use, and the others.
func chooseCPUs(server, client string) (string, string, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "", "", err
	}
	_, rest, _ := strings.Cut(string(status), "\nCpus_allowed_list:")
	allowed, _, _ := strings.Cut(rest, "\n")
	free, err := expand(strings.TrimSpace(allowed))
	if err != nil {
		return "", "", err
	}
	if server == "" {
		server = free[0]
	}
	if client == "" {
		taken, err := expand(server)
		if err != nil {
			return "", "", err
		}
		free = slices.DeleteFunc(free, func(cpu string) bool { return slices.Contains(taken, cpu) })
		if client = strings.Join(free, ","); client == "" {
			return "", "", errors.New("no core is left for the client: -modes unpinned needs none of its own")
		}
	}
	return server, client, nil
}

// expand makes a list of single cores out of one such as 0,2-3.
func expand(cpus string) (each []string, err error) {
	for part := range strings.SplitSeq(cpus, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		for cpu := from; cpu <= to; cpu++ {
			each = append(each, strconv.Itoa(cpu))
		}
	}
	return each, nil
}

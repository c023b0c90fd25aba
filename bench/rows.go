package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/bench/rig"
	"github.com/libssl-go/libssl/store/memstore"
)

// rows is the table of targets, in its order.
func (s *session) rows() []row {
	idle := 20.0 // KB
	if opensslRelease() >= 4 {
		idle = 28
	}
	rows := []row{
		{"full12: CPU against C", target(1.35), target(1.15), false, s.againstC("full12")},
		{"full13: CPU against C", target(1.35), target(1.15), false, s.againstC("full13")},
		{"res13st through a store: CPU against C", target(1.35), target(1.1), false, s.againstC("res13st")},
		{"res12id through a store: CPU against C", target(2), target(1.3), false, s.againstC("res12id")},
		{"res12id over TCP: CPU against libp2p/go-openssl", target(0.65), target(0.5), false, s.againstLibp2p},
		{"res12id through a store: CPU against OpenSSL's internal cache", target(1.3), nil, false, s.memoryAgainstInternal("res12id")},
		{"res13st through a store: CPU against OpenSSL's internal cache", target(1.3), nil, false, s.memoryAgainstInternal("res13st")},
		{"res12id through Valkey: CPU against OpenSSL's internal cache", nil, nil, false, s.valkeyAgainstInternal("res12id")},
		{"res13st through Valkey: CPU against OpenSSL's internal cache", nil, nil, false, s.valkeyAgainstInternal("res13st")},
		{"res12id through Valkey: time added against a Get", target(1.1), nil, false, s.lookupLatency},
		{"bulk over TCP: MB per CPU second against crypto/tls", target(0.8), target(1), true, s.bulk},
	}
	for _, mode := range modes {
		rows = append(rows, row{mode + ": Go allocations, both ends", target(15), target(8), false,
			func() (measured, error) { return s.handshakeAllocs(mode) }})
	}
	rows = append(rows,
		row{"64-byte round trip: Go allocations", target(0), target(0), false, s.roundTripAllocs},
		row{"idle server connection: KB resident", target(idle), target(15), false, s.idleMemory},
	)
	for _, callback := range []string{"new", "get", "remove"} {
		rows = append(rows, row{"dispatch of a " + callback + " closure: time against a bare C-to-Go call",
			target(1.3), target(1.2), false, func() (measured, error) { return s.dispatchCost("BenchmarkDispatch/" + callback) }})
	}
	rows = append(rows, row{"dispatch of a new closure on a C thread: time against that on a Go thread",
		nil, nil, false, func() (measured, error) { return s.dispatchCost("BenchmarkDispatchOnThread") }})
	rows = append(rows,
		row{"12000 handshakes waiting on a stalled store: OS threads", target(40), nil, false, s.stalledStore},
		row{"12000 handshakes waiting on Valkey, 50 ms away: OS threads", target(40), nil, false, s.parkedOnValkey},
		row{"5 ms lookups, 100 in flight: throughput against a blocking closure", target(1.7), nil, true, s.slowLookups},
		row{"1 ms removals, 8 goroutines inserting: thousand inserts/s", target(100), nil, true, s.slowRemovals},
		row{"a million sessions put, evicted and purged: ms they stall a handshake", target(10), nil, false, s.storms},
		row{"10000 silent clients: KB resident each", target(idle), nil, false, s.silentRow(func(a silent) measured { return a.Each })},
		row{"10000 silent clients: p99 of a handshake beside them against before", target(3), nil, false, s.silentRow(func(a silent) measured { return a.Beside })},
		row{"10000 silent clients: s after HandshakeTimeout until the last is gone", target(1), nil, false, s.silentRow(func(a silent) measured { return a.Gone })},
	)
	for _, mode := range modes {
		rows = append(rows, row{mode + ": CPU against crypto/tls", nil, nil, false, s.againstCryptoTLS(mode)})
	}
	rows = append(rows, s.webRows()...)
	return append(rows,
		row{"res13st with a client certificate: CPU against crypto/tls", nil, nil, false, s.clientCertificates},
		row{"client with a cache, TLS 1.2 ticket: CPU of both ends against crypto/tls", nil, nil, false, s.clientCaches("full12")},
		row{"client with a cache, TLS 1.3 ticket: CPU of both ends against crypto/tls", nil, nil, false, s.clientCaches("full13")},
		row{"64-byte round trip over TCP: CPU against crypto/tls", nil, nil, false, s.roundTrips},
		row{"refused ClientHello over TCP: CPU against crypto/tls", nil, nil, false, s.refusals})
}

// ---- ratios ----

// inTurns takes the rounds' pairs of samples of a and b and returns the ratios a/b. a and b go first
// by turns, so that a machine that slows down favours neither.
func (s *session) inTurns(a, b func() (float64, error)) (measured, error) {
	var as, bs, ratios []float64
	for i := range s.rounds {
		var x, y float64
		var err1, err2 error
		if i%2 == 0 {
			x, err1 = a()
			y, err2 = b()
		} else {
			y, err2 = b()
			x, err1 = a()
		}
		if err := errors.Join(err1, err2); err != nil {
			return measured{}, err
		}
		as, bs, ratios = append(as, x), append(bs, y), append(ratios, x/y)
	}
	m := spread(ratios)
	m.Detail = fmt.Sprintf("%.4g : %.4g", spread(as).Median, spread(bs).Median)
	return m, nil
}

func spread(v []float64) measured {
	slices.Sort(v)
	at := func(q float64) float64 { // linear between the neighbours
		i, rest := int(q*float64(len(v)-1)), 0.0
		rest = q*float64(len(v)-1) - float64(i)
		if i+1 == len(v) {
			return v[i]
		}
		return v[i] + rest*(v[i+1]-v[i])
	}
	return measured{Q1: at(0.25), Median: at(0.5), Q3: at(0.75)}
}

func exactly(v float64, detail string) measured { return measured{v, v, v, detail} }

// rig returns the handshakes of one implementation, mode and transport, made once.
func (s *session) rig(implementation, mode string, transport func() (rig.Transport, error), kind string) (*rig.Rig, error) {
	key := implementation + mode + kind
	if r := s.rigs[key]; r != nil {
		return r, nil
	}
	stack := libsslStack
	if implementation != "libssl" {
		stack = cryptoStack
	}
	st, err := stack(mode, s.cert, s.key)
	if err != nil {
		return nil, err
	}
	r, err := rig.New(st, inFlight, transport)
	s.rigs[key] = r
	return r, err
}

// cost returns a function that takes one sample of CPU microseconds a handshake.
func (s *session) cost(r *rig.Rig) func() (float64, error) {
	return func() (float64, error) {
		smp, err := r.Run(s.sample)
		return smp.Cost(), err
	}
}

func (s *session) againstC(mode string) func() (measured, error) {
	return func() (measured, error) {
		if s.yardstick == nil {
			return skipped("the C program was not given")
		}
		r, err := s.rig("libssl", mode, rig.Memory, "memory")
		if err != nil {
			return measured{}, err
		}
		m, err := s.inTurns(s.cost(r), func() (float64, error) {
			smp, err := s.yardstick.Run(mode, 2, s.sample)
			return smp.Cost(), err
		})
		m.Detail += " us"
		return m, err
	}
}

func (s *session) againstLibp2p() (measured, error) {
	if s.libp2p == nil {
		return skipped(s.noLibp2p)
	}
	r, err := s.rig("libssl", "res12id", rig.TCP, "tcp")
	if err != nil {
		return measured{}, err
	}
	m, err := s.inTurns(s.cost(r), func() (float64, error) {
		smp, err := s.libp2p.Run("res12id", inFlight, s.sample)
		return smp.Cost(), err
	})
	m.Detail += " us"
	return m, err
}

func (s *session) againstCryptoTLS(mode string) func() (measured, error) {
	return func() (measured, error) {
		ours, err := s.rig("libssl", mode, rig.Memory, "memory")
		if err != nil {
			return measured{}, err
		}
		theirs, err := s.rig("crypto/tls", mode, rig.Memory, "memory")
		if err != nil {
			return measured{}, err
		}
		m, err := s.inTurns(s.cost(ours), s.cost(theirs))
		m.Detail += " us"
		return m, err
	}
}

// clientCertificates are resumptions by clients with a certificate, which libssl verifies again.
func (s *session) clientCertificates() (measured, error) {
	const mode = "res13st"
	server, client, err := libsslContexts(mode, s.cert, s.key)
	if err != nil {
		return measured{}, err
	}
	err = errors.Join(server.AddClientCAsPEM(s.cert), server.SetVerify(libssl.VerifyRequirePeer), client.UseCertificatePEM(s.cert, s.key))
	if err != nil {
		return measured{}, err
	}
	if _, err := server.UseStore(memstore.New(memstore.Options{}), nil); err != nil {
		return measured{}, err
	}
	theirs, theirClient, err := cryptoConfigs(mode, s.cert, s.key)
	if err != nil {
		return measured{}, err
	}
	theirs.ClientAuth, theirs.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	theirs.ClientCAs.AppendCertsFromPEM(s.cert)
	theirClient.Certificates = theirs.Certificates
	return s.stacksInTurns(rig.Memory, libsslHalves(server, client, true), cryptoHalves(theirs, theirClient, true))
}

// clientCaches are resumptions by clients with UseClientCache and with a ClientSessionCache. Both have a server of crypto/tls,
// with tickets.
func (s *session) clientCaches(mode string) func() (measured, error) {
	return func() (measured, error) {
		server, config, err := cryptoConfigs(mode, s.cert, s.key)
		if err != nil {
			return measured{}, err
		}
		server.SessionTicketsDisabled = false
		stack := func(newClient func() func(net.Conn) error) rig.Stack {
			return rig.Stack{Serve: func(nc net.Conn) error { return serve(tls.Server(nc, server), nil) }, NewClient: newClient}
		}
		return s.stacksInTurns(rig.Memory,
			stack(func() func(net.Conn) error { return libsslCaching(mode, s.cert, s.key) }),
			stack(func() func(net.Conn) error { return cryptoCaching(config) }))
	}
}

// stacksInTurns compares the costs of two stacks that no other row uses.
func (s *session) stacksInTurns(transport func() (rig.Transport, error), a, b rig.Stack) (measured, error) {
	var sides [2]func() (float64, error)
	for i, stack := range []rig.Stack{a, b} {
		r, err := rig.New(stack, inFlight, transport)
		if err != nil {
			return measured{}, err
		}
		defer r.Close()
		sides[i] = s.cost(r)
	}
	m, err := s.inTurns(sides[0], sides[1])
	m.Detail += " us"
	return m, err
}

// refusedHello is a record with a ClientHello that ends early.
var refusedHello = append([]byte{22, 3, 1, 0, 104, 1, 0, 0, 100}, make([]byte, 100)...)

// refusals are connections whose ClientHello is answered with an alert, which the client reads.
func (s *session) refusals() (measured, error) {
	ours, _, err := libsslContexts("full13", s.cert, s.key)
	if err != nil {
		return measured{}, err
	}
	theirs, _, err := cryptoConfigs("full13", s.cert, s.key)
	if err != nil {
		return measured{}, err
	}
	return s.stacksInTurns(rig.TCP,
		refusing(func(nc net.Conn) (tlsConn, error) { return libssl.Server(nc, ours) }),
		refusing(func(nc net.Conn) (tlsConn, error) { return tls.Server(nc, theirs), nil }))
}

func refusing(server func(nc net.Conn) (tlsConn, error)) rig.Stack {
	return rig.Stack{
		Serve: func(nc net.Conn) error {
			c, err := server(nc)
			if err != nil {
				return err
			}
			if c.Handshake() == nil {
				return errors.New("a broken ClientHello was accepted")
			}
			return c.Close()
		},
		NewClient: func() func(net.Conn) error { return sendRefused },
	}
}

func sendRefused(nc net.Conn) error {
	if _, err := nc.Write(refusedHello); err != nil {
		return err
	}
	answer, err := io.ReadAll(nc)
	if err == nil && (len(answer) == 0 || answer[0] != 21) {
		err = fmt.Errorf("no alert came: %x", answer)
	}
	return errors.Join(err, nc.Close())
}

// ---- established connections ----

func (s *session) bulk() (measured, error) {
	var sides [2]func() (float64, error)
	for i, implementation := range []string{"libssl", "crypto/tls"} {
		server, client, err := connected(implementation, s.cert, s.key)
		if err != nil {
			return measured{}, err
		}
		defer server.Close()
		defer client.Close()
		b := newBulk(server, client)
		sides[i] = func() (float64, error) { return b.rate(s.sample) }
	}
	m, err := s.inTurns(sides[0], sides[1])
	m.Detail += " MB/s"
	return m, err
}

// bulk moves data one way, in writes of 1 MiB; the reader reads as io.Copy does.
type bulk struct {
	to       io.Writer
	buf      []byte
	written  int64
	received atomic.Int64
	failed   chan error
}

func newBulk(to io.Writer, from io.Reader) *bulk {
	b := &bulk{to: to, buf: make([]byte, 1<<20), failed: make(chan error, 1)}
	go func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			b.received.Add(int64(n))
			if err != nil {
				b.failed <- err
				return
			}
		}
	}()
	return b
}

// send returns once everything has arrived.
func (b *bulk) send(more func() bool) error {
	for more() {
		n, err := b.to.Write(b.buf)
		b.written += int64(n)
		if err != nil {
			return err
		}
	}
	for b.received.Load() < b.written {
		select {
		case err := <-b.failed:
			return err
		case <-time.After(50 * time.Microsecond):
		}
	}
	return nil
}

// rate is MB per CPU second, both ends.
func (b *bulk) rate(d time.Duration) (float64, error) {
	before, cpu, until := b.written, rig.CPUTime(), time.Now().Add(d)
	err := b.send(func() bool { return time.Now().Before(until) })
	return float64(b.written-before) / 1e6 / (rig.CPUTime() - cpu).Seconds(), err
}

// echo sends back what comes in pieces of 64 bytes.
func echo(c io.ReadWriter) {
	buf := make([]byte, 64)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return
		}
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

func pingPong(c io.ReadWriter, buf []byte) error {
	if _, err := c.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(c, buf)
	return err
}

func (s *session) roundTrips() (measured, error) {
	var sides [2]func() (float64, error)
	for i, implementation := range []string{"libssl", "crypto/tls"} {
		server, client, err := connected(implementation, s.cert, s.key)
		if err != nil {
			return measured{}, err
		}
		defer server.Close()
		defer client.Close()
		go echo(server)
		buf := make([]byte, 64)
		sides[i] = func() (float64, error) {
			cpu, n := rig.CPUTime(), 0
			for until := time.Now().Add(s.sample); time.Now().Before(until); n++ {
				if err := pingPong(client, buf); err != nil {
					return 0, err
				}
			}
			return float64((rig.CPUTime() - cpu).Nanoseconds()) / 1e3 / float64(n), nil
		}
	}
	m, err := s.inTurns(sides[0], sides[1])
	m.Detail += " us"
	return m, err
}

// ---- allocations ----

func (s *session) roundTripAllocs() (measured, error) {
	server, client, err := connected("libssl", s.cert, s.key)
	if err != nil {
		return measured{}, err
	}
	defer server.Close()
	defer client.Close()
	go echo(server)
	buf := make([]byte, 64)
	const n = 5000
	allocs, bytes, err := allocations(n, func() error {
		for range n {
			if err := pingPong(client, buf); err != nil {
				return err
			}
		}
		return nil
	})
	return exactly(allocs, fmt.Sprintf("%.0f bytes", bytes)), err
}

func (s *session) handshakeAllocs(mode string) (measured, error) {
	r, err := s.rig("libssl", mode, rig.Memory, "memory")
	if err != nil {
		return measured{}, err
	}
	const n = 500
	handshakes := func() error { return r.Handshakes(n) }
	if err := handshakes(); err != nil { // the pools fill
		return measured{}, err
	}
	allocs, bytes, err := allocations(n, handshakes)
	if err != nil {
		return measured{}, err
	}
	server, err := serverAllocations(handshakes)
	return exactly(allocs, fmt.Sprintf("%.0f bytes; the server's half %.1f", bytes, server/n)), err
}

// allocations counts what f allocates, each of n times.
func allocations(n float64, f func() error) (count, bytes float64, err error) {
	var before, after runtime.MemStats
	runtime.GC() // a collection in the middle empties pools: begin far away from the next one
	runtime.ReadMemStats(&before)
	err = f()
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / n, float64(after.TotalAlloc-before.TotalAlloc) / n, err
}

// serverAllocations counts what f allocates on the goroutines that run the server's half. The heap
// profile, told to sample everything, knows who allocated what.
func serverAllocations(f func() error) (float64, error) {
	rate := runtime.MemProfileRate
	runtime.MemProfileRate = 1
	defer func() { runtime.MemProfileRate = rate }()
	before := serverObjects()
	err := f()
	return float64(serverObjects() - before), err
}

func serverObjects() (n int64) {
	// The profile is complete up to the last collection but one.
	runtime.GC()
	runtime.GC()
	records := make([]runtime.MemProfileRecord, 1000)
	for {
		n, ok := runtime.MemProfile(records, true)
		if ok {
			records = records[:n]
			break
		}
		records = make([]runtime.MemProfileRecord, n+n/2)
	}
	for i := range records {
		frames := runtime.CallersFrames(records[i].Stack())
		for {
			frame, more := frames.Next()
			if strings.HasSuffix(frame.Function, "rig.(*worker).serve") {
				n += records[i].AllocObjects
			}
			if !more {
				break
			}
		}
	}
	return n
}

// ---- one dispatch ----

// dispatchCost runs the benchmark in tests/internal/cref, which takes its samples in turns itself:
// calling from C needs a package with C in it.
func (s *session) dispatchCost(benchmark string) (measured, error) {
	if s.dispatch == "" {
		return skipped("the test binary was not given")
	}
	cmd := exec.Command(s.dispatch, "-test.run=^$", "-test.bench=^"+benchmark+"$",
		"-test.benchtime=100000x", "-test.count="+strconv.Itoa(s.rounds), "-test.cpu=2")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return measured{}, fmt.Errorf("%w\n%s", err, out)
	}
	figures := make(map[string][]float64)
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		for i := 1; i < len(fields); i++ {
			if v, err := strconv.ParseFloat(fields[i-1], 64); err == nil {
				figures[fields[i]] = append(figures[fields[i]], v)
			}
		}
	}
	if len(figures["ratio"]) != s.rounds {
		return measured{}, fmt.Errorf("no ratios in:\n%s", out)
	}
	m := spread(figures["ratio"])
	m.Detail = fmt.Sprintf("%.1f : %.1f ns", spread(figures["closure-ns"]).Median, spread(figures["yardstick-ns"]).Median)
	return m, nil
}

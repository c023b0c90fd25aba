package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/bench/rig"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/valkeystore"
	"github.com/libssl-go/libssl/ticket"
)

// The memory and the threads of a whole process are measured in a process of their own: this program
// again, run as "bench child NAME ARGS...". It prints its figures as JSON.

func child(name string, args []string) error {
	var m any
	var err error
	switch name {
	case "idle-client":
		return idleClient(args[0])
	case "silent-client":
		return silentClient(args[0])
	case "silent-server":
		m, err = silentServer()
	case "web-client":
		size, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return webClient(args[0], args[1], size)
	case "idle-server":
		m, err = idleServer(args[0])
	case "stalled-store":
		m, err = stalledStore(args)
	case "slow-lookups":
		m, err = slowLookups()
	case "slow-removals":
		m, err = slowRemovals()
	case "storms":
		m, err = storms()
	default:
		err = fmt.Errorf("no child is called %q", name)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(m)
}

func runChild(args ...string) (m measured, err error) {
	err = askChild(&m, args...)
	return m, err
}

// askChild runs a child that prints something other than one figure.
func askChild(answer any, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, append([]string{"child"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	return json.Unmarshal(out, answer)
}

// procStatus reads a number from /proc/self/status.
func procStatus(field string) (float64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == field+":" {
			return strconv.ParseFloat(f[1], 64)
		}
	}
	return 0, fmt.Errorf("/proc/self/status has no %s", field)
}

// ---- memory of an idle connection ----

func (s *session) idleMemory() (measured, error) {
	ours, err := runChild("idle-server", "libssl")
	if err != nil {
		return measured{}, err
	}
	theirs, err := runChild("idle-server", "crypto/tls")
	ours.Detail += fmt.Sprintf("; crypto/tls %.2f", theirs.Median)
	return ours, err
}

// idleServer measures what a connection adds to the resident memory. Each has made its handshake,
// sent a byte, and has a goroutine waiting in Read; the clients are another process.
func idleServer(implementation string) (measured, error) {
	const first, more = 100, 10000 // the first ones bring what is needed once

	accept, err := idleAcceptor(implementation)
	if err != nil {
		return measured{}, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return measured{}, err
	}
	var ended atomic.Pointer[error]
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				c, err := accept(nc)
				if err == nil {
					_, err = c.Write(oneByte)
				}
				if err == nil {
					_, err = c.Read(make([]byte, 1))
				}
				ended.Store(&err)
			}()
		}
	}()

	self, err := os.Executable()
	if err != nil {
		return measured{}, err
	}
	client, err := rig.StartCoProcess(self, []string{"child", "idle-client", l.Addr().String()}, nil)
	if err != nil {
		return measured{}, err
	}
	defer client.Close()
	before, err := residentWith(client, first)
	if err != nil {
		return measured{}, err
	}
	after, err := residentWith(client, more)
	if err != nil {
		return measured{}, err
	}
	if err := ended.Load(); err != nil {
		return measured{}, fmt.Errorf("a connection ended: %w", *err)
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	detail := fmt.Sprintf("%d connections; Go heap and stacks %.1f KB each", more,
		float64(mem.HeapAlloc+mem.StackInuse)/1024/(first+more))
	return exactly((after-before)/more, detail), nil
}

// idleAcceptor returns what makes a server's connection. It speaks TLS 1.3, the usual case.
func idleAcceptor(implementation string) (func(net.Conn) (net.Conn, error), error) {
	cert, key, err := certificate()
	if err != nil {
		return nil, err
	}
	if implementation == "libssl" {
		ctx, _, err := libsslContexts("full13", cert, key)
		return func(nc net.Conn) (net.Conn, error) { return libssl.Server(nc, ctx) }, err
	}
	conf, _, err := cryptoConfigs("full13", cert, key)
	return func(nc net.Conn) (net.Conn, error) { return tls.Server(nc, conf), nil }, err
}

// residentWith lets the client open n more connections and returns the resident memory in KB.
func residentWith(client *rig.CoProcess, n int) (float64, error) {
	if answer, err := client.Ask(strconv.Itoa(n)); err != nil || answer != "opened" {
		return 0, errors.Join(err, errors.New("client: "+answer))
	}
	time.Sleep(time.Second) // the last ones go to sleep, the pools' second collection comes after
	debug.FreeOSMemory()
	debug.FreeOSMemory()
	return procStatus("VmRSS")
}

// idleClient opens as many connections as it is told, line by line, and holds them.
func idleClient(addr string) error {
	var held sync.Map
	for {
		var n int
		if _, err := fmt.Scanln(&n); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var wg sync.WaitGroup
		var failed atomic.Pointer[error]
		slots := make(chan struct{}, 8)
		for range n {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
				if err == nil {
					_, err = io.ReadFull(c, make([]byte, 1))
				}
				if err != nil {
					failed.Store(&err)
					return
				}
				held.Store(c, nil)
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			return *err
		}
		fmt.Println("opened")
	}
}

// ---- a store that stalls ----

func (s *session) stalledStore() (measured, error) { return runChild("stalled-store") }

// gatedStore, once armed, keeps every Get waiting until so many wait and the stall is over.
type gatedStore struct {
	store.Store
	expected int64 // 0: not armed
	waiting  atomic.Int64
	stall    time.Duration
	open     chan struct{}
}

func (g *gatedStore) Get(ctx context.Context, id store.ID) (store.Record, error) {
	if g.expected > 0 {
		if g.waiting.Add(1) == g.expected {
			time.AfterFunc(g.stall, func() { close(g.open) })
		}
		select {
		case <-g.open:
		case <-ctx.Done():
			return store.Record{}, context.Cause(ctx)
		}
	}
	return g.Store.Get(ctx, id)
}

// stalledStore counts OS threads while TLS 1.2 handshakes wait for a store, all at once: one that stalls, or the one at a URL, which
// is asked by all of them at the same moment.
func stalledStore(url []string) (measured, error) {
	const n = 12000

	cert, key, err := certificate()
	if err != nil {
		return measured{}, err
	}
	server, client, err := libsslContexts("res12id", cert, key)
	if err != nil {
		return measured{}, err
	}
	gate := &gatedStore{Store: memstore.New(memstore.Options{}), stall: 4 * time.Second, open: make(chan struct{})}
	if len(url) > 0 {
		st, err := valkeystore.Open(url[0], valkeystore.Options{})
		if err != nil {
			return measured{}, err
		}
		defer st.Close()
		gate.Store, gate.stall = st, 0
	}
	if err := useRemote(server, gate); err != nil {
		return measured{}, err
	}
	session, err := firstSessionOf(server, client)
	if err != nil {
		return measured{}, err
	}

	gate.expected = n
	var w waiting
	w.start(n, libsslHalves(server, client, true), func(p *rig.Pipe) (bool, error) { return resume(p.Client(), client, session) })
	var threads, resident float64
	for start := time.Now(); w.over.Load() < 2*n; time.Sleep(5 * time.Millisecond) {
		now, err := procStatus("Threads")
		if err != nil {
			return measured{}, err
		}
		rss, err := procStatus("VmRSS")
		if err != nil {
			return measured{}, err
		}
		threads, resident = max(threads, now), max(resident, rss)
		if time.Since(start) > 2*time.Minute {
			return measured{}, fmt.Errorf("%d of %d waited, %d halves ended", gate.waiting.Load(), n, w.over.Load())
		}
	}
	if err := w.failed.Load(); err != nil {
		return measured{}, *err
	}
	if w.resumed.Load() != n {
		return measured{}, fmt.Errorf("%d of %d resumed", w.resumed.Load(), n)
	}
	return exactly(threads, fmt.Sprintf("all resumed; %.0f MB resident", resident/1024)), nil
}

// waiting counts the halves of connections that are under way at once.
type waiting struct {
	resumed, over atomic.Int64
	failed        atomic.Pointer[error]
}

// start begins n connections, both halves of each.
func (w *waiting) start(n int, halves rig.Stack, resume func(*rig.Pipe) (reused bool, err error)) {
	for range n {
		p := rig.NewPipe()
		go func() {
			defer w.over.Add(1)
			if err := halves.Serve(p.Server()); err != nil {
				p.Server().Close()
				w.failed.Store(&err)
			}
		}()
		go func() {
			defer w.over.Add(1)
			reused, err := resume(p)
			if err != nil {
				p.Client().Close()
				w.failed.Store(&err)
			}
			if reused {
				w.resumed.Add(1)
			}
		}()
	}
}

// useRemote is UseStore for a store that is no part of this process and may be slow.
func useRemote(ctx *libssl.Context, st store.Store) error {
	ring, err := ticket.NewRing()
	if err != nil {
		return err
	}
	_, err = ctx.UseStore(st, &libssl.StoreOptions{Keys: ring, LookupTimeout: time.Minute, PutTimeout: time.Minute})
	return err
}

// firstSessionOf makes one full handshake and returns the client's session.
func firstSessionOf(server, client *libssl.Context) (session *libssl.Session, err error) {
	p := rig.NewPipe()
	served := make(chan error, 1)
	go func() { served <- serve(libssl.Server(p.Server(), server)) }()
	c, err := libssl.Client(p.Client(), client, "localhost")
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	if err == nil {
		session, err = c.Session()
	}
	if err == nil {
		err = c.Close()
	}
	return session, errors.Join(err, <-served)
}

func resume(nc net.Conn, ctx *libssl.Context, session *libssl.Session) (reused bool, err error) {
	c, err := libssl.Client(nc, ctx, "localhost")
	if err != nil {
		return false, err
	}
	if err := c.SetSession(session); err != nil {
		return false, err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return false, err
	}
	return c.SessionReused(), c.Close()
}

// ---- slow look-ups ----

func (s *session) slowLookups() (measured, error) { return runChild("slow-lookups") }

// slowStore answers every Get after the delay.
type slowStore struct {
	store.Store
	delay time.Duration
}

func (s slowStore) Get(ctx context.Context, id store.ID) (store.Record, error) {
	select {
	case <-time.After(s.delay):
		return s.Store.Get(ctx, id)
	case <-ctx.Done():
		return store.Record{}, context.Cause(ctx)
	}
}

// slowLookups compares the throughput of handshakes parked at the ClientHello with that of a get
// handler that waits, and with it an OS thread.
func slowLookups() (measured, error) {
	const inFlight, delay = 100, 5 * time.Millisecond

	cert, key, err := certificate()
	if err != nil {
		return measured{}, err
	}
	var sides [2]func() (float64, error)
	var costs [2][]float64
	for i := range sides {
		server, client, err := libsslContexts("res12id", cert, key)
		if err != nil {
			return measured{}, err
		}
		if i == 0 {
			err = useRemote(server, slowStore{memstore.New(memstore.Options{}), delay})
		} else {
			err = useBlockingHandlers(server, delay)
		}
		if err != nil {
			return measured{}, err
		}
		r, err := rig.New(libsslHalves(server, client, true), inFlight, rig.Memory)
		if err != nil {
			return measured{}, err
		}
		sides[i] = func() (float64, error) {
			smp, err := r.Run(500 * time.Millisecond)
			costs[i] = append(costs[i], smp.Cost())
			return smp.Rate(), err
		}
	}
	s := session{rounds: 9}
	m, err := s.inTurns(sides[0], sides[1])
	if err != nil {
		return measured{}, err
	}
	m.Detail += fmt.Sprintf(" handshakes/s, %.0f : %.0f us CPU", spread(costs[0]).Median, spread(costs[1]).Median)
	return m, nil
}

// useBlockingHandlers keeps sessions as a C server would: DER in a map, and a get callback that
// comes back when it has the answer.
func useBlockingHandlers(ctx *libssl.Context, delay time.Duration) error {
	var sessions sync.Map
	ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
	ctx.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
		if der, err := s.MarshalBinary(); err == nil {
			sessions.Store(s.ID(), der)
		}
		return false
	})
	ctx.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		time.Sleep(delay)
		der, ok := sessions.Load(id)
		if !ok {
			return nil, libssl.Copy
		}
		s, err := libssl.ParseSession(der.([]byte))
		if err != nil {
			return nil, libssl.Copy
		}
		return s, libssl.Transfer
	})
	return ctx.SetSessionIDContext([]byte("bench"))
}

// ---- slow removals ----

func (s *session) slowRemovals() (measured, error) { return runChild("slow-removals") }

// forgetfulStore takes its time to delete.
type forgetfulStore struct {
	store.Store
	delay time.Duration
}

func (f forgetfulStore) Delete(ctx context.Context, id store.ID) error {
	time.Sleep(f.delay)
	return f.Store.Delete(ctx, id)
}

// slowRemovals counts insertions into OpenSSL's own cache while each evicts a session, and each
// eviction costs the store a millisecond. The store layer does not use that cache, but an
// application may still add to it.
func slowRemovals() (measured, error) {
	const goroutines, each, capacity = 8, 4000, 1000

	cert, key, err := certificate()
	if err != nil {
		return measured{}, err
	}
	der, id, err := someSession(cert, key)
	if err != nil {
		return measured{}, err
	}
	server, _, err := libsslContexts("res12id", cert, key)
	if err != nil {
		return measured{}, err
	}
	if err := useRemote(server, forgetfulStore{memstore.New(memstore.Options{}), time.Millisecond}); err != nil {
		return measured{}, err
	}
	server.SetSessionCacheSize(capacity)

	// Sessions that differ in their ids only, as many as make each one long evicted when it comes
	// round again.
	at := strings.Index(string(der), id)
	if at < 0 {
		return measured{}, errors.New("the id is not in the session's DER")
	}
	var sessions [goroutines][each]*libssl.Session
	for g := range sessions {
		for i := range sessions[g] {
			der[at], der[at+1], der[at+2] = byte(g), byte(i), byte(i>>8)
			if sessions[g][i], err = libssl.ParseSession(der); err != nil {
				return measured{}, err
			}
		}
	}
	start, until := time.Now(), time.Now().Add(2*time.Second)
	var inserted atomic.Int64
	var refused atomic.Int64
	var wg sync.WaitGroup
	for g := range sessions {
		wg.Go(func() {
			for i := 0; time.Now().Before(until); i++ {
				if ok, err := server.AddSession(sessions[g][i%each]); err != nil || !ok {
					refused.Add(1)
				}
				inserted.Add(1)
			}
		})
	}
	wg.Wait()
	rate := float64(inserted.Load()) / time.Since(start).Seconds()
	if n := refused.Load(); n > 0 {
		return measured{}, fmt.Errorf("%d of %d insertions refused", n, inserted.Load())
	}
	if full := server.Stats().CacheFull; int64(full) < inserted.Load()/2 {
		return measured{}, fmt.Errorf("only %d evictions in %d insertions", full, inserted.Load())
	}
	return exactly(rate/1000, ""), nil
}

// someSession returns a server's TLS 1.2 session and its id.
func someSession(cert, key []byte) (der []byte, id string, err error) {
	server, client, err := libsslContexts("res12id", cert, key)
	if err != nil {
		return nil, "", err
	}
	server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
	server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
		der, err = s.MarshalBinary()
		id = string(s.ID().Bytes())
		return false
	})
	if _, err := firstSessionOf(server, client); err != nil {
		return nil, "", err
	}
	return der, id, err
}

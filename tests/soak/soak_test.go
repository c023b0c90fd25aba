// Package soak runs everything at once for as long as it is told to, and accounts for all of it in the end.
package soak

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/storetest"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

var soakFor = flag.Duration("soak.for", 2*time.Second, "how long to go on")

const (
	serverName = "server.test"
	patience   = time.Minute // a handshake that takes longer hangs
	progress   = 5 * time.Second

	customersPerLane = 2
)

// tally counts what happened.
type tally struct {
	full, resumed  atomic.Int64
	aborted        atomic.Int64 // on purpose, in the handshake or after it
	early          atomic.Int64 // early data that was read
	storeFaults    atomic.Int64
	panics         atomic.Int64 // of handlers
	told           atomic.Int64 // CallbackErrors for them
	swaps, flushes atomic.Int64
	turnover       atomic.Int64 // Contexts that were closed while they served
	forgotSessions atomic.Int64
	evictions      atomic.Int64
	peakThreads    atomic.Int64

	mu      sync.Mutex
	failed  int64
	failure []string // the first of those that should not have
}

func (n *tally) fail(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failed++
	if len(n.failure) < 10 {
		n.failure = append(n.failure, fmt.Sprintf(format, args...))
	}
}

func (n *tally) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprintf("full %d, resumed %d, aborted %d, failed %d; early data %d, store faults %d, panics %d, swaps %d, "+
		"flushes %d, evictions %d, contexts replaced %d, sessions forgotten %d, threads at most %d",
		n.full.Load(), n.resumed.Load(), n.aborted.Load(), n.failed, n.early.Load(), n.storeFaults.Load(), n.panics.Load(),
		n.swaps.Load(), n.flushes.Load(), n.evictions.Load(), n.turnover.Load(), n.forgotSessions.Load(), n.peakThreads.Load())
}

// missing is what has to happen and has not happened yet.
func (n *tally) missing(lanes []*lane) (all []string) {
	count := func(what string, c *atomic.Int64) {
		if c.Load() == 0 {
			all = append(all, what)
		}
	}
	for _, l := range lanes {
		count(l.name+": full handshakes", &l.full)
		count(l.name+": resumed ones", &l.resumed)
	}
	count("aborted handshakes", &n.aborted)
	count("early data", &n.early)
	count("store faults", &n.storeFaults)
	count("panics", &n.panics)
	count("swaps", &n.swaps)
	count("flushes", &n.flushes)
	count("evictions", &n.evictions)
	count("replaced contexts", &n.turnover)
	count("forgotten sessions", &n.forgotSessions)
	return all
}

// lane is one kind of server, under its clients.
type lane struct {
	name    string
	version uint16
	make    func() *libssl.Context // another one of the kind
	current atomic.Pointer[libssl.Context]
	disturb func(ctx *libssl.Context) // may be nil
	early   bool                      // its sessions allow early data

	full, resumed atomic.Int64
}

func TestSoak(t *testing.T) {
	before := account{libssl.LiveResources(), cref.LiveSessions(), runtime.NumGoroutine()}
	n := &tally{}
	lanes := soak(t, n)
	t.Logf("%v: %v", *soakFor, n)
	for _, l := range lanes {
		t.Logf("%s: full %d, resumed %d", l.name, l.full.Load(), l.resumed.Load())
	}
	require.Empty(t, n.failure, "%d handshakes failed that should not have", n.failed)
	require.Empty(t, n.missing(lanes), "that was no soak")
	require.Equal(t, n.panics.Load(), n.told.Load(), "each panic is told once")
	require.LessOrEqual(t, n.peakThreads.Load(), int64(4*runtime.GOMAXPROCS(0)+32), "threads")
	before.live.ForgottenSessions += n.forgotSessions.Load()
	before.settle(t)
}

// account is what there is.
type account struct {
	live       libssl.Resources
	sessions   int // SSL_SESSIONs, by OpenSSL's own hooks
	goroutines int
}

// settle waits until there is no more than a. The collector has to find what was forgotten first.
func (a account) settle(t *testing.T) {
	t.Helper()
	var now account
	for range 1000 {
		runtime.GC()
		now = account{libssl.LiveResources(), cref.LiveSessions(), runtime.NumGoroutine()}
		if now.live == a.live && now.sessions == a.sessions && now.goroutines <= a.goroutines {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("left behind: %+v, expected %+v", now, a)
	stacks := make([]byte, 1<<20)
	t.Logf("%s", stacks[:runtime.Stack(stacks, true)])
}

func soak(t *testing.T, n *tally) []*lane {
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	f := &fleet{t: t, n: n, ca: tlstest.NewCA(t, "ca"), clients: map[uint16]*libssl.Context{}}
	defer f.close()
	f.cert, f.key = f.ca.Leaf(t, serverName)
	var err error
	f.keys, err = ticket.NewRing()
	require.NoError(t, err)
	lanes := f.lanes()

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var all sync.WaitGroup
	each := func(pause time.Duration, do func()) {
		all.Go(func() {
			for ctx.Err() == nil {
				do()
				if pause > 0 {
					select {
					case <-ctx.Done():
					case <-time.After(rand.N(2 * pause)):
					}
				}
			}
		})
	}
	for _, l := range lanes {
		l.current.Store(l.make())
		for range customersPerLane {
			c := &customer{fleet: f, lane: l}
			each(0, c.visit)
			defer c.drop()
		}
		if l.disturb != nil {
			each(2*time.Millisecond, func() { l.disturb(l.current.Load()) })
		}
		each(200*time.Millisecond, func() { f.replace(l) })
	}
	each(10*time.Millisecond, runtime.GC)
	each(10*time.Millisecond, func() { n.peakThreads.Store(max(n.peakThreads.Load(), threads())) })
	all.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(progress):
				fmt.Fprintln(os.Stderr, "soak:", n)
			}
		}
	})
	time.Sleep(*soakFor)
	for grace := time.Now().Add(patience); n.missing(lanes) != nil && time.Now().Before(grace); { // a busy machine
		time.Sleep(progress / 50)
	}
	stop()
	all.Wait()
	for _, l := range lanes {
		f.finish(l.current.Load())
	}
	return lanes
}

// threads counts the process's.
func threads() int64 {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0
	}
	return int64(len(tasks))
}

// ---- servers ------------------------------------------------------------------------

type fleet struct {
	t         *testing.T
	n         *tally
	ca        *tlstest.CA
	cert, key []byte
	keys      *ticket.Ring

	mu      sync.Mutex
	clients map[uint16]*libssl.Context
	ends    map[*libssl.Context]func() // what has to be done before one is closed
}

func (f *fleet) close() {
	for _, c := range f.clients {
		c.Close()
	}
}

func (f *fleet) client(version uint16) *libssl.Context {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.clients[version]; c != nil {
		return c
	}
	c, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(f.t, err)
	require.NoError(f.t, c.AddRootCAsPEM(f.ca.PEM))
	require.NoError(f.t, c.SetVersions(version, version))
	f.clients[version] = c
	return c
}

// server makes what all kinds have in common.
func (f *fleet) server(version uint16) *libssl.Context {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	if err == nil {
		err = errors.Join(ctx.UseCertificatePEM(f.cert, f.key), ctx.SetVersions(version, version),
			ctx.SetSessionIDContext([]byte("soak")))
	}
	if err != nil {
		panic(err)
	}
	ctx.OnCallbackError(func(e *libssl.CallbackError) {
		switch e.Value {
		case errOnPurpose:
			f.n.told.Add(1)
		case libssl.ErrClosed: // set on a Context that has just been replaced
		default:
			f.n.fail("%s handler: %v", e.Callback, e.Value)
		}
	})
	return ctx
}

// replace closes a lane's Context while it serves, and its store's cache first.
func (f *fleet) replace(l *lane) {
	f.finish(l.current.Swap(l.make()))
	f.n.turnover.Add(1)
}

func (f *fleet) finish(ctx *libssl.Context) {
	f.n.evictions.Add(int64(ctx.Stats().CacheFull))
	f.mu.Lock()
	end := f.ends[ctx]
	delete(f.ends, ctx)
	f.mu.Unlock()
	end()
	ctx.Close()
}

func (f *fleet) atEnd(ctx *libssl.Context, end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends[ctx] = end
}

func (f *fleet) lanes() (all []*lane) {
	f.ends = map[*libssl.Context]func(){}
	for _, v := range []struct {
		name    string
		version uint16
	}{{"1.2", tls.VersionTLS12}, {"1.3", tls.VersionTLS13}} {
		all = append(all,
			f.storeLane(v.name+" store", v.version, libssl.StoreOptions{Keys: f.keys}),
			f.storeLane(v.name+" store, single use, write behind", v.version,
				libssl.StoreOptions{Keys: f.keys, SingleUse: true, WriteBehind: true}),
			f.handlerLane(v.name+" handlers", v.version, false),
			f.handlerLane(v.name+" handlers and the internal cache", v.version, true),
		)
	}
	early := f.storeLane("early data", tls.VersionTLS13, libssl.StoreOptions{Keys: f.keys, SingleUse: true})
	early.early = true
	return append(all, early)
}

// ---- a store that fails --------------------------------------------------------------

var errFault = errors.New("the store fails on purpose")

// faulty is a store most of whose calls do what they should.
func (f *fleet) faulty() store.Store {
	mem := memstore.New(memstore.Options{MaxEntries: 2000})
	chance := func() int { return rand.IntN(100) }
	// fault is what goes wrong with a call, if anything does.
	fault := func(ctx context.Context) error {
		what := chance()
		if what > 5 {
			return nil
		}
		f.n.storeFaults.Add(1)
		switch what {
		case 0, 1:
			return errFault
		case 2:
			panic(errFault)
		case 3:
			<-ctx.Done()
			return ctx.Err()
		default: // late, and deaf to its context
			time.Sleep(time.Duration(chance()) * time.Millisecond)
			return nil
		}
	}
	// spoil is what an entry comes back as.
	spoil := func(rec store.Record, err error) (store.Record, error) {
		if what := chance(); err == nil && what < 3 && len(rec.Data) > 0 {
			f.n.storeFaults.Add(1)
			switch what {
			case 0:
				rec.Data[chance()%len(rec.Data)] ^= 0xff
			case 1:
				rec.Data = rec.Data[:chance()%len(rec.Data)]
			case 2:
				rec.Data = nil
			}
		}
		return rec, err
	}
	return &storetest.Faulty{
		Store: mem,
		OnGet: func(ctx context.Context, id store.ID) (store.Record, error) {
			if err := fault(ctx); err != nil {
				return store.Record{}, err
			}
			return spoil(mem.Get(ctx, id))
		},
		OnTake: func(ctx context.Context, id store.ID) (store.Record, error) {
			if err := fault(ctx); err != nil {
				return store.Record{}, err
			}
			return spoil(mem.Take(ctx, id))
		},
		OnPut: func(ctx context.Context, rec store.Record) error {
			return errors.Join(fault(ctx), mem.Put(ctx, rec)) // some are there although they failed
		},
		OnDelete: func(ctx context.Context, id store.ID) error {
			return errors.Join(fault(ctx), mem.Delete(ctx, id))
		},
	}
}

func (f *fleet) storeLane(name string, version uint16, opt libssl.StoreOptions) *lane {
	l := &lane{name: name, version: version}
	st := f.faulty()
	opt.OnError = func(error) {}
	l.make = func() *libssl.Context {
		ctx := f.server(version)
		cache, err := ctx.UseStore(st, &opt)
		if err == nil && l.early {
			err = ctx.SetMaxEarlyData(16384)
		}
		if err != nil {
			panic(err)
		}
		f.atEnd(ctx, func() {
			cache.Close(context.Background()) // what it lost on the way to a faulty store is no failure
		})
		return ctx
	}
	return l
}

// ---- handlers that panic ----------------------------------------------------------------

var errOnPurpose = errors.New("a handler panics on purpose")

// kept are sessions that handlers keep, live or in DER.
type kept struct {
	mu   sync.Mutex
	live map[libssl.SessionID]*libssl.Session
	der  map[libssl.SessionID][]byte

	ended bool
}

const maxKept = 500

// end releases what is kept. Connections that are still there keep nothing more.
func (k *kept) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.live {
		s.Release()
	}
	k.live, k.der, k.ended = nil, nil, true
}

// handlerLane has handlers that keep sessions: alive, and lent with Copy, where there is no internal cache; in DER, and
// given away, where there is one, since a live one that was evicted must not come back (SEMANTICS F3.7).
func (f *fleet) handlerLane(name string, version uint16, internal bool) *lane {
	l := &lane{name: name, version: version}
	l.make = func() *libssl.Context {
		ctx := f.server(version)
		ctx.SetOptions(libssl.OpNoTicket)
		if internal {
			ctx.SetSessionCacheMode(libssl.CacheServer)
			ctx.SetSessionCacheSize(8)
		} else {
			ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
		}
		k := &kept{live: map[libssl.SessionID]*libssl.Session{}, der: map[libssl.SessionID][]byte{}}
		f.handle(ctx, k, internal)
		f.atEnd(ctx, k.end)
		return ctx
	}
	l.disturb = func(ctx *libssl.Context) {
		switch what := rand.IntN(10); {
		case what == 0:
			ctx.FlushSessions(time.Time{})
			f.n.flushes.Add(1)
		case what == 1:
			ctx.FlushSessions(time.Now().Add(time.Hour * time.Duration(rand.IntN(3)-1)))
			f.n.flushes.Add(1)
		case what == 2:
			ctx.SetSessNewCallback(ctx.SessNewCallback())
		case what == 3:
			ctx.SetSessGetCallback(ctx.SessGetCallback())
		case what < 6:
			remove := ctx.SessRemoveCallback()
			ctx.SetSessRemoveCallback(nil)
			ctx.SetSessRemoveCallback(remove)
		default:
			get := ctx.SessGetCallback()
			ctx.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				return nil, libssl.Copy
			})
			ctx.SetSessGetCallback(get)
		}
		f.n.swaps.Add(1)
	}
	return l
}

func (f *fleet) handle(ctx *libssl.Context, k *kept, internal bool) {
	mayPanic := func() {
		if rand.IntN(20) == 0 {
			f.n.panics.Add(1)
			panic(errOnPurpose)
		}
	}
	ctx.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
		mayPanic()
		k.mu.Lock()
		defer k.mu.Unlock()
		id := s.ID()
		if k.ended {
			return false
		}
		if internal {
			if der, err := s.MarshalBinary(); err == nil && len(k.der) < maxKept {
				k.der[id] = der
			}
			return false
		}
		if len(k.live) >= maxKept || k.live[id] != nil {
			return false
		}
		k.live[id] = s
		return true
	})
	ctx.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		mayPanic()
		k.mu.Lock()
		defer k.mu.Unlock()
		if der := k.der[id]; der != nil {
			s, err := libssl.ParseSession(der)
			if err != nil {
				f.n.fail("%v", err)
			}
			return s, libssl.Transfer
		}
		if s := k.live[id]; s != nil && rand.IntN(2) == 0 {
			delete(k.live, id)
			return s, libssl.Transfer
		} else if s != nil {
			return s, libssl.Copy
		}
		return nil, libssl.Copy
	})
	ctx.SetSessRemoveCallback(func(ctx *libssl.Context, s *libssl.Session) {
		switch rand.IntN(20) {
		case 0:
			if r, err := s.Retain(); err == nil {
				defer r.Release()
			}
		case 1: // where the lock is held
			err := ctx.FlushSessions(time.Unix(1, 0))
			if err != nil && !errors.Is(err, libssl.ErrReentrant) && !errors.Is(err, libssl.ErrClosed) {
				f.n.fail("a flush by a remove handler: %v", err)
			}
		}
		mayPanic()
	})
}

// ---- customers ----------------------------------------------------------------------------

// customer visits one lane's servers, one after the other, as often as not with the session of the last visit.
type customer struct {
	*fleet
	lane *lane
	sess *libssl.Session
}

func (c *customer) drop() {
	c.sess.Release()
	c.sess = nil
}

// breaking is a transport that ends after so many bytes sent.
type breaking struct {
	net.Conn
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if len(p) <= b.left {
		b.left -= len(p)
		return b.Conn.Write(p)
	}
	b.Conn.Write(p[:b.left])
	b.left = 0
	b.Conn.Close()
	return 0, io.ErrClosedPipe
}

// How a visit ends.
const (
	politely      = iota
	cut           // the client's transport breaks, in the handshake or soon after it
	givenUp       // the server's handshake is given up
	serverAborts  // after the handshake
	clientForgets // its session, for the collector to find
)

func (c *customer) visit() {
	end := politely
	if rand.IntN(8) == 0 {
		end = 1 + rand.IntN(clientForgets)
	}
	cn, sn, err := tlstest.SocketPair()
	if err != nil {
		panic(err)
	}
	defer cn.Close()
	defer sn.Close()
	s, err := libssl.Server(sn, c.lane.current.Load())
	if errors.Is(err, libssl.ErrClosed) { // replaced this moment
		return
	} else if err != nil {
		panic(err)
	}
	defer s.Close()
	transport := cn
	if end == cut {
		transport = &breaking{Conn: cn, left: rand.IntN(1500)}
	}
	k, err := libssl.Client(transport, c.client(c.lane.version), serverName)
	if err != nil {
		panic(err)
	}
	defer k.Close()
	deadline := time.Now().Add(patience)
	k.SetDeadline(deadline)
	s.SetDeadline(deadline)
	offered := c.sess != nil && rand.IntN(4) > 0
	if offered {
		if err := k.SetSession(c.sess); err != nil {
			panic(err)
		}
	}

	served := make(chan error, 1)
	go func() { served <- c.serve(s, end) }()
	clientErr := c.ask(k, offered)
	if clientErr != nil {
		cn.Close()
	}
	serverErr := <-served
	switch {
	case clientErr == nil && serverErr == nil:
		if k.SessionReused() != s.SessionReused() {
			c.n.fail("%s: client resumed %v, server %v", c.lane.name, k.SessionReused(), s.SessionReused())
		}
		if k.SessionReused() {
			c.n.resumed.Add(1)
			c.lane.resumed.Add(1)
		} else {
			c.n.full.Add(1)
			c.lane.full.Add(1)
		}
		if end != politely && end != clientForgets {
			c.n.aborted.Add(1)
		}
		c.next(k, end)
	case end == cut || end == givenUp:
		c.n.aborted.Add(1)
	default:
		c.n.fail("%s, offered %v: client %v, server %v", c.lane.name, offered, clientErr, serverErr)
	}
	var both sync.WaitGroup
	both.Go(func() { k.Close() })
	if end == serverAborts {
		s.Abort()
	} else {
		s.Close()
	}
	both.Wait()
}

var question, answer = []byte("a question"), []byte("the answer")

// serve answers one question.
func (c *customer) serve(s *libssl.Conn, end int) (err error) {
	defer func() {
		if err != nil {
			s.NetConn().Close()
		}
	}()
	var got []byte
	for c.lane.early {
		b := make([]byte, len(question)+1)
		n, err := s.ReadEarlyData(b)
		if got = append(got, b[:n]...); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("early data: %w", err)
		}
	}
	if len(got) > 0 {
		c.n.early.Add(1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if end == givenUp {
		stop := time.AfterFunc(rand.N(3*time.Millisecond), cancel)
		defer stop.Stop()
	}
	if err := s.HandshakeContext(ctx); err != nil {
		return err
	}
	rest := make([]byte, max(0, len(question)-len(got)))
	if _, err := io.ReadFull(s, rest); err != nil {
		return err
	}
	if got = append(got, rest...); string(got) != string(question) {
		return fmt.Errorf("%w: %q", errOtherData, got)
	}
	_, err = s.Write(answer)
	return err
}

func (c *customer) ask(k *libssl.Conn, offered bool) (err error) {
	rest := question
	if c.lane.early && offered {
		n, err := k.WriteEarlyData(question)
		if err != nil && !errors.Is(err, libssl.ErrUnsupported) { // not every session allows it
			return err
		}
		if err := k.Handshake(); err != nil {
			return err
		}
		if k.EarlyDataAccepted() {
			rest = question[n:]
		}
	}
	if _, err := k.Write(rest); err != nil {
		return err
	}
	b := make([]byte, len(answer))
	if _, err := io.ReadFull(k, b); err != nil {
		return err
	}
	if string(b) != string(answer) {
		return fmt.Errorf("%w: %q", errOtherData, b)
	}
	return nil
}

var errOtherData = errors.New("data that nobody sent")

// next keeps the session for the next visit.
func (c *customer) next(k *libssl.Conn, end int) {
	if end == clientForgets && c.sess != nil {
		c.n.forgotSessions.Add(1)
	} else {
		c.sess.Release()
	}
	c.sess = nil
	sess, err := k.Session()
	if err != nil {
		c.n.fail("%s: %v", c.lane.name, err)
		return
	}
	if !sess.Resumable() {
		sess.Release() // no ticket has come
		return
	}
	c.sess = sess
}

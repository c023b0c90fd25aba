// Package chaos_test makes random calls in random configurations, all at once: handlers that panic, end their goroutine,
// answer nonsense, call back and close; setters; closed and forgotten Contexts; the collector. Nothing may crash, hang or be
// left behind. A failure prints the seed; scheduling still differs from run to run.
package chaos_test

import (
	"crypto/tls"
	"errors"
	"flag"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	chaosFor  = flag.Duration("chaos.for", time.Second, "how long each protocol version runs")
	chaosSeed = flag.Uint64("chaos.seed", 0, "the seed; 0 takes one from the clock")
)

const name = "server.test"

// world is everything that the actors share.
type world struct {
	t       *testing.T
	version uint16
	ca      *tlstest.CA
	certs   [2][2][]byte

	mu       sync.Mutex
	rand     *rand.Rand
	servers  [3]*libssl.Context
	clients  [2]*libssl.Context
	sessions []*libssl.Session // of handlers and clients; some are dead
	goexits  int
	before   int // what was live, because the Goexits of another world have abandoned it

	handshakes, resumed atomic.Int64
}

func (w *world) n(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.IntN(n)
}

func (w *world) one(in int) bool { return w.n(in) == 0 }

// keep takes over s, and gives one back in its place once there are many.
func (w *world) keep(s *libssl.Session) {
	if s == nil {
		return
	}
	w.mu.Lock()
	var old *libssl.Session
	if len(w.sessions) < 64 {
		w.sessions = append(w.sessions, s)
	} else {
		i := w.rand.IntN(len(w.sessions))
		old, w.sessions[i] = w.sessions[i], s
	}
	w.mu.Unlock()
	old.Release()
	if w.one(10) {
		old.Release() // twice
	}
}

// any returns a kept session, which another actor may release at any time, or nil.
func (w *world) any() *libssl.Session {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sessions) == 0 {
		return nil
	}
	return w.sessions[w.rand.IntN(len(w.sessions))]
}

func (w *world) server() *libssl.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.servers[w.rand.IntN(len(w.servers))]
}

func (w *world) client() *libssl.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clients[w.rand.IntN(len(w.clients))]
}

func (w *world) context() *libssl.Context {
	if w.one(3) {
		return w.client()
	}
	return w.server()
}

// newServer makes a server with a random configuration.
func (w *world) newServer() *libssl.Context {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(w.t, err)
	require.NoError(w.t, ctx.UseCertificatePEM(w.certs[0][0], w.certs[0][1]))
	require.NoError(w.t, ctx.SetVersions(w.version, w.version))
	require.NoError(w.t, ctx.SetSessionIDContext([]byte("chaos")))
	ctx.OnCallbackError(func(*libssl.CallbackError) {})
	if w.one(2) {
		ctx.SetOptions(libssl.OpNoTicket)
	}
	ctx.SetSessionCacheSize(w.n(4))
	if w.one(4) {
		_, err := ctx.UseStore(memstore.New(memstore.Options{}), nil)
		require.NoError(w.t, err)
		return ctx
	}
	modes := []libssl.CacheMode{libssl.CacheServer, libssl.CacheServer | libssl.CacheNoInternal,
		libssl.CacheServer | libssl.CacheNoInternalLookup, libssl.CacheServer | libssl.CacheNoAutoClear, libssl.CacheOff}
	ctx.SetSessionCacheMode(modes[w.n(len(modes))])
	w.setHandlers(ctx)
	return ctx
}

func (w *world) newClient() *libssl.Context {
	ctx, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(w.t, err)
	require.NoError(w.t, ctx.SetVerify(libssl.VerifyNone))
	require.NoError(w.t, ctx.SetVersions(w.version, w.version))
	ctx.OnCallbackError(func(*libssl.CallbackError) {})
	ctx.SetSessionCacheMode(libssl.CacheClient)
	w.setHandlers(ctx)
	return ctx
}

func (w *world) setHandlers(ctx *libssl.Context) {
	ctx.SetSessNewCallback(w.onNew)
	ctx.SetSessRemoveCallback(w.onRemove)
	ctx.SetSessGetCallback(w.onGet)
	ctx.SetServerNameCallback(w.onName)
}

// ---- handlers ---------------------------------------------------------------------------

func (w *world) onNew(ssl *libssl.SSL, s *libssl.Session) bool {
	w.misbehave(ssl)
	switch w.n(4) {
	case 0:
		w.keep(s)
		return true
	case 1:
		if r, err := s.Retain(); err == nil {
			w.keep(r)
		}
	case 2:
		s.Release() // lent
		ssl.Context().RemoveSession(s)
	}
	return false
}

func (w *world) onGet(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
	w.misbehave(ssl)
	w.mu.Lock()
	var found *libssl.Session
	for _, s := range w.sessions {
		if s.ID() == id {
			found = s
		}
	}
	w.mu.Unlock()
	switch w.n(4) {
	case 0:
		return w.any(), libssl.Transfer // perhaps a dead one
	case 1:
		return found, libssl.Transfer // others may still hold it
	}
	return found, libssl.Copy
}

func (w *world) onRemove(ctx *libssl.Context, s *libssl.Session) {
	switch w.n(10) {
	case 0:
		panic("remove")
	case 1:
		if r, err := s.Retain(); err == nil {
			w.keep(r)
		}
	case 2:
		_, err := ctx.RemoveSession(s)
		w.refused(err)
	case 3:
		if err := ctx.FlushSessions(time.Time{}); err != nil {
			w.refused(err)
		}
	case 4:
		ctx.SetSessRemoveCallback(w.onRemove)
	case 5:
		if d, err := s.Dup(); err == nil {
			w.keep(d)
		}
	}
}

// refused is how a Context answers a call from its own remove handler.
func (w *world) refused(err error) {
	assert.True(w.t, errors.Is(err, libssl.ErrReentrant) || errors.Is(err, libssl.ErrClosed), "%v", err)
}

func (w *world) onName(ssl *libssl.SSL, _ string) *libssl.Context {
	w.misbehave(ssl)
	if w.one(3) {
		return w.server() // perhaps a closed one
	}
	return nil
}

// misbehave is what any handler with an SSL may do.
func (w *world) misbehave(ssl *libssl.SSL) {
	conn, ctx := ssl.Conn(), ssl.Context()
	switch w.n(40) {
	case 0:
		panic("handler")
	case 1:
		if mayGoexit && w.one(20) {
			w.mu.Lock()
			w.goexits++
			w.mu.Unlock()
			runtime.Goexit()
		}
	case 2:
		conn.Close()
	case 3:
		conn.Abort()
	case 4:
		_, err := conn.Read(make([]byte, 1))
		assert.Error(w.t, err)
	case 5:
		conn.ConnectionState()
		conn.SessionReused()
	case 6:
		ctx.FlushSessions(time.Now())
	case 7:
		ctx.AddSession(w.any())
	case 8:
		w.set(ctx)
	}
}

// ---- actors -----------------------------------------------------------------------------

// set calls a setter that may be called at any time.
func (w *world) set(ctx *libssl.Context) {
	var err error
	switch w.n(8) {
	case 0:
		pair := w.certs[w.n(2)]
		err = ctx.UseCertificatePEM(pair[0], pair[1])
	case 1:
		err = ctx.AddClientCAsPEM(w.ca.PEM)
	case 2:
		err = ctx.SetALPN([][]string{nil, {"a"}, {"a", "b"}}[w.n(3)]...)
	case 3:
		err = ctx.SetSessionIDContext([]byte("chaos")[:5-w.n(10)/9])
	case 4:
		err = ctx.AddRootCAsPEM(w.ca.PEM)
	case 5:
		ctx.SetSessNewCallback(nil)
		ctx.SetSessGetCallback(nil)
	case 6:
		ctx.SetSessRemoveCallback(nil)
	case 7:
		w.setHandlers(ctx)
	}
	if err != nil {
		assert.ErrorIs(w.t, err, libssl.ErrClosed)
	}
}

// connect makes a connection, or fails to.
func (w *world) connect() {
	cn, sn, err := tlstest.TCPPair()
	if !assert.NoError(w.t, err) {
		return
	}
	defer cn.Close()
	defer sn.Close()
	s, err := libssl.Server(sn, w.server())
	if err != nil {
		assert.ErrorIs(w.t, err, libssl.ErrClosed)
		return
	}
	defer s.Close()
	c, err := libssl.Client(cn, w.client(), name)
	if err != nil {
		assert.ErrorIs(w.t, err, libssl.ErrClosed)
		return
	}
	defer c.Close()
	if offered := w.any(); offered != nil {
		c.SetSession(offered)
	}
	served := make(chan bool, 1)
	go func() {
		ok := false
		defer func() { served <- ok }() // also after a Goexit
		ok = answer(s)
	}()
	went := make(chan bool, 1)
	go func() {
		ok := false
		defer func() {
			if !ok {
				cn.Close()
			}
			went <- ok
		}()
		_, err := c.Write([]byte("x"))
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		ok = err == nil
	}()
	if !<-served {
		sn.Close()
	}
	if <-went {
		w.handshakes.Add(1)
		if c.SessionReused() {
			w.resumed.Add(1)
		}
		if own, err := c.Session(); err == nil {
			w.keep(own)
		}
	}
	if w.one(4) {
		s.Abort()
	}
}

func answer(s net.Conn) bool {
	b := make([]byte, 1)
	_, err := s.Read(b)
	if err == nil {
		_, err = s.Write(b)
	}
	return err == nil
}

// replace puts a new Context in the place of one, which is closed or forgotten.
func (w *world) replace() {
	fresh := w.newServer()
	w.mu.Lock()
	i := w.rand.IntN(len(w.servers))
	old := w.servers[i]
	w.servers[i] = fresh
	w.mu.Unlock()
	assert.NoError(w.t, old.Close())
}

func (w *world) act() {
	switch w.n(12) {
	case 0:
		w.set(w.context())
	case 1:
		w.server().AddSession(w.any())
	case 2:
		w.context().RemoveSession(w.any())
	case 3:
		w.context().FlushSessions(time.Time{})
	case 4:
		// Not of a session that may be in a cache: see F7.5.
		if d, err := w.any().Dup(); err == nil {
			d.SetTimeout(time.Duration(w.n(3)) * time.Second)
			w.keep(d)
		}
	case 5:
		w.any().Release()
	case 6:
		if w.one(5) {
			w.replace()
		}
	case 7:
		if w.one(10) {
			runtime.GC()
		}
	default:
		w.connect()
	}
}

func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("-chaos.seed=%d", seed)
				}
			}()
			w := &world{t: t, version: version, ca: tlstest.NewCA(t, "ca"), rand: rand.New(rand.NewPCG(seed, uint64(version))), before: live()}
			for i := range w.certs {
				w.certs[i][0], w.certs[i][1] = w.ca.Leaf(t, name)
			}
			for i := range w.clients {
				w.clients[i] = w.newClient()
			}
			for i := range w.servers {
				w.servers[i] = w.newServer()
			}
			w.run()
			w.end()
			t.Logf("%d connections, %d resumed", w.handshakes.Load(), w.resumed.Load())
			require.Positive(t, w.handshakes.Load())
		})
	}
}

// run lets actors act until the time is over.
func (w *world) run() {
	var actors sync.WaitGroup
	stop := time.Now().Add(*chaosFor)
	for range 6 {
		actors.Go(func() {
			for time.Now().Before(stop) {
				watch := time.AfterFunc(time.Minute, func() { panic("a call hangs") })
				w.act()
				watch.Stop()
			}
		})
	}
	actors.Wait()
}

func live() int {
	r := libssl.LiveResources()
	return r.Contexts + r.Conns + r.Sessions
}

// end gives everything back, and waits until nothing is left but what a Goexit has abandoned.
func (w *world) end() {
	for _, ctx := range append(w.servers[:], w.clients[:]...) {
		require.NoError(w.t, ctx.Close())
	}
	for _, s := range w.sessions {
		s.Release()
	}
	w.sessions = nil
	if w.goexits > 0 {
		return // what OpenSSL had in hand is never freed
	}
	for range 1000 {
		if live() <= w.before {
			return
		}
		runtime.GC() // what a panicking handler has kept
		time.Sleep(5 * time.Millisecond)
	}
	require.Fail(w.t, "left behind", "%d before, %+v", w.before, libssl.LiveResources())
}

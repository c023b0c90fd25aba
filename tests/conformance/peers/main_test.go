// Package peers_test asks libssl what the test suites of other programs with an external session cache ask of theirs.
// Each file has one of them: its clients and servers, in its order of events, through this module's public API.
package peers_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/storetest"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/internal/leftover"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

// TestMain fails a run that leaves anything behind.
func TestMain(m *testing.M) {
	os.Exit(leftover.Run(m, func() libssl.Resources { return forgotten }))
}

// forgotten counts what tests leave to the collector on purpose.
var forgotten libssl.Resources

// ---- ways to resume ---------------------------------------------------------------

type way struct {
	name    string
	version uint16
	options libssl.Options // of the server
}

var (
	ids12      = way{"1.2 ids", tls.VersionTLS12, libssl.OpNoTicket}
	tickets12  = way{"1.2 tickets", tls.VersionTLS12, 0}
	stateful13 = way{"1.3 stateful", tls.VersionTLS13, libssl.OpNoTicket}
	tickets13  = way{"1.3 tickets", tls.VersionTLS13, 0}

	lookups   = []way{ids12, stateful13}    // the server asks its cache for what the client offers
	stateless = []way{tickets12, tickets13} // the client holds the session
	everyWay  = []way{ids12, tickets12, stateful13, tickets13}
)

func each(t *testing.T, ways []way, test func(t *testing.T, h *host)) {
	t.Helper()
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) { test(t, newHost(t, w)) })
	}
}

// host is what the servers of one name have in common, and what their clients trust.
type host struct {
	way
	name      string
	ca        *tlstest.CA
	cert, key []byte
}

func newHost(t testing.TB, w way) *host {
	t.Helper()
	h := &host{way: w, name: "server.test", ca: tlstest.NewCA(t, "ca")}
	h.cert, h.key = h.ca.Leaf(t, h.name)
	return h
}

// setting changes a Context before its first connection.
type setting func(ctx *libssl.Context) error

// server makes a Context with the host's certificate that issues one ticket. Where the settings end with UseStore they
// are all in force by then.
func (h *host) server(t testing.TB, settings ...setting) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	require.NoError(t, ctx.UseCertificatePEM(h.cert, h.key))
	require.NoError(t, ctx.SetVersions(h.version, h.version))
	require.NoError(t, ctx.SetNumTickets(1))
	ctx.SetOptions(h.options)
	for _, set := range settings {
		require.NoError(t, set(ctx))
	}
	return ctx
}

// client makes a Context that trusts the host's CA and speaks its version only.
func (h *host) client(t testing.TB, settings ...setting) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	require.NoError(t, ctx.AddRootCAsPEM(h.ca.PEM))
	require.NoError(t, ctx.SetVersions(h.version, h.version))
	for _, set := range settings {
		require.NoError(t, set(ctx))
	}
	return ctx
}

func versions(min, max uint16) setting {
	return func(ctx *libssl.Context) error { return ctx.SetVersions(min, max) }
}

func idContext(sid string) setting {
	return func(ctx *libssl.Context) error { return ctx.SetSessionIDContext([]byte(sid)) }
}

func certificate(cert, key []byte) setting {
	return func(ctx *libssl.Context) error { return ctx.UseCertificatePEM(cert, key) }
}

func groups(list string) setting {
	return func(ctx *libssl.Context) error { return ctx.SetGroups(list) }
}

// demands asks clients for certificates of a CA.
func demands(m libssl.VerifyMode, ca *tlstest.CA) setting {
	return func(ctx *libssl.Context) error {
		return errors.Join(ctx.AddClientCAsPEM(ca.PEM), ctx.SetVerify(m))
	}
}

func verifyNone(ctx *libssl.Context) error { return ctx.SetVerify(libssl.VerifyNone) }

// node is a server with a store, with all the time it needs where opt sets no limit: the machine may be busy. Its
// cache is closed with the test at the latest.
func (h *host) node(t testing.TB, st store.Store, opt libssl.StoreOptions, settings ...setting) (*libssl.Context, *libssl.SessionCache) {
	t.Helper()
	if opt.LookupTimeout == 0 {
		opt.LookupTimeout = time.Minute
	}
	if opt.PutTimeout == 0 {
		opt.PutTimeout = time.Minute
	}
	ctx := h.server(t, settings...)
	sc, err := ctx.UseStore(st, &opt)
	require.NoError(t, err)
	t.Cleanup(func() { sc.Close(context.Background()) })
	return ctx, sc
}

// member is a server that shares the host's sessions: in a store, or as tickets under a ring. With tickets it has no cache.
func (h *host) member(t testing.TB, st store.Store, ring *ticket.Ring, settings ...setting) (*libssl.Context, *libssl.SessionCache) {
	t.Helper()
	if h.options&libssl.OpNoTicket != 0 {
		return h.node(t, st, libssl.StoreOptions{Keys: ring}, settings...)
	}
	ctx := h.server(t, settings...)
	require.NoError(t, ctx.UseTicketKeys(ring))
	return ctx, nil
}

func newRing(t testing.TB) *ticket.Ring {
	t.Helper()
	r, err := ticket.NewRing()
	require.NoError(t, err)
	return r
}

// shared is a store as a fleet has it, which may wait and needs a ring. Its hooks may be changed while it is used.
type shared struct {
	storetest.Faulty
	mem   *memstore.Store
	hooks [steps]atomic.Pointer[hook]
}

// step is when a hook runs. One that fails before the store's own work is in its place.
type step int

const (
	beforeGet step = iota
	afterGet
	beforeTake
	afterTake
	beforePut
	afterPut
	steps
)

type hook func(ctx context.Context) error

func newShared() *shared {
	s := &shared{mem: memstore.New(memstore.Options{})}
	s.Store = s.mem
	read := func(before step, f func(context.Context, store.ID) (store.Record, error)) func(context.Context, store.ID) (store.Record, error) {
		return func(ctx context.Context, id store.ID) (store.Record, error) {
			if err := s.run(ctx, before); err != nil {
				return store.Record{}, err
			}
			r, err := f(ctx, id)
			return r, errors.Join(err, s.run(ctx, before+1))
		}
	}
	s.OnGet, s.OnTake = read(beforeGet, s.mem.Get), read(beforeTake, s.mem.Take)
	s.OnPut = func(ctx context.Context, r store.Record) error {
		if err := s.run(ctx, beforePut); err != nil {
			return err
		}
		return errors.Join(s.mem.Put(ctx, r), s.run(ctx, afterPut))
	}
	return s
}

func (s *shared) run(ctx context.Context, at step) error {
	if f := s.hooks[at].Load(); f != nil {
		return (*f)(ctx)
	}
	return nil
}

// on sets what runs at some steps; nil is nothing.
func (s *shared) on(f hook, at ...step) {
	for _, at := range at {
		if f == nil {
			s.hooks[at].Store(nil)
		} else {
			s.hooks[at].Store(&f)
		}
	}
}

func ids(t testing.TB, st store.Lister) (all []store.ID) {
	t.Helper()
	require.NoError(t, st.List(t.Context(), func(id store.ID, _ int, _ time.Time) error {
		all = append(all, id)
		return nil
	}))
	return all
}

// notebook is an external cache as programs write it over the three callbacks: DER by id, answered as fresh objects.
type notebook struct {
	mu                  sync.Mutex
	der                 map[libssl.SessionID][]byte
	news, gets, removes int
}

func (n *notebook) on(ctx *libssl.Context) error {
	ctx.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
		der, err := s.MarshalBinary()
		n.mu.Lock()
		defer n.mu.Unlock()
		n.news++
		if err == nil {
			if n.der == nil {
				n.der = map[libssl.SessionID][]byte{}
			}
			n.der[s.ID()] = der
		}
		return false
	})
	ctx.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.gets++
		s, err := libssl.ParseSession(n.der[id])
		if err != nil {
			return nil, libssl.Copy
		}
		return s, libssl.Transfer
	})
	ctx.SetSessRemoveCallback(func(_ *libssl.Context, s *libssl.Session) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.removes++
		delete(n.der, s.ID())
	})
	ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
	return nil
}

func (n *notebook) calls() (news, gets, removes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.news, n.gets, n.removes
}

func parse(t testing.TB, der []byte) *libssl.Session {
	t.Helper()
	s, err := libssl.ParseSession(der)
	require.NoError(t, err)
	return s
}

func derOf(t testing.TB, s *libssl.Session) []byte {
	t.Helper()
	der, err := s.MarshalBinary()
	require.NoError(t, err)
	return der
}

// forged is sess with another secret, as a stranger has it who only saw the id or ticket pass.
func forged(t testing.TB, sess *libssl.Session) *libssl.Session {
	t.Helper()
	der, secret := derOf(t, sess), cref.MasterKey(sess.Pointer())
	require.NotEmpty(t, secret)
	require.Equal(t, 1, bytes.Count(der, secret))
	der[bytes.Index(der, secret)] ^= 1
	s := parse(t, der)
	t.Cleanup(s.Release)
	return s
}

// ---- connections ------------------------------------------------------------------

// tlsConn is what both libraries' connections are.
type tlsConn interface {
	net.Conn
	Handshake() error
	ConnectionState() tls.ConnectionState
}

// link is a connection between two ends.
type link struct {
	client, server       *libssl.Conn
	clientErr, serverErr error // what talk ended with
	resumed              bool  // by both ends' word, if talk went well
}

// open makes the ends, closed with the test at the latest; nothing has been sent. name and offer may be missing.
func open(t testing.TB, client, server *libssl.Context, name string, offer *libssl.Session) *link {
	t.Helper()
	l, err := connect(client, server, name, offer)
	require.NoError(t, err)
	t.Cleanup(l.close)
	return l
}

// connect is open for other goroutines than the test's.
func connect(client, server *libssl.Context, name string, offer *libssl.Session) (*link, error) {
	cn, sn, err := tlstest.TCPPair()
	if err != nil {
		return nil, err
	}
	return connectOver(cn, sn, client, server, name, offer)
}

func connectOver(cn, sn net.Conn, client, server *libssl.Context, name string, offer *libssl.Session) (l *link, err error) {
	l = &link{}
	if l.server, err = libssl.Server(sn, server); err != nil {
		return nil, errors.Join(err, cn.Close(), sn.Close())
	}
	if l.client, err = libssl.Client(cn, client, name); err != nil {
		return nil, errors.Join(err, l.server.Close(), cn.Close())
	}
	limit(l.client, l.server)
	if offer != nil {
		if err = l.client.SetSession(offer); err != nil {
			l.close()
			return nil, err
		}
	}
	return l, nil
}

func limit(conns ...net.Conn) {
	for _, c := range conns {
		c.SetDeadline(time.Now().Add(time.Minute))
	}
}

// talk handshakes and echoes a byte, which brings a TLS 1.3 client its tickets.
func (l *link) talk() error {
	l.clientErr, l.serverErr = talk(l.client, l.server)
	l.resumed = l.server.SessionReused()
	if err := errors.Join(l.clientErr, l.serverErr); err != nil {
		return err
	}
	if l.client.SessionReused() != l.resumed || l.server.ConnectionState().DidResume != l.resumed {
		return errors.New("the ends do not agree on whether they resumed")
	}
	return nil
}

func talk(client, server net.Conn) (clientErr, serverErr error) {
	served := make(chan error, 1)
	go func() { served <- echo(server) }()
	clientErr = ask(client)
	return clientErr, <-served
}

// ask sends a byte and waits for it. An end that fails says so to the other, who would wait for it.
func ask(c net.Conn) error {
	b := []byte{'x'}
	_, err := c.Write(b)
	if err == nil {
		_, err = c.Read(b)
	}
	return ended(c, err)
}

func echo(c net.Conn) error {
	b := make([]byte, 1)
	_, err := c.Read(b)
	if err == nil {
		_, err = c.Write(b)
	}
	return ended(c, err)
}

func ended(c net.Conn, err error) error {
	if err != nil {
		below := c.(interface{ NetConn() net.Conn }).NetConn()
		if half, ok := below.(interface{ CloseWrite() error }); ok {
			half.CloseWrite() // a plain Close could lose the alert
		} else {
			below.Close()
		}
	}
	return err
}

// close lets neither end wait for the other.
func (l *link) close() { closeBoth(l.client, l.server) }

func closeBoth(client, server net.Conn) {
	var both sync.WaitGroup
	both.Go(func() { client.Close() })
	server.Close()
	both.Wait()
}

// session is the client's, released with the test.
func (l *link) session(t testing.TB) *libssl.Session { return sessionOf(t, l.client) }

func sessionOf(t testing.TB, c *libssl.Conn) *libssl.Session {
	t.Helper()
	s, err := c.Session()
	require.NoError(t, err)
	t.Cleanup(s.Release)
	return s
}

// visit is a connection that went well: whether it resumed, by both ends' word, and the session it left the client.
func (h *host) visit(t testing.TB, client, server *libssl.Context, offer *libssl.Session) (resumed bool, next *libssl.Session) {
	t.Helper()
	l := open(t, client, server, h.name, offer)
	return l.visit(t)
}

func (l *link) visit(t testing.TB) (resumed bool, next *libssl.Session) {
	t.Helper()
	require.NoError(t, l.talk())
	next = l.session(t)
	l.close()
	return l.resumed, next
}

// refused is a connection that the server ended during its handshake.
func (h *host) refused(t testing.TB, client, server *libssl.Context, offer *libssl.Session) {
	t.Helper()
	l := open(t, client, server, h.name, offer)
	require.Error(t, l.talk())
	var failed *libssl.Error
	require.ErrorAs(t, l.serverErr, &failed)
	require.Equal(t, "handshake", failed.Op)
	require.Error(t, l.clientErr)
	l.close()
}

// ---- events -----------------------------------------------------------------------

func receive[T any](t testing.TB, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(time.Minute):
		require.FailNow(t, "waited too long", "for %s", what)
	}
	return v
}

func eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	require.Eventually(t, happened, time.Minute, time.Millisecond, what)
}

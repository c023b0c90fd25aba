package libssl_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/sqlitestore"
	"github.com/libssl-go/libssl/store/storetest"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

// fleet is a host served by several Contexts with one certificate, and a client
// of it.
type fleet struct {
	ca        *tlstest.CA
	cert, key []byte
	client    *libssl.Context
	version   uint16
	name      string
	tickets   int // a full handshake stores
}

func newFleet(t testing.TB, version uint16) *fleet {
	t.Helper()
	f := &fleet{ca: tlstest.NewCA(t, "ca"), version: version, name: serverName, tickets: 1}
	if version == tls.VersionTLS13 {
		f.tickets = 2
	}
	f.cert, f.key = f.ca.Leaf(t, serverName)
	f.client = newClient(t, f.ca)
	return f
}

func eachVersion(t *testing.T, test func(t *testing.T, f *fleet), only ...uint16) {
	for name, v := range versions {
		if len(only) > 0 && !slices.Contains(only, v) {
			continue
		}
		t.Run(name, func(t *testing.T) { test(t, newFleet(t, v)) })
	}
}

func (f *fleet) server(t testing.TB) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	require.NoError(t, ctx.UseCertificatePEM(f.cert, f.key))
	require.NoError(t, ctx.SetVersions(f.version, f.version))
	return ctx
}

// node is a server with a store. Its cache is closed with the test at the
// latest.
func (f *fleet) node(t testing.TB, st store.Store, opt *libssl.StoreOptions) (*libssl.Context, *libssl.SessionCache) {
	t.Helper()
	ctx := f.server(t)
	return ctx, useStore(t, ctx, st, opt)
}

// useStore gives the store all the time it needs where opt sets no limit: the
// machine may be busy.
func useStore(t testing.TB, ctx *libssl.Context, st store.Store, opt *libssl.StoreOptions) *libssl.SessionCache {
	t.Helper()
	var o libssl.StoreOptions
	if opt != nil {
		o = *opt
	}
	if o.LookupTimeout == 0 {
		o.LookupTimeout = time.Minute
	}
	if o.PutTimeout == 0 {
		o.PutTimeout = time.Minute
	}
	sc, err := ctx.UseStore(st, &o)
	require.NoError(t, err)
	t.Cleanup(func() { sc.Close(context.Background()) })
	return sc
}

func newRing(t testing.TB) *ticket.Ring {
	t.Helper()
	r, err := ticket.NewRing()
	require.NoError(t, err)
	return r
}

// visit is what came of a connection.
type visit struct {
	resumed   bool
	from      store.ID            // the server's ResumedFrom
	next      *libssl.Session     // the client's, for the next visit
	id        store.ID            // of the server's session
	idContext []byte              // likewise
	state     tls.ConnectionState // the server's
}

// visit connects, offering sess, which may be nil, and closes.
func (f *fleet) visit(t testing.TB, server *libssl.Context, sess *libssl.Session) visit {
	t.Helper()
	cn, sn := tcpPipe(t)
	return f.visitOver(t, cn, sn, server, sess)
}

func (f *fleet) visitOver(t testing.TB, cn, sn net.Conn, server *libssl.Context, sess *libssl.Session) visit {
	t.Helper()
	c, s := f.ends(t, cn, sn, server, sess)
	require.NoError(t, exchange(c, s))
	defer closeBoth(c, s)
	v := visit{resumed: s.SessionReused(), from: s.ResumedFrom(), state: s.ConnectionState()}
	require.Equal(t, v.resumed, c.SessionReused())
	require.Equal(t, v.resumed, v.state.DidResume)
	require.Equal(t, v.resumed, c.ConnectionState().DidResume)
	require.Zero(t, c.ResumedFrom())
	v.next = sessionOf(t, c)
	own := sessionOf(t, s)
	v.id, v.idContext = own.ID(), own.IDContext()
	return v
}

// ends makes both ends of a connection, closed with the test at the latest.
func (f *fleet) ends(t testing.TB, cn, sn net.Conn, server *libssl.Context, sess *libssl.Session) (c, s *libssl.Conn) {
	t.Helper()
	s, err := libssl.Server(sn, server)
	require.NoError(t, err)
	c, err = libssl.Client(cn, f.client, f.name)
	require.NoError(t, err)
	t.Cleanup(func() { closeBoth(c, s) })
	deadline := time.Now().Add(time.Minute)
	c.SetDeadline(deadline)
	s.SetDeadline(deadline)
	if sess != nil {
		require.NoError(t, c.SetSession(sess))
	}
	return c, s
}

// closeBoth lets neither end wait for the other.
func closeBoth(c, s *libssl.Conn) {
	var both sync.WaitGroup
	both.Go(func() { c.Close() })
	s.Close()
	both.Wait()
}

func sessionOf(t testing.TB, c *libssl.Conn) *libssl.Session {
	t.Helper()
	sess, err := c.Session()
	require.NoError(t, err)
	t.Cleanup(sess.Release)
	return sess
}

// Fields of a session's DER: the place of those without a tag, and 100 plus the
// tag of the others.
const (
	fieldID        = 3
	fieldSecret    = 4
	fieldIDContext = 104
	fieldTicket    = 110
)

// sessionField returns a field's content, which is part of der; nil if the
// session has none.
func sessionField(t testing.TB, der []byte, field int) []byte {
	t.Helper()
	var seq, v asn1.RawValue
	_, err := asn1.Unmarshal(der, &seq)
	require.NoError(t, err)
	for i, rest := 0, seq.Bytes; len(rest) > 0; i++ {
		rest, err = asn1.Unmarshal(rest, &v)
		require.NoError(t, err)
		if v.Class == asn1.ClassContextSpecific && 100+v.Tag == field {
			_, err = asn1.Unmarshal(v.Bytes, &v)
			require.NoError(t, err)
			return v.Bytes
		}
		if v.Class == asn1.ClassUniversal && i == field {
			return v.Bytes
		}
	}
	return nil
}

func derOf(t testing.TB, s *libssl.Session) []byte {
	t.Helper()
	der, err := s.MarshalBinary()
	require.NoError(t, err)
	return der
}

// storeID is the id a client's session is looked up by: in TLS 1.3 the ticket.
func storeID(t testing.TB, s *libssl.Session) store.ID {
	t.Helper()
	der := derOf(t, s)
	b := sessionField(t, der, fieldID)
	if s.Version() == tls.VersionTLS13 {
		b = sessionField(t, der, fieldTicket)
	}
	id, err := store.IDFromBytes(b)
	require.NoError(t, err)
	return id
}

// altered is sess with the last byte of a field changed.
func altered(t testing.TB, sess *libssl.Session, field int) *libssl.Session {
	t.Helper()
	der := derOf(t, sess)
	b := sessionField(t, der, field)
	require.NotEmpty(t, b)
	b[len(b)-1] ^= 1
	s, err := libssl.ParseSession(der)
	require.NoError(t, err)
	t.Cleanup(s.Release)
	return s
}

// forgedID is sess under an id that nobody issued.
func forgedID(t testing.TB, sess *libssl.Session) *libssl.Session {
	if sess.Version() == tls.VersionTLS13 {
		return altered(t, sess, fieldTicket)
	}
	return altered(t, sess, fieldID)
}

// spy is a memstore that counts, and does on demand what it should not. It is
// neither store.Local nor store.Embedded.
type spy struct {
	storetest.Faulty
	mem *memstore.Store

	mu                         sync.Mutex
	gets, puts, deletes, takes []store.ID
}

// newSpy makes one; hooks are to be set before it is used, and call s.mem for
// the truth.
func newSpy() *spy {
	mem := memstore.New(memstore.Options{})
	return &spy{mem: mem, Faulty: storetest.Faulty{Store: mem}}
}

func (s *spy) note(list *[]store.ID, id store.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*list = append(*list, id)
}

func (s *spy) Get(ctx context.Context, id store.ID) (store.Record, error) {
	s.note(&s.gets, id)
	return s.Faulty.Get(ctx, id)
}

func (s *spy) Put(ctx context.Context, r store.Record) error {
	s.note(&s.puts, r.ID)
	return s.Faulty.Put(ctx, r)
}

func (s *spy) Delete(ctx context.Context, id store.ID) error {
	s.note(&s.deletes, id)
	return s.Faulty.Delete(ctx, id)
}

func (s *spy) Take(ctx context.Context, id store.ID) (store.Record, error) {
	s.note(&s.takes, id)
	return s.Faulty.Take(ctx, id)
}

func (s *spy) asked(list *[]store.ID) []store.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]store.ID{}, *list...)
}

// ids are those of the records in the store.
func (s *spy) ids(t testing.TB) (all []store.ID) {
	t.Helper()
	require.NoError(t, s.mem.List(t.Context(), func(id store.ID, _ int, _ time.Time) error {
		all = append(all, id)
		return nil
	}))
	return all
}

func (s *spy) record(t testing.TB, id store.ID) store.Record {
	t.Helper()
	r, err := s.mem.Get(t.Context(), id)
	require.NoError(t, err)
	return r
}

// tap keeps what is written, write by write.
type tap struct {
	net.Conn
	mu     sync.Mutex
	writes [][]byte
}

func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	p.writes = append(p.writes, bytes.Clone(b))
	p.mu.Unlock()
	return p.Conn.Write(b)
}

func (p *tap) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.writes)
}

// hellos counts the ClientHellos in a client's stream: handshake records, in the
// clear, of message type 1.
func (p *tap) hellos() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for stream := bytes.Join(p.writes, nil); len(stream) > 5; {
		size := 5 + int(stream[3])<<8 + int(stream[4])
		if stream[0] == 22 && stream[5] == 1 {
			n++
		}
		stream = stream[min(size, len(stream)):]
	}
	return n
}

// heard collects what OnError is told.
type heard struct {
	mu   sync.Mutex
	errs []error
}

func (h *heard) hear(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.errs = append(h.errs, err)
}

func (h *heard) all() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.errs...)
}

// wait is for what happens on other goroutines.
func wait(t testing.TB, what string, happened func() bool) {
	t.Helper()
	require.Eventually(t, happened, time.Minute, time.Millisecond, what)
}

func receive[T any](t testing.TB, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(time.Minute):
		require.FailNow(t, "timeout", "waiting for %s", what)
	}
	return v
}

// ---- resuming -----------------------------------------------------------------

func TestStore_ResumesOnAnotherNode(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (a, b store.Store, opt *libssl.StoreOptions){
		"memstore": func(t *testing.T) (a, b store.Store, opt *libssl.StoreOptions) {
			m := memstore.New(memstore.Options{})
			return m, m, nil
		},
		"memstore and a ring": func(t *testing.T) (a, b store.Store, opt *libssl.StoreOptions) {
			m := memstore.New(memstore.Options{})
			return m, m, &libssl.StoreOptions{Keys: newRing(t)}
		},
		"sqlitestore": func(t *testing.T) (a, b store.Store, opt *libssl.StoreOptions) {
			path := filepath.Join(t.TempDir(), "sessions")
			var both [2]*sqlitestore.Store
			for i := range both {
				s, err := sqlitestore.Open(path)
				require.NoError(t, err)
				t.Cleanup(func() { s.Close() })
				both[i] = s
			}
			return both[0], both[1], &libssl.StoreOptions{LookupTimeout: time.Minute, PutTimeout: time.Minute}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				stA, stB, opt := open(t)
				a, cacheA := f.node(t, stA, opt)
				b, cacheB := f.node(t, stB, opt)
				first := f.visit(t, a, nil)
				require.False(t, first.resumed)
				require.Zero(t, first.from)
				require.EqualValues(t, f.tickets, cacheA.Stats().Stored)

				second := f.visit(t, b, first.next)
				require.True(t, second.resumed)
				require.Equal(t, storeID(t, first.next), second.from)
				stats := cacheB.Stats()
				require.EqualValues(t, 1, stats.Hits)
				require.EqualValues(t, 1, stats.Suspended)
				require.Zero(t, stats.Rejected+stats.Undecodable+stats.Errors+stats.Timeouts+stats.Misses)
				require.Zero(t, stats.Parked)

				third := f.visit(t, a, second.next) // 1.3: a session of B's making
				require.True(t, third.resumed)
				require.Equal(t, storeID(t, second.next), third.from)
				require.EqualValues(t, 1, cacheA.Stats().Hits)
			})
		})
	}
}

func TestStore_ResumesAfterAHelloRetryRequest(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("SingleUse=%t", single), func(t *testing.T) {
			st := newSpy()
			server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), SingleUse: single})
			require.NoError(t, server.SetGroups("P-256"))
			require.NoError(t, f.client.SetGroups("X25519:P-256"))
			first := f.visit(t, server, nil)
			var names atomic.Int32
			server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { names.Add(1); return nil })
			cn, sn := tcpPipe(t)
			sent := &tap{Conn: cn}
			second := f.visitOver(t, sent, sn, server, first.next)
			require.Equal(t, 2, sent.hellos())
			require.True(t, second.resumed)
			require.Equal(t, storeID(t, first.next), second.from)
			asked := &st.gets
			if single {
				asked = &st.takes
			}
			require.Equal(t, []store.ID{second.from}, st.asked(asked), "the second question is answered from memory")
			require.EqualValues(t, 1, cache.Stats().Hits, "one lookup")
			require.EqualValues(t, 2, cache.Stats().Suspended)
			require.EqualValues(t, 2, names.Load(), "once for each hello")
			require.Zero(t, cache.Stats().PutBack)
		})
	}
}

func TestStore_KeepsTheClientsCertificate(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		cert, key := f.ca.Leaf(t, "client.test")
		require.NoError(t, f.client.UseCertificatePEM(cert, key))
		st, ring := newSpy(), newRing(t)
		var nodes [2]*libssl.Context
		for i := range nodes {
			nodes[i] = f.server(t)
			require.NoError(t, nodes[i].AddClientCAsPEM(f.ca.PEM))
			require.NoError(t, nodes[i].SetVerify(libssl.VerifyRequirePeer))
			useStore(t, nodes[i], st, &libssl.StoreOptions{Keys: ring})
		}
		first := f.visit(t, nodes[0], nil)
		second := f.visit(t, nodes[1], first.next)
		require.True(t, second.resumed)
		block, _ := pem.Decode(cert)
		for _, v := range []visit{first, second} {
			require.NotEmpty(t, v.state.PeerCertificates)
			require.Equal(t, block.Bytes, v.state.PeerCertificates[0].Raw)
		}
	})
}

func TestStore_TicketsSwitchedOnAgain(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t)})
		require.Zero(t, server.ClearOptions(libssl.OpNoTicket)&libssl.OpNoTicket)
		first := f.visit(t, server, nil)
		require.True(t, first.next.HasTicket())
		second := f.visit(t, server, first.next)
		require.True(t, second.resumed)
		require.Zero(t, second.from)
		require.Empty(t, st.asked(&st.gets))
		require.Empty(t, st.asked(&st.puts))
		require.Zero(t, cache.Stats().Stored)
	})
}

// ---- storing -------------------------------------------------------------------

func TestStore_PutComesBeforeTheFlight(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		entered, release := make(chan struct{}, 8), make(chan struct{})
		st.OnPut = func(ctx context.Context, r store.Record) error {
			entered <- struct{}{}
			<-release
			return st.mem.Put(ctx, r)
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), PutTimeout: time.Minute})
		cn, sn := tcpPipe(t)
		sent := &tap{Conn: sn}
		c, s := f.ends(t, cn, sent, server, nil)
		done := make(chan error, 1)
		go func() { done <- exchange(c, s) }()

		receive(t, "the Put", entered)
		require.Equal(t, 1, sent.count(), "all but the flight with the id or ticket")
		if f.version == tls.VersionTLS12 {
			require.Error(t, c.CloseWrite(), "the client's handshake has not finished")
		}
		require.Empty(t, done)
		close(release)
		require.NoError(t, receive(t, "the handshake", done))
		require.EqualValues(t, f.tickets, cache.Stats().Stored)
		require.Equal(t, f.tickets, st.mem.Len())
		require.Contains(t, st.ids(t), storeID(t, sessionOf(t, c)))
	})
}

// What a handshake waits for its tickets to be stored does not grow with their number.
func TestStore_TicketsArePutAtOnce(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		var all sync.WaitGroup
		all.Add(f.tickets)
		st.OnPut = func(ctx context.Context, r store.Record) error {
			all.Done()
			all.Wait()
			return st.mem.Put(ctx, r)
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), PutTimeout: time.Minute})
		sess := f.visit(t, server, nil).next
		require.EqualValues(t, f.tickets, cache.Stats().Stored)
		require.Contains(t, st.ids(t), storeID(t, sess))
	})
}

func TestStore_WriteBehindDoesNotWait(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		release := make(chan struct{})
		st.OnPut = func(ctx context.Context, r store.Record) error {
			<-release
			return st.mem.Put(ctx, r)
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), PutTimeout: time.Minute, WriteBehind: true})
		first := f.visit(t, server, nil)
		require.True(t, first.next.Resumable())
		require.Zero(t, st.mem.Len())
		require.Zero(t, cache.Stats().Stored)
		require.Equal(t, f.tickets, cache.Stats().Queue)
		close(release)
		wait(t, "the queue to drain", func() bool { return cache.Stats().Queue == 0 })
		require.EqualValues(t, f.tickets, cache.Stats().Stored)
		require.True(t, f.visit(t, server, first.next).resumed)
	})
}

// ---- waiting -------------------------------------------------------------------

func threads(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc")
	}
	n, err := strconv.Atoi(string(regexp.MustCompile(`(?m)^Threads:\s+(\d+)`).FindSubmatch(b)[1]))
	require.NoError(t, err)
	return n
}

func TestStore_ParkedLookupsHoldNoThread(t *testing.T) {
	waiting := 2000
	if testing.Short() {
		waiting = 200
	}
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		var entered atomic.Int64
		release := make(chan struct{})
		st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
			entered.Add(1)
			<-release
			return st.mem.Get(ctx, id)
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), LookupTimeout: 10 * time.Minute})
		sess := f.visit(t, server, nil).next
		before := threads(t)

		failed := make(chan error, waiting)
		for range waiting {
			cn, sn := net.Pipe()
			c, s := f.ends(t, cn, sn, server, sess)
			c.SetDeadline(time.Time{})
			s.SetDeadline(time.Time{})
			go func() {
				// A pipe holds nothing: only one end may write at a time, and a
				// close_notify would wait for a reader.
				go s.Write([]byte{'x'})
				_, err := c.Read(make([]byte, 1))
				if err == nil && !(c.SessionReused() && s.SessionReused()) {
					err = errors.New("not resumed")
				}
				cn.Close()
				sn.Close()
				failed <- err
			}()
		}
		wait(t, "all lookups", func() bool { return int(entered.Load()) == waiting })
		require.Equal(t, waiting, cache.Stats().Parked)
		require.LessOrEqual(t, threads(t)-before, 4*runtime.GOMAXPROCS(0)+32)
		close(release)
		for range waiting {
			require.NoError(t, receive(t, "a handshake", failed))
		}
		require.Zero(t, cache.Stats().Parked)
		require.EqualValues(t, waiting, cache.Stats().Hits)
		require.LessOrEqual(t, threads(t)-before, 4*runtime.GOMAXPROCS(0)+32)
	})
}

// ---- bad answers -----------------------------------------------------------------

// issuance is a session with all that is known of it.
type issuance struct {
	sess *libssl.Session // the client's
	id   store.ID
	sid  []byte // the server's id context
	rec  store.Record
	der  []byte // the server's session
}

// issue makes a full handshake and opens what the store got of it.
func (f *fleet) issue(t testing.TB, server *libssl.Context, st *spy, seal *ticket.Ring) issuance {
	t.Helper()
	v := f.visit(t, server, nil)
	i := issuance{sess: v.next, id: storeID(t, v.next), sid: v.idContext}
	i.rec = st.record(t, i.id)
	der, _, err := libssl.OpenEntry(seal, i.id, i.sid, i.rec.Data)
	require.NoError(t, err)
	i.der = der
	return i
}

type count uint8

const (
	countMiss count = iota
	countRejected
	countUndecodable
)

// badAnswer holds answer, to the question for i, against a node: the handshake
// must be full, and counted as want.
func badAnswer(t *testing.T, f *fleet, opt libssl.StoreOptions, i issuance, want count,
	answer func() (store.Record, error)) {
	t.Helper()
	st := newSpy()
	st.OnGet = func(context.Context, store.ID) (store.Record, error) { return answer() }
	var errs heard
	opt.OnError = errs.hear
	server, cache := f.node(t, st, &opt)
	v := f.visit(t, server, i.sess)
	require.False(t, v.resumed)
	require.Equal(t, i.sid, v.idContext)
	require.Equal(t, []store.ID{i.id}, st.asked(&st.gets))
	require.Empty(t, st.asked(&st.deletes), "an entry that others may read stays where it is")
	require.NoError(t, errs.all())
	stats := cache.Stats()
	require.Equal(t, map[count]uint64{countMiss: 0, countRejected: 0, countUndecodable: 0, want: 1},
		map[count]uint64{countMiss: stats.Misses, countRejected: stats.Rejected, countUndecodable: stats.Undecodable},
		"misses, rejected, undecodable")
	require.Zero(t, stats.Hits+stats.Errors+stats.Timeouts+stats.Untagged)
	require.False(t, stats.Open)
}

func TestStore_BadAnswersAreMisses(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(map[bool]string{false: "sealed", true: "plaintext"}[plain], func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				opt := libssl.StoreOptions{Keys: newRing(t), Plaintext: plain}
				seal, otherSeal := opt.Keys, newRing(t)
				if plain {
					seal, otherSeal = nil, nil
				}
				st := newSpy()
				server, _ := f.node(t, st, &opt)
				i, other := f.issue(t, server, st, seal), f.issue(t, server, st, seal)
				require.Equal(t, i.sid, other.sid)
				now := time.Now()

				// with answers under the right name with these bytes, craft with a
				// good entry around this session.
				with := func(data []byte) func() (store.Record, error) {
					return func() (store.Record, error) {
						return store.Record{ID: i.id, Data: bytes.Clone(data), Expires: now.Add(time.Hour)}, nil
					}
				}
				craft := func(der []byte) func() (store.Record, error) {
					return with(libssl.SealEntry(seal, i.id, i.sid, now, der))
				}
				edited := func(field int) []byte {
					der := bytes.Clone(i.der)
					b := sessionField(t, der, field)
					b[len(b)-1] ^= 1
					return der
				}
				stale := func() []byte {
					s, err := libssl.ParseSession(i.der)
					require.NoError(t, err)
					defer s.Release()
					require.NoError(t, s.SetTime(now.Add(-48*time.Hour)))
					return derOf(t, s)
				}
				otherVersion := newFleet(t, tls.VersionTLS12+tls.VersionTLS13-f.version)
				otherVersion.ca, otherVersion.cert, otherVersion.key = f.ca, f.cert, f.key
				otherVersion.client = f.client
				stOther := newSpy()
				serverOther, _ := otherVersion.node(t, stOther, &opt)
				iOther := otherVersion.issue(t, serverOther, stOther, seal)
				require.Equal(t, i.sid, iOther.sid)
				copy(sessionField(t, iOther.der, fieldID), i.id.Bytes()) // so that nothing else is wrong with it

				kind := i.rec.Data[0]
				for name, tt := range map[string]struct {
					answer func() (store.Record, error)
					want   count
				}{
					"absent":                   {func() (store.Record, error) { return store.Record{}, store.ErrNotFound }, countMiss},
					"absent, wrapped":          {func() (store.Record, error) { return store.Record{}, fmt.Errorf("x: %w", store.ErrNotFound) }, countMiss},
					"nothing":                  {func() (store.Record, error) { return store.Record{}, nil }, countRejected},
					"empty":                    {with(nil), countRejected},
					"garbage":                  {with(append([]byte{kind}, bytes.Repeat([]byte{0x5a}, 300)...)), countRejected},
					"garbage of another kind":  {with(bytes.Repeat([]byte{0x5a}, 300)), countUndecodable},
					"a byte more":              {with(append(bytes.Clone(i.rec.Data), 0)), countRejected},
					"another's entry":          {with(other.rec.Data), countRejected},
					"another's record":         {func() (store.Record, error) { return other.rec, nil }, countRejected},
					"another's session":        {craft(other.der), countRejected},
					"another version's":        {craft(iOther.der), countRejected},
					"another id context":       {with(libssl.SealEntry(seal, i.id, []byte("x"), now, i.der)), countRejected},
					"another context within":   {craft(edited(fieldIDContext)), countRejected},
					"another id within":        {craft(edited(fieldID)), countRejected},
					"expired":                  {craft(stale()), countRejected},
					"beyond its lifetime":      {with(libssl.SealEntry(seal, i.id, i.sid, now.Add(-25*time.Hour), i.der)), countRejected},
					"no session":               {craft(nil), countUndecodable},
					"not DER":                  {craft(bytes.Repeat([]byte{0x5a}, 200)), countUndecodable},
					"bytes after the session":  {craft(append(bytes.Clone(i.der), 0)), countUndecodable},
					"plaintext for sealed":     {with(libssl.SealEntry(otherSealed(seal, newRing(t)), i.id, i.sid, now, i.der)), countUndecodable},
					"1 MB of garbage":          {with(append([]byte{kind}, make([]byte, 1<<20)...)), countRejected},
					"1 MB of another kind":     {with(make([]byte, 1<<20)), countRejected},
					"1 MB around the session":  {craft(append(bytes.Clone(i.der), make([]byte, 1<<20)...)), countRejected},
					"a cipher nobody knows of": {craft(bytes.Replace(i.der, cipherField(t, i.der), []byte{4, 2, 0xfe, 0xfe}, 1)), countUndecodable},
				} {
					t.Run(name, func(t *testing.T) { badAnswer(t, f, opt, i, tt.want, tt.answer) })
				}
				if !plain {
					t.Run("unknown key", func(t *testing.T) {
						badAnswer(t, f, opt, i, countUndecodable, with(libssl.SealEntry(otherSeal, i.id, i.sid, now, i.der)))
					})
				}
				t.Run("the good one", func(t *testing.T) { // so that the others fail for their reason
					good := newSpy()
					good.OnGet = func(context.Context, store.ID) (store.Record, error) { return craft(i.der)() }
					server, _ := f.node(t, good, &opt)
					require.True(t, f.visit(t, server, i.sess).resumed)
				})
			})
		})
	}
}

// otherSealed is the kind of entry that is not wanted: ring where seal is nil,
// and the reverse.
func otherSealed(seal, ring *ticket.Ring) *ticket.Ring {
	if seal == nil {
		return ring
	}
	return nil
}

// cipherField is the cipher suite's field, header included.
func cipherField(t testing.TB, der []byte) []byte {
	b := sessionField(t, der, 2)
	require.Len(t, b, 2)
	return append([]byte{4, 2}, b...)
}

func TestStore_TruncatedAndFlippedAnswers(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		ring := newRing(t)
		for name, plain := range map[string]bool{"sealed": false, "plaintext": true} {
			t.Run(name, func(t *testing.T) {
				opt := &libssl.StoreOptions{Keys: ring, Plaintext: plain}
				seal := ring
				if plain {
					seal = nil
				}
				st := newSpy()
				server, cache := f.node(t, st, opt)
				i := f.issue(t, server, st, seal)
				var data []byte
				answering := newSpy()
				answering.OnGet = func(context.Context, store.ID) (store.Record, error) {
					return store.Record{ID: i.id, Data: bytes.Clone(data), Expires: time.Now().Add(time.Hour)}, nil
				}
				server, cache = f.node(t, answering, opt)
				full := func(what string, n int) {
					require.False(t, f.visit(t, server, i.sess).resumed, what, n)
				}
				step := 1
				if testing.Short() {
					step = 13
				}
				for n := 0; n < len(i.rec.Data); n += step {
					data = i.rec.Data[:n]
					full("cut to %d bytes", n)
				}
				for bit := 0; bit < 8*len(i.rec.Data); bit += 37 {
					data = bytes.Clone(i.rec.Data)
					data[bit/8] ^= 1 << (bit % 8)
					full("bit %d changed", bit)
				}
				stats := cache.Stats()
				require.Zero(t, stats.Hits+stats.Errors)
				for n := 0; n < len(i.der); n += step { // cut before it was sealed
					data = libssl.SealEntry(seal, i.id, i.sid, time.Now(), i.der[:n])
					full("session cut to %d bytes", n)
				}
				require.Zero(t, cache.Stats().Hits)
				// Changed before it was sealed: whoever can do that has the key. It may
				// fail the handshake, and must not do worse.
				for bit := 0; bit < 8*len(i.der); bit += 5 * step {
					der := bytes.Clone(i.der)
					der[bit/8] ^= 1 << (bit % 8)
					data = libssl.SealEntry(seal, i.id, i.sid, time.Now(), der)
					cn, sn := tcpPipe(t)
					c, s := f.ends(t, cn, sn, server, i.sess)
					failed := make(chan error, 1)
					go func() {
						_, err := s.Write([]byte{'x'})
						if err != nil {
							s.NetConn().Close()
						}
						failed <- err
					}()
					if _, err := c.Read(make([]byte, 1)); err != nil {
						c.NetConn().Close()
					}
					<-failed
					closeBoth(c, s)
				}
			})
		}
	})
}

func TestStore_LeavesWhatItCannotReadToOthers(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for _, single := range []bool{false, true} {
			older := newRing(t)
			var text bytes.Buffer
			older.WriteTo(&text)
			newer, err := ticket.ParseRing(text.Bytes())
			require.NoError(t, err)
			require.NoError(t, newer.Rotate()) // seals with a key that the older one lacks
			st := newSpy()
			a, _ := f.node(t, st, &libssl.StoreOptions{Keys: newer, SingleUse: single})
			b, cacheB := f.node(t, st, &libssl.StoreOptions{Keys: older, SingleUse: single})
			i := f.issue(t, a, st, newer)
			require.False(t, f.visit(t, b, i.sess).resumed)
			require.EqualValues(t, 1, cacheB.Stats().Undecodable)
			require.Empty(t, st.asked(&st.deletes))
			require.Equal(t, i.rec, st.record(t, i.id))
			require.True(t, f.visit(t, a, i.sess).resumed)
		}
	})
}

// ---- failing stores ----------------------------------------------------------------

var errDown = errors.New("the store is down")

// faults are what a store's operation may do wrong. Those that wait for release
// do so whatever their context says.
func faults(release <-chan struct{}) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"fails":  func(context.Context) error { return errDown },
		"panics": func(context.Context) error { panic(errDown) },
		"hangs": func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("down: %w", ctx.Err())
		},
		"hangs and says nothing of its context": func(ctx context.Context) error {
			<-ctx.Done()
			return errDown
		},
		"ignores its context": func(context.Context) error {
			<-release
			return nil
		},
	}
}

// eachFault runs test against each; what it is to call when no store may be
// waited for any more is release.
func eachFault(t *testing.T, test func(t *testing.T, f *fleet, fault func(context.Context) error, count func(libssl.CacheStats) uint64), only ...uint16) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		release := make(chan struct{})
		defer close(release) // after the handshakes have ended
		for name, fault := range faults(release) {
			count := func(s libssl.CacheStats) uint64 { require.Zero(t, s.Errors); return s.Timeouts }
			if name == "fails" || name == "panics" {
				count = func(s libssl.CacheStats) uint64 { require.Zero(t, s.Timeouts); return s.Errors }
			}
			t.Run(name, func(t *testing.T) { test(t, f, fault, count) })
		}
	}, only...)
}

// budget is for operations that use it up. Long enough for those that do not,
// where they share it.
const budget = 200 * time.Millisecond

// found is Stats without what never reached the store: a TLS 1.2 server counts
// the random id of every fresh client that speaks 1.3 too.
func found(cache *libssl.SessionCache) libssl.CacheStats {
	s := cache.Stats()
	s.Misses -= s.Untagged
	return s
}

func TestStore_FailingGetIsAMiss(t *testing.T) {
	eachFault(t, func(t *testing.T, f *fleet, fault func(context.Context) error, count func(libssl.CacheStats) uint64) {
		st := newSpy()
		st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) { return store.Record{}, fault(ctx) }
		var errs heard
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear, LookupTimeout: budget})
		sess := f.visit(t, server, nil).next
		require.False(t, f.visit(t, server, sess).resumed)
		require.EqualValues(t, 1, count(cache.Stats()))
		require.Error(t, errs.all())
		require.Zero(t, cache.Stats().Hits)
		require.Zero(t, found(cache).Misses)
	})
}

// promptSpy is one that says whether it is store.Prompt now.
type promptSpy struct {
	*spy
	prompt atomic.Bool
}

func (s *promptSpy) Prompt() bool { return s.prompt.Load() }

// A store that is prompt, as it says for each call, is called by the handshake itself, with the same budget.
func TestStore_PromptIsCalledByTheHandshake(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := &promptSpy{spy: newSpy()}
		var ours, hang atomic.Bool
		st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
			ours.Store(bytes.Contains(debug.Stack(), []byte("libssl.(*Conn).")))
			if hang.Load() {
				<-ctx.Done()
				return store.Record{}, errDown
			}
			return st.mem.Get(ctx, id)
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), LookupTimeout: budget})
		sess := f.visit(t, server, nil).next
		for _, prompt := range []bool{false, true, false} {
			st.prompt.Store(prompt)
			v := f.visit(t, server, sess)
			require.True(t, v.resumed)
			require.Equal(t, prompt, ours.Load())
			sess = v.next
		}
		st.prompt.Store(true)
		hang.Store(true)
		require.False(t, f.visit(t, server, sess).resumed)
		require.EqualValues(t, 1, cache.Stats().Timeouts)
		require.Zero(t, cache.Stats().Errors)
	})
}

func TestStore_FailingPutCostsTheSessionOnly(t *testing.T) {
	eachFault(t, func(t *testing.T, f *fleet, fault func(context.Context) error, count func(libssl.CacheStats) uint64) {
		for _, behind := range []bool{false, true} {
			st := newSpy()
			st.OnPut = func(ctx context.Context, r store.Record) error { return fault(ctx) }
			var errs heard
			server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear, PutTimeout: budget, WriteBehind: behind})
			sess := f.visit(t, server, nil).next
			wait(t, "the Puts", func() bool { return int(count(cache.Stats())) == f.tickets })
			require.Error(t, errs.all())
			require.Zero(t, cache.Stats().Stored)
			require.False(t, f.visit(t, server, sess).resumed)
			require.EqualValues(t, 1, found(cache).Misses)
		}
	})
}

func TestStore_FailingDeleteIsReported(t *testing.T) {
	eachFault(t, func(t *testing.T, f *fleet, fault func(context.Context) error, count func(libssl.CacheStats) uint64) {
		st := newSpy()
		st.OnDelete = func(ctx context.Context, id store.ID) error { return fault(ctx) }
		var errs heard
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear, PutTimeout: budget})
		f.abort(t, server)
		wait(t, "the Delete", func() bool { return cache.Stats().Lost == 1 })
		require.NoError(t, cache.Close(t.Context()), "it was lost before")
		require.EqualValues(t, 1, count(cache.Stats()))
		require.Error(t, errs.all())
		require.Zero(t, cache.Stats().Removed)
	})
}

func TestStore_FailingTakeIsAMiss(t *testing.T) {
	eachFault(t, func(t *testing.T, f *fleet, fault func(context.Context) error, count func(libssl.CacheStats) uint64) {
		st := newSpy()
		st.OnTake = func(ctx context.Context, id store.ID) (store.Record, error) { return store.Record{}, fault(ctx) }
		var errs heard
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear, LookupTimeout: budget, SingleUse: true})
		sess := f.visit(t, server, nil).next
		require.False(t, f.visit(t, server, sess).resumed)
		require.EqualValues(t, 1, count(cache.Stats()))
		require.Error(t, errs.all())
	}, tls.VersionTLS13) // entries of TLS 1.2 are not taken
}

func TestStore_TakeThatComesTooLateIsPutBack(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	st := newSpy()
	var slow atomic.Bool
	slow.Store(true)
	release, back := make(chan struct{}), make(chan store.ID, 8)
	st.OnTake = func(ctx context.Context, id store.ID) (store.Record, error) {
		r, err := st.mem.Take(ctx, id)
		if slow.Load() {
			<-release
		}
		return r, err
	}
	var taken store.ID
	st.OnPut = func(ctx context.Context, r store.Record) error {
		err := st.mem.Put(ctx, r)
		if slow.Load() {
			back <- r.ID
		}
		return err
	}
	opt := &libssl.StoreOptions{Keys: newRing(t), SingleUse: true, LookupTimeout: budget}
	server, cache := f.node(t, st, opt)
	opt.LookupTimeout = 0
	patient, _ := f.node(t, st, opt)
	sess := f.visit(t, server, nil).next
	taken = storeID(t, sess)
	before := st.record(t, taken)
	require.False(t, f.visit(t, server, sess).resumed)
	require.EqualValues(t, 1, cache.Stats().Timeouts)
	for len(back) > 0 {
		require.NotEqual(t, before, <-back)
	}
	close(release)
	require.Equal(t, taken, receive(t, "the entry", back))
	slow.Store(false)
	require.EqualValues(t, 1, cache.Stats().PutBack)
	require.EqualValues(t, 1, cache.Stats().Taken)
	require.Equal(t, before, st.record(t, taken))
	require.True(t, f.visit(t, patient, sess).resumed)
}

func TestStore_BudgetsHaveDefaults(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		release := make(chan struct{})
		defer close(release) // after the handshakes
		st.OnGet = func(context.Context, store.ID) (store.Record, error) {
			<-release
			return store.Record{}, store.ErrNotFound
		}
		st.OnPut = func(context.Context, store.Record) error {
			<-release
			return nil
		}
		server := f.server(t)
		cache, err := server.UseStore(st, &libssl.StoreOptions{Keys: newRing(t)})
		require.NoError(t, err)
		defer cache.Close(t.Context())
		sess := f.visit(t, server, nil).next
		require.EqualValues(t, f.tickets, cache.Stats().Timeouts)
		require.False(t, f.visit(t, server, sess).resumed)
		require.EqualValues(t, 2*f.tickets+1, cache.Stats().Timeouts)
	})
}

// outageOf is a spy that is down while the flag is set.
func outageOf(down *atomic.Bool) *spy {
	st := newSpy()
	state := func() error {
		if down.Load() {
			return errDown
		}
		return nil
	}
	st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
		if err := state(); err != nil {
			return store.Record{}, err
		}
		return st.mem.Get(ctx, id)
	}
	st.OnPut = func(ctx context.Context, r store.Record) error {
		if err := state(); err != nil {
			return err
		}
		return st.mem.Put(ctx, r)
	}
	return st
}

// breakerClock is the breaker's clock from now on, and stands still.
func breakerClock(cache *libssl.SessionCache) *atomic.Int64 {
	var clock atomic.Int64
	clock.Store(time.Now().UnixNano())
	cache.SetBreakerClock(func() time.Time { return time.Unix(0, clock.Load()) })
	return &clock
}

func TestStore_BreakerSparesAFailingStore(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		var down atomic.Bool
		st := outageOf(&down)
		var errs heard
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear, LookupTimeout: time.Minute, PutTimeout: time.Minute})
		clock := breakerClock(cache)

		sess := f.visit(t, server, nil).next
		calls := func() int { return len(st.asked(&st.gets)) + len(st.asked(&st.puts)) }
		down.Store(true)
		for !cache.Stats().Open {
			require.False(t, f.visit(t, server, sess).resumed)
			require.LessOrEqual(t, cache.Stats().Errors, uint64(6), "five, and the other ticket's Put beside the fifth")
		}
		require.GreaterOrEqual(t, cache.Stats().Errors, uint64(5))
		asked := calls()
		require.EqualValues(t, cache.Stats().Errors, asked-f.tickets)

		skipped := cache.Stats().Skipped
		down.Store(false)
		require.False(t, f.visit(t, server, sess).resumed)
		require.Equal(t, asked, calls(), "the store is left alone")
		require.Greater(t, cache.Stats().Skipped, skipped)

		down.Store(true)
		clock.Add(int64(time.Second))
		f.visit(t, server, sess)
		f.visit(t, server, sess)
		require.Equal(t, asked+1, calls(), "one try a second")
		require.True(t, cache.Stats().Open)

		down.Store(false)
		clock.Add(int64(time.Second))
		require.True(t, f.visit(t, server, sess).resumed, "the try itself serves")
		require.False(t, cache.Stats().Open)
	})
}

func TestStore_MonstrousCertificateIsNoFailureOfTheStore(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		var hosts []string
		for i := range 300 {
			hosts = append(hosts, fmt.Sprintf("%0250d", i))
		}
		cert, key := f.ca.Leaf(t, hosts...)
		require.NoError(t, f.client.UseCertificatePEM(cert, key))
		server := f.server(t)
		require.NoError(t, server.AddClientCAsPEM(f.ca.PEM))
		require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
		st := newSpy()
		var errs heard
		cache := useStore(t, server, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear})
		for range 6 {
			f.visit(t, server, nil)
		}
		require.ErrorIs(t, errs.all(), store.ErrTooLarge)
		require.Empty(t, st.asked(&st.puts))
		require.False(t, cache.Stats().Open)
		require.Zero(t, cache.Stats().Errors)
	})
}

func TestStore_OnErrorMayPanic(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		st.OnGet = func(context.Context, store.ID) (store.Record, error) { return store.Record{}, errDown }
		heard := make(chan error, 1)
		server, _ := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: func(err error) {
			heard <- err
			panic("and the reporter too")
		}})
		sess := f.visit(t, server, nil).next
		require.False(t, f.visit(t, server, sess).resumed)
		require.ErrorIs(t, <-heard, errDown)
	})
}

// ---- single use ---------------------------------------------------------------------

func TestStore_SingleUseResumesOnce(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		opt := &libssl.StoreOptions{Keys: newRing(t), SingleUse: true}
		a, cacheA := f.node(t, st, opt)
		b, _ := f.node(t, st, opt)
		require.NotZero(t, a.SetOptions(0)&libssl.OpNoAntiReplay, "or nothing would resume with early data on")
		first := f.visit(t, a, nil)
		second := f.visit(t, b, first.next)
		require.True(t, second.resumed)
		again := f.visit(t, a, first.next)
		if f.version == tls.VersionTLS12 {
			require.True(t, again.resumed, "ids of TLS 1.2 are read, not taken")
			require.Empty(t, st.asked(&st.takes))
			require.Len(t, st.asked(&st.gets), 2)
			return
		}
		require.False(t, again.resumed)
		require.Empty(t, st.asked(&st.gets))
		require.Len(t, st.asked(&st.takes), 2)
		require.Empty(t, st.asked(&st.deletes))
		require.EqualValues(t, 1, cacheA.Stats().Misses)
		require.True(t, f.visit(t, a, second.next).resumed)
	})
}

func TestStore_SingleUseForgedBinderBurnsNothing(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	for _, single := range []bool{true, false} {
		st := newSpy()
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), SingleUse: single})
		sess := f.visit(t, server, nil).next
		before := st.record(t, storeID(t, sess))
		forged := altered(t, sess, fieldSecret)

		cn, sn := tcpPipe(t)
		c, s := f.ends(t, cn, sn, server, forged)
		go c.Handshake()
		var failed *libssl.Error
		require.ErrorAs(t, s.Handshake(), &failed)
		require.Equal(t, "handshake", failed.Op)
		require.Zero(t, s.ResumedFrom())
		closeBoth(c, s)
		if single {
			require.Equal(t, []store.ID{storeID(t, sess)}, st.asked(&st.takes))
			require.EqualValues(t, 1, cache.Stats().PutBack)
		}
		require.Equal(t, before, st.record(t, storeID(t, sess)))
		require.True(t, f.visit(t, server, sess).resumed)
	}
}

// cutter closes after the first write.
type cutter struct{ net.Conn }

func (c *cutter) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.Conn.Close()
	return n, err
}

func TestStore_SingleUseProvenClientThatLeaves(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	st := newSpy()
	server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), SingleUse: true})
	sess := f.visit(t, server, nil).next
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, &cutter{cn}, sn, server, sess)
	go c.Handshake()
	require.Error(t, s.Handshake())
	closeBoth(c, s)
	require.Len(t, st.asked(&st.takes), 1)
	require.Zero(t, cache.Stats().PutBack, "its binder was good: that was the use")
	require.False(t, f.visit(t, server, sess).resumed)
}

func TestStore_SingleUseGivenUpWhileParked(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	for name, giveUp := range map[string]func(s *libssl.Conn, cancel context.CancelFunc){
		"Close":  func(s *libssl.Conn, _ context.CancelFunc) { s.Close() },
		"Abort":  func(s *libssl.Conn, _ context.CancelFunc) { s.Abort() },
		"cancel": func(_ *libssl.Conn, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			st := newSpy()
			entered, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			st.OnTake = func(ctx context.Context, id store.ID) (store.Record, error) {
				once.Do(func() {
					close(entered)
					<-release
				})
				return st.mem.Take(context.WithoutCancel(ctx), id)
			}
			server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), SingleUse: true, LookupTimeout: time.Minute, PutTimeout: time.Minute})
			sess := f.visit(t, server, nil).next
			before := st.record(t, storeID(t, sess))
			cn, sn := tcpPipe(t)
			c, s := f.ends(t, cn, sn, server, sess)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go c.Handshake()
			failed := make(chan error, 1)
			go func() { failed <- s.HandshakeContext(ctx) }()
			receive(t, "the Take", entered)
			giveUp(s, cancel)
			if name == "cancel" {
				require.ErrorIs(t, receive(t, "the handshake", failed), context.Canceled, "without waiting for the store")
			}
			close(release)
			if name != "cancel" {
				require.Error(t, receive(t, "the handshake", failed))
			}
			wait(t, "the entry", func() bool { return len(st.asked(&st.puts)) == f.tickets+1 && st.mem.Len() == f.tickets })
			require.EqualValues(t, 1, cache.Stats().PutBack)
			require.Zero(t, cache.Stats().Errors+cache.Stats().Timeouts)
			require.Equal(t, before, st.record(t, storeID(t, sess)))
			require.True(t, f.visit(t, server, sess).resumed)
		})
	}
}

// ---- sealing and ids -----------------------------------------------------------------

func TestStore_HoldsNoSecrets(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for _, plain := range []bool{false, true} {
			st := newSpy()
			server, _ := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), Plaintext: plain})
			v := f.visit(t, server, nil)
			secret := sessionField(t, derOf(t, v.next), fieldSecret)
			require.GreaterOrEqual(t, len(secret), 32)
			data := st.record(t, storeID(t, v.next)).Data
			require.Equal(t, plain, bytes.Contains(data, secret))
			require.Equal(t, plain, bytes.Contains(data, v.idContext), "nor anything else of the session")
		}
	})
}

func TestStore_RingRotates(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st, ring := newSpy(), newRing(t)
		a, _ := f.node(t, st, &libssl.StoreOptions{Keys: ring})
		b, cacheB := f.node(t, st, &libssl.StoreOptions{Keys: ring})
		sess := f.visit(t, a, nil).next
		for range ticket.RotatedKeys - 1 { // as long as the key is in the ring
			require.NoError(t, ring.Rotate())
			require.True(t, f.visit(t, b, sess).resumed)
		}
		require.NoError(t, ring.Rotate())
		require.False(t, f.visit(t, b, sess).resumed)
		require.EqualValues(t, 1, cacheB.Stats().Misses)
		require.EqualValues(t, 1, cacheB.Stats().Untagged)
	})
}

func TestStore_IDsCarryATag(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for _, plain := range []bool{false, true} {
			st, ring := newSpy(), newRing(t)
			server, cache := f.node(t, st, &libssl.StoreOptions{Keys: ring, Plaintext: plain})
			v := f.visit(t, server, nil)
			for _, id := range append(st.ids(t), v.id) {
				b := id.Bytes()
				require.Len(t, b, store.MaxIDLen)
				require.True(t, ring.CheckTag(b[:ticket.TagSize], b[ticket.TagSize:]))
			}
			fresh := cache.Stats().Untagged
			if f.version == tls.VersionTLS12 {
				require.EqualValues(t, 1, fresh, "the 32 random bytes of a client that speaks 1.3 too")
			}
			require.False(t, f.visit(t, server, forgedID(t, v.next)).resumed)
			require.Empty(t, st.asked(&st.gets), "neither reaches the store")
			require.Equal(t, fresh+1, cache.Stats().Untagged)
			require.Equal(t, fresh+1, cache.Stats().Misses)
			require.True(t, f.visit(t, server, v.next).resumed)
		}
	})
}

func TestStore_PlaintextWithoutKeysHasNoTags(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		server, cache := f.node(t, st, &libssl.StoreOptions{Plaintext: true})
		other, _ := f.node(t, st, &libssl.StoreOptions{Plaintext: true})
		v := f.visit(t, server, nil)
		require.True(t, f.visit(t, other, v.next).resumed)
		before := len(st.asked(&st.gets))
		require.False(t, f.visit(t, server, forgedID(t, v.next)).resumed)
		require.Len(t, st.asked(&st.gets), before+1)
		require.Zero(t, cache.Stats().Untagged)
		for i := range 64 { // the checksum
			changed := st.record(t, storeID(t, v.next))
			changed.Data[len(changed.Data)-1-i] ^= 1
			require.NoError(t, st.mem.Put(t.Context(), changed))
			require.False(t, f.visit(t, server, v.next).resumed)
			changed.Data[len(changed.Data)-1-i] ^= 1
			require.NoError(t, st.mem.Put(t.Context(), changed))
		}
		require.EqualValues(t, 64, cache.Stats().Rejected)
		require.True(t, f.visit(t, server, v.next).resumed)
	})
}

// ---- isolation ------------------------------------------------------------------------

func TestStore_IDContextIsThePolicy(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		otherCA := tlstest.NewCA(t, "other")
		otherCert, otherKey := f.ca.Leaf(t, serverName)
		ask := func(m libssl.VerifyMode) func(t *testing.T, c *libssl.Context) {
			return func(t *testing.T, c *libssl.Context) {
				require.NoError(t, c.AddClientCAsPEM(f.ca.PEM))
				require.NoError(t, c.SetVerify(m))
			}
		}
		cert, key := f.ca.Leaf(t, "client.test")
		require.NoError(t, f.client.UseCertificatePEM(cert, key))
		for name, policy := range map[string]func(t *testing.T, c *libssl.Context){
			"certificate": func(t *testing.T, c *libssl.Context) { require.NoError(t, c.UseCertificatePEM(otherCert, otherKey)) },
			"may prove":   ask(libssl.VerifyPeer),
			"must prove":  ask(libssl.VerifyRequirePeer),
			"ciphers": func(t *testing.T, c *libssl.Context) {
				require.NoError(t, c.SetCiphers("ECDHE-ECDSA-AES256-GCM-SHA384"))
			},
			"cipher suites": func(t *testing.T, c *libssl.Context) { require.NoError(t, c.SetCipherSuites("TLS_AES_256_GCM_SHA384")) },
			"explicit":      func(t *testing.T, c *libssl.Context) { require.NoError(t, c.SetSessionIDContext([]byte("mine"))) },
			"other CA, asked": func(t *testing.T, c *libssl.Context) {
				require.NoError(t, c.AddClientCAsPEM(otherCA.PEM))
				ask(libssl.VerifyPeer)(t, c)
			},
		} {
			t.Run(name, func(t *testing.T) {
				st, ring := newSpy(), newRing(t)
				opt := &libssl.StoreOptions{Keys: ring}
				plain, _ := f.node(t, st, opt)
				server := func() (*libssl.Context, *libssl.SessionCache) {
					c := f.server(t)
					policy(t, c)
					return c, useStore(t, c, st, opt)
				}
				a, _ := server()
				b, cacheB := server()
				first := f.visit(t, a, nil)
				same := f.visit(t, b, first.next)
				require.True(t, same.resumed, "the same policy")
				require.Equal(t, first.idContext, same.idContext)

				old := f.visit(t, plain, nil)
				require.NotEqual(t, old.idContext, first.idContext)
				require.False(t, f.visit(t, b, old.next).resumed, "made under another policy")
				require.EqualValues(t, 1, cacheB.Stats().Rejected)
				require.False(t, f.visit(t, plain, first.next).resumed)
			})
		}
		t.Run("may prove against must prove", func(t *testing.T) {
			st, opt := newSpy(), &libssl.StoreOptions{Keys: newRing(t)}
			may, must := f.server(t), f.server(t)
			ask(libssl.VerifyPeer)(t, may)
			ask(libssl.VerifyRequirePeer)(t, must)
			useStore(t, may, st, opt)
			useStore(t, must, st, opt)
			require.False(t, f.visit(t, must, f.visit(t, may, nil).next).resumed)
		})
		t.Run("other CA among those asked for", func(t *testing.T) {
			st, opt := newSpy(), &libssl.StoreOptions{Keys: newRing(t)}
			one, two := f.server(t), f.server(t)
			ask(libssl.VerifyPeer)(t, one)
			ask(libssl.VerifyPeer)(t, two)
			require.NoError(t, two.AddClientCAsPEM(otherCA.PEM))
			useStore(t, one, st, opt)
			useStore(t, two, st, opt)
			require.False(t, f.visit(t, two, f.visit(t, one, nil).next).resumed)
		})
	})
}

func TestStore_IDContextIgnoresTheOrderOfCAs(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		cas := []*tlstest.CA{f.ca}
		for range 4 {
			cas = append(cas, tlstest.NewCA(t, fmt.Sprintf("ca %d", len(cas))))
		}
		cert, key := f.ca.Leaf(t, "client.test")
		require.NoError(t, f.client.UseCertificatePEM(cert, key))
		st, opt := newSpy(), &libssl.StoreOptions{Keys: newRing(t)}
		var nodes [2]*libssl.Context
		for i := range nodes {
			nodes[i] = f.server(t)
			require.NoError(t, nodes[i].SetVerify(libssl.VerifyRequirePeer))
			for _, ca := range cas {
				require.NoError(t, nodes[i].AddClientCAsPEM(ca.PEM))
			}
			useStore(t, nodes[i], st, opt)
			slices.Reverse(cas)
		}
		require.True(t, f.visit(t, nodes[1], f.visit(t, nodes[0], nil).next).resumed)
	})
}

func TestStore_ExplicitIDContextOverrides(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st, ring := newSpy(), newRing(t)
		var nodes [2]*libssl.Context
		for i := range nodes {
			nodes[i] = f.server(t)
			cert, key := f.ca.Leaf(t, serverName) // another for each
			require.NoError(t, nodes[i].UseCertificatePEM(cert, key))
			require.NoError(t, nodes[i].SetSessionIDContext([]byte("shared")))
			useStore(t, nodes[i], st, &libssl.StoreOptions{Keys: ring})
		}
		require.NoError(t, nodes[1].SetCiphers("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256"))
		first := f.visit(t, nodes[0], nil)
		require.Equal(t, []byte("shared"), first.idContext)
		second := f.visit(t, nodes[1], first.next)
		require.True(t, second.resumed)
		require.Equal(t, []byte("shared"), second.idContext)
	})
}

func TestStore_PolicyChangedLaterCounts(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t)})
		first := f.visit(t, server, nil)
		require.NoError(t, server.SetCiphers("ECDHE-ECDSA-AES256-GCM-SHA384"))
		second := f.visit(t, server, first.next)
		require.False(t, second.resumed)
		require.NotEqual(t, first.idContext, second.idContext)
		require.EqualValues(t, 1, cache.Stats().Rejected)
		third := f.visit(t, server, second.next)
		require.True(t, third.resumed)
		require.NoError(t, server.SetCiphers("DEFAULT"))
		require.True(t, f.visit(t, server, first.next).resumed, "the old policy, restored")
	})
}

func TestStore_HostsDoNotShareSessions(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for _, shared := range []bool{false, true} {
			t.Run(fmt.Sprintf("shared=%t", shared), func(t *testing.T) {
				st, hostStore, opt := newSpy(), newSpy(), &libssl.StoreOptions{Keys: newRing(t)}
				hosts := map[string]*libssl.Context{}
				for _, name := range []string{"a.test", "b.test"} {
					host := f.server(t)
					cert, key := f.ca.Leaf(t, name)
					require.NoError(t, host.UseCertificatePEM(cert, key))
					if shared {
						require.NoError(t, host.SetSessionIDContext([]byte("both")))
					}
					hosts[name] = host
				}
				hostCache := useStore(t, hosts["b.test"], hostStore, opt)
				front, cache := f.node(t, st, opt)
				front.SetServerNameCallback(func(_ *libssl.SSL, name string) *libssl.Context { return hosts[name] })
				at := func(name string, sess *libssl.Session) visit {
					f.name = name
					defer func() { f.name = serverName }()
					v := f.visit(t, front, sess)
					if !v.resumed { // in 1.2 it is otherwise the one of the session
						require.Equal(t, name, v.state.ServerName)
					}
					return v
				}
				a, b := at("a.test", nil), at("b.test", nil)
				require.True(t, at("a.test", a.next).resumed)
				require.True(t, at("b.test", b.next).resumed)
				require.Equal(t, shared, at("b.test", a.next).resumed)
				require.Equal(t, shared, at("a.test", b.next).resumed)
				own := at(serverName, nil) // nobody's, so the front's
				require.True(t, at(serverName, own.next).resumed)
				require.False(t, at("a.test", own.next).resumed)
				require.False(t, at(serverName, a.next).resumed)
				if !shared {
					require.EqualValues(t, 4, cache.Stats().Rejected)
				}
				require.NotEmpty(t, st.asked(&st.puts))
				require.Empty(t, hostStore.asked(&hostStore.puts), "the cache is the one of the Context that made the connection")
				require.Empty(t, hostStore.asked(&hostStore.gets))
				require.Zero(t, hostCache.Stats())
			})
		}
	})
}

// ---- lifetimes ---------------------------------------------------------------------------

func TestStore_MaxLifetimeCountsFromTheFirstHandshake(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	st, ring := newSpy(), newRing(t)
	server := f.server(t)
	server.SetSessionTimeout(24 * time.Hour)
	cache := useStore(t, server, st, &libssl.StoreOptions{Keys: ring, MaxLifetime: 2 * time.Hour})
	i := f.issue(t, server, st, ring)
	_, origin, err := libssl.OpenEntry(ring, i.id, i.sid, i.rec.Data)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), origin, time.Minute)
	require.WithinDuration(t, origin.Add(2*time.Hour), i.rec.Expires, time.Second)

	age := func(by time.Duration) {
		rec := i.rec
		rec.Data = libssl.SealEntry(ring, i.id, i.sid, origin.Add(-by), i.der)
		require.NoError(t, st.mem.Put(t.Context(), rec))
	}
	age(90 * time.Minute)
	sess := i.sess
	for range 3 { // each renewal of the one before
		v := f.visit(t, server, sess)
		require.True(t, v.resumed)
		sess = v.next
		rec := st.record(t, storeID(t, sess))
		_, renewed, err := libssl.OpenEntry(ring, rec.ID, i.sid, rec.Data)
		require.NoError(t, err)
		require.True(t, origin.Add(-90*time.Minute).Equal(renewed), "%v", renewed)
		require.True(t, origin.Add(30*time.Minute).Equal(rec.Expires), "%v", rec.Expires)
	}
	age(2*time.Hour + time.Second)
	require.False(t, f.visit(t, server, i.sess).resumed)
	require.EqualValues(t, 1, cache.Stats().Rejected)
}

func TestStore_EntriesEndWithTheirSessions(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st, ring := newSpy(), newRing(t)
		server := f.server(t)
		server.SetSessionTimeout(time.Hour)
		useStore(t, server, st, &libssl.StoreOptions{Keys: ring})
		i := f.issue(t, server, st, ring)
		s, err := libssl.ParseSession(i.der)
		require.NoError(t, err)
		defer s.Release()
		require.True(t, s.Time().Add(time.Hour).Equal(i.rec.Expires))
	})
}

// ---- removals and the end ------------------------------------------------------------------

// abort makes a full handshake whose server then breaks the connection.
func (f *fleet) abort(t testing.TB, server *libssl.Context) *libssl.Session {
	t.Helper()
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, cn, sn, server, nil)
	require.NoError(t, exchange(c, s))
	sess := sessionOf(t, c)
	require.NoError(t, s.Abort())
	return sess
}

func TestStore_AbortRemovesAndCloseDoesNot(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t)})
		closed := f.visit(t, server, nil).next
		broken := f.abort(t, server)
		wait(t, "the removal", func() bool { return cache.Stats().Removed == 1 })
		require.Equal(t, []store.ID{storeID(t, broken)}, st.asked(&st.deletes))
		require.Equal(t, 2*f.tickets-1, st.mem.Len())
		require.False(t, f.visit(t, server, broken).resumed)
		require.True(t, f.visit(t, server, closed).resumed)
		require.Len(t, st.asked(&st.deletes), 1)
		require.Zero(t, cache.Stats().Lost)
	})
}

func TestSessionCache_CloseDrains(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		entered, release := make(chan struct{}, 8), make(chan struct{})
		st.OnPut = func(ctx context.Context, r store.Record) error {
			entered <- struct{}{}
			<-release
			return st.mem.Put(ctx, r)
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), WriteBehind: true, PutTimeout: time.Minute})
		f.visit(t, server, nil)
		receive(t, "a Put", entered)
		closed := make(chan error, 1)
		go func() { closed <- cache.Close(context.Background()) }()
		wait(t, "the callbacks to go", func() bool {
			server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { return false })
			return server.SessNewCallback() != nil
		})
		require.Empty(t, closed)
		close(release)
		require.NoError(t, receive(t, "Close", closed))
		require.Equal(t, f.tickets, st.mem.Len())
		require.EqualValues(t, f.tickets, cache.Stats().Stored)
		require.Zero(t, cache.Stats().Queue)
		require.ErrorIs(t, cache.Close(t.Context()), libssl.ErrClosed)
	})
}

func TestSessionCache_CloseSaysWhatWasLost(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		entered := make(chan struct{}, 8)
		st.OnDelete = func(ctx context.Context, id store.ID) error {
			entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), PutTimeout: time.Minute})
		for range 3 {
			f.abort(t, server)
		}
		receive(t, "a Delete", entered)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errDown)
		err := cache.Close(ctx)
		require.ErrorIs(t, err, errDown)
		require.ErrorContains(t, err, "3 queued operations")
		require.EqualValues(t, 3, cache.Stats().Lost)
		require.Zero(t, cache.Stats().Queue)
		require.Zero(t, cache.Stats().Timeouts+cache.Stats().Errors, "given up, not failed")
	})
}

func TestSessionCache_CloseSaysWhyItWasLost(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		entered, release := make(chan struct{}, 8), make(chan struct{})
		st.OnDelete = func(ctx context.Context, id store.ID) error {
			entered <- struct{}{}
			<-release
			return errDown
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), PutTimeout: time.Minute})
		f.abort(t, server)
		receive(t, "the Delete", entered)
		closed := make(chan error, 1)
		go func() { closed <- cache.Close(context.Background()) }()
		// With a store on it the Context refuses setters.
		wait(t, "the callbacks to go", func() bool {
			server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { return false })
			return server.SessNewCallback() != nil
		})
		close(release)
		err := receive(t, "Close", closed)
		require.ErrorIs(t, err, errDown)
		require.ErrorContains(t, err, "1 queued operations were lost")
	})
}

func TestSessionCache_CloseTakesTheCallbacksAway(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for _, live := range []bool{false, true} {
			st, opt := newSpy(), &libssl.StoreOptions{Keys: newRing(t)}
			server, cache := f.node(t, st, opt)
			cn, sn := tcpPipe(t)
			c, s := f.ends(t, cn, sn, server, nil)
			require.NoError(t, exchange(c, s))
			sess := sessionOf(t, c)
			if !live {
				closeBoth(c, s)
			}
			require.NoError(t, cache.Close(t.Context()))
			require.Nil(t, server.SessNewCallback())
			require.Nil(t, server.SessGetCallback())
			require.Nil(t, server.SessRemoveCallback())
			gets, puts := len(st.asked(&st.gets)), len(st.asked(&st.puts))
			require.False(t, f.visit(t, server, sess).resumed)
			require.Len(t, st.asked(&st.gets), gets)
			require.Len(t, st.asked(&st.puts), puts)
			if live {
				require.NoError(t, exchange(c, s))
				closeBoth(c, s)
			}

			// A remove trampoline left behind would make OpenSSL keep sessions of
			// stateless tickets (SEMANTICS F1.13).
			server.SetSessionCacheMode(libssl.CacheServer)
			server.ClearOptions(libssl.OpNoTicket)
			f.visit(t, server, nil)
			require.Zero(t, server.Stats().Number)

			again := useStore(t, server, st, opt)
			require.True(t, f.visit(t, server, sess).resumed)
			require.EqualValues(t, 1, again.Stats().Hits)
			require.NoError(t, again.Close(t.Context()))
			heard := 0
			server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { heard++; return false })
			f.visit(t, server, nil)
			require.Equal(t, f.tickets, heard)
		}
	})
}

func TestSessionCache_CloseWhileParked(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for _, behind := range []bool{false, true} {
			f.closeWhileParked(t, behind)
		}
	})
}

func (f *fleet) closeWhileParked(t *testing.T, behind bool) {
	st := newSpy()
	entered, release := make(chan struct{}), make(chan struct{})
	st.OnTake = func(ctx context.Context, id store.ID) (store.Record, error) {
		close(entered)
		<-release
		return st.mem.Take(ctx, id)
	}
	st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
		close(entered)
		<-release
		return st.mem.Get(ctx, id)
	}
	opt := &libssl.StoreOptions{Keys: newRing(t), SingleUse: true, LookupTimeout: time.Minute, WriteBehind: behind}
	server, cache := f.node(t, st, opt)
	sess := f.visit(t, server, nil).next
	wait(t, "the entries", func() bool { return st.mem.Len() == f.tickets })
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, cn, sn, server, sess)
	done := make(chan error, 1)
	go func() { done <- exchange(c, s) }()
	receive(t, "the lookup", entered)
	require.NoError(t, cache.Close(t.Context()))
	close(release)
	require.NoError(t, receive(t, "the handshake", done))
	require.False(t, s.SessionReused())
	require.Equal(t, f.tickets, st.mem.Len(), "what was taken and not used is back")
}

// ---- refusals ----------------------------------------------------------------------------

// bare has a Store's methods only.
type bare struct{ store.Store }

func TestUseStore_Refuses(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	mem := memstore.New(memstore.Options{})
	ring := newRing(t)
	for name, tt := range map[string]struct {
		prepare func(c *libssl.Context)
		st      store.Store
		opt     *libssl.StoreOptions
		is      error
		says    string
	}{
		"nil store": {st: nil, says: "nil store"},
		"new callback": {prepare: func(c *libssl.Context) {
			c.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { return false })
		}, st: mem, says: "callback is installed"},
		"get callback": {prepare: func(c *libssl.Context) {
			c.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) { return nil, libssl.Copy })
		}, st: mem, says: "callback is installed"},
		"remove callback":     {prepare: func(c *libssl.Context) { c.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) {}) }, st: mem, says: "callback is installed"},
		"a second store":      {prepare: func(c *libssl.Context) { useStore(t, c, mem, nil) }, st: mem, says: "has a store"},
		"closed":              {prepare: func(c *libssl.Context) { c.Close() }, st: mem, is: libssl.ErrClosed},
		"no keys":             {st: bare{mem}, says: "Keys, or Plaintext"},
		"no keys, options":    {st: bare{mem}, opt: &libssl.StoreOptions{}, says: "Keys, or Plaintext"},
		"empty ring":          {st: mem, opt: &libssl.StoreOptions{Keys: &ticket.Ring{}}, says: "ring without keys"},
		"empty ring, plain":   {st: mem, opt: &libssl.StoreOptions{Keys: &ticket.Ring{}, Plaintext: true}, says: "ring without keys"},
		"negative lookup":     {st: mem, opt: &libssl.StoreOptions{LookupTimeout: -1}, says: "LookupTimeout is negative"},
		"negative put":        {st: mem, opt: &libssl.StoreOptions{PutTimeout: -1}, says: "PutTimeout is negative"},
		"negative lifetime":   {st: mem, opt: &libssl.StoreOptions{MaxLifetime: -1}, says: "MaxLifetime is negative"},
		"single use, no Take": {st: bare{mem}, opt: &libssl.StoreOptions{Keys: ring, SingleUse: true}, is: libssl.ErrUnsupported},
		"broken key":          {st: brokenKey{mem}, is: errDown},
	} {
		t.Run(name, func(t *testing.T) {
			c := f.server(t)
			if tt.prepare != nil {
				tt.prepare(c)
			}
			sc, err := c.UseStore(tt.st, tt.opt)
			require.Error(t, err)
			require.Nil(t, sc)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
			require.ErrorContains(t, err, tt.says)
		})
	}
	sc, err := f.client.UseStore(mem, nil)
	require.ErrorIs(t, err, libssl.ErrUnsupported)
	require.Nil(t, sc)
	sc, err = (*libssl.Context)(nil).UseStore(mem, nil)
	require.ErrorIs(t, err, libssl.ErrClosed)
	require.Nil(t, sc)

	// What was refused left nothing behind.
	c := f.server(t)
	_, err = c.UseStore(bare{mem}, nil)
	require.Error(t, err)
	require.Zero(t, c.SetOptions(0)&libssl.OpNoTicket)
	useStore(t, c, mem, nil)
}

// brokenKey is an embedded store whose key cannot be read.
type brokenKey struct{ store.Store }

func (brokenKey) SealingKey() ([]byte, error) { return nil, errDown }

func TestUseStore_TakesTheSetters(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, _ := f.node(t, memstore.New(memstore.Options{}), nil)
	var told []*libssl.CallbackError
	server.OnCallbackError(func(e *libssl.CallbackError) { told = append(told, e) })
	server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { panic("not installed") })
	server.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) { panic("not installed") })
	server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { panic("not installed") })
	require.Len(t, told, 3)
	for i, name := range []string{"new", "get", "remove"} {
		require.Equal(t, name, told[i].Callback)
		require.ErrorContains(t, told[i], "store")
	}
	require.True(t, f.visit(t, server, f.visit(t, server, nil).next).resumed)
	require.Len(t, told, 3)
}

func TestUseStore_DefaultsAndMode(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, _ := f.node(t, memstore.New(memstore.Options{}), nil)
	require.NotZero(t, server.SetOptions(0)&libssl.OpNoTicket)
	require.Equal(t, libssl.CacheServer|libssl.CacheNoInternal, server.SetSessionCacheMode(libssl.CacheServer|libssl.CacheNoInternal))
	f.visit(t, server, nil)
	require.Zero(t, server.Stats().Number)
}

func TestUseStore_ForgottenContextIsCollected(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	before := libssl.LiveResources().ForgottenContexts
	st := newSpy()
	t.Run("in use", func(t *testing.T) { // what its cleanups refer to goes with it
		ctx, err := libssl.NewContext(libssl.ServerRole)
		require.NoError(t, err)
		require.NoError(t, ctx.UseCertificatePEM(f.cert, f.key))
		_, err = ctx.UseStore(st, &libssl.StoreOptions{Keys: newRing(t), WriteBehind: true})
		require.NoError(t, err)
		f.visit(t, ctx, nil)
		f.abort(t, ctx)
	})
	wait(t, "the queue", func() bool { return len(st.asked(&st.puts)) == 4 && len(st.asked(&st.deletes)) == 1 })
	wait(t, "the collector", func() bool {
		runtime.GC()
		return libssl.LiveResources().ForgottenContexts == before+1
	})
	forgotten.ForgottenContexts++
}

// ---- all at once ---------------------------------------------------------------------------

func TestStore_EverythingAtOnce(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		opt := &libssl.StoreOptions{Keys: newRing(t), SingleUse: true, LookupTimeout: time.Minute, PutTimeout: time.Minute}
		type node struct {
			ctx   *libssl.Context
			cache *libssl.SessionCache
		}
		var nodes [3]atomic.Pointer[node]
		start := func(i int) {
			ctx := f.server(t)
			nodes[i].Store(&node{ctx, useStore(t, ctx, st, opt)})
		}
		for i := range nodes {
			start(i)
		}
		var clients, disturbers sync.WaitGroup
		failed := make(chan error, 8*rounds)
		var resumed atomic.Int64
		for n := range 8 {
			clients.Go(func() {
				var sess *libssl.Session
				for r := range rounds {
					server := nodes[(n+r)%len(nodes)].Load().ctx
					cn, sn := tcpPipe(t)
					s, err := libssl.Server(sn, server)
					if errors.Is(err, libssl.ErrClosed) { // replaced meanwhile
						cn.Close()
						sn.Close()
						continue
					}
					c, cerr := libssl.Client(cn, f.client, f.name)
					if err = errors.Join(err, cerr); err != nil {
						failed <- err
						return
					}
					if sess != nil {
						c.SetSession(sess)
					}
					if err := exchange(c, s); err != nil {
						failed <- err
					} else {
						if s.SessionReused() {
							resumed.Add(1)
						}
						sess.Release()
						sess, _ = c.Session()
					}
					if r%7 == 0 {
						s.Abort()
					}
					closeBoth(c, s)
				}
				sess.Release()
			})
		}
		stop := make(chan struct{})
		for _, disturb := range []func(r int){
			func(r int) { // another cache on the same Context
				n := nodes[0].Load()
				n.cache.Close(context.Background())
				runtime.Gosched()
				sc, err := n.ctx.UseStore(st, opt)
				if err != nil {
					failed <- err
					return
				}
				nodes[0].Store(&node{n.ctx, sc})
			},
			func(r int) { // another Context
				old := nodes[1].Load()
				start(1)
				old.ctx.Close()
				old.cache.Close(context.Background())
			},
			func(r int) { // another key
				opt.Keys.Rotate()
				nodes[2].Load().cache.Stats()
			},
		} {
			disturbers.Go(func() {
				for r := 0; ; r++ {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
						disturb(r)
					}
				}
			})
		}
		clients.Wait()
		close(stop)
		disturbers.Wait()
		for i := range nodes {
			nodes[i].Load().cache.Close(context.Background())
		}
		close(failed)
		for err := range failed {
			require.NoError(t, err)
		}
		t.Logf("%d resumed", resumed.Load())
	})
}

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

func eachVersion(t *testing.T, test func(t *testing.T, f *fleet)) {
	for name, v := range versions {
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

func useStore(t testing.TB, ctx *libssl.Context, st store.Store, opt *libssl.StoreOptions) *libssl.SessionCache {
	t.Helper()
	sc, err := ctx.UseStore(st, opt)
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
			require.EqualValues(t, 2, cache.Stats().Hits)
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

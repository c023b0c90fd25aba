package callbacks_test

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/internal/parking"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/require"
)

// remote is a store that may make its callers wait: no store.Local, unlike the one in it.
type remote struct {
	mem  *memstore.Store
	gate atomic.Pointer[chan struct{}] // not nil: lookups wait for it

	mu   sync.Mutex
	puts []store.Record
}

func newRemote() *remote { return &remote{mem: memstore.New(memstore.Options{})} }

// shut makes lookups wait until open is called.
func (r *remote) shut() (open func()) {
	gate := make(chan struct{})
	r.gate.Store(&gate)
	return func() { r.gate.Store(nil); close(gate) }
}

func (r *remote) wait(ctx context.Context) error {
	if gate := r.gate.Load(); gate != nil {
		select {
		case <-*gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (r *remote) Get(ctx context.Context, id store.ID) (store.Record, error) {
	if err := r.wait(ctx); err != nil {
		return store.Record{}, err
	}
	return r.mem.Get(ctx, id)
}

func (r *remote) Take(ctx context.Context, id store.ID) (store.Record, error) {
	if err := r.wait(ctx); err != nil {
		return store.Record{}, err
	}
	return r.mem.Take(ctx, id)
}

func (r *remote) Put(ctx context.Context, rec store.Record) error {
	r.mu.Lock()
	r.puts = append(r.puts, rec)
	r.mu.Unlock()
	return r.mem.Put(ctx, rec)
}

func (r *remote) Delete(ctx context.Context, id store.ID) error { return r.mem.Delete(ctx, id) }

func (r *remote) SealingKey() ([]byte, error) { return r.mem.SealingKey() }

const ample = 30 * time.Second // for lookups that a test holds up

// lot holds the parked handshakes.
type lot struct {
	full   atomic.Bool
	places atomic.Int32
	ready  chan *spot
}

type spot struct {
	lot          *lot
	ssl          unsafe.Pointer
	ready, leave int // no two calls run at once
}

func parked(sc *libssl.SessionCache) *lot {
	l := &lot{ready: make(chan *spot, 100)}
	parking.Park(sc, func(ssl unsafe.Pointer) parking.Place {
		if l.full.Load() {
			return nil
		}
		l.places.Add(1)
		return &spot{lot: l, ssl: ssl}
	})
	return l
}

func (s *spot) Ready() { s.ready++; s.lot.ready <- s }
func (s *spot) Leave() { s.leave++; s.lot.places.Add(-1) }

func newPair(t testing.TB, client, server *libssl.Context, offer *libssl.Session) *cref.Pair {
	t.Helper()
	p, err := cref.NewPair(client.Pointer(), server.Pointer(), name, offer.Pointer())
	require.NoError(t, err)
	return p
}

// stored waits until what an event loop writes behind has arrived.
func stored(t testing.TB, sc *libssl.SessionCache) {
	t.Helper()
	require.Eventually(t, func() bool { return sc.Stats().Queue == 0 }, ample, time.Millisecond)
}

// issue is a full handshake, and the session of it.
func issue(t testing.TB, client, server *libssl.Context, sc *libssl.SessionCache) *libssl.Session {
	t.Helper()
	_, sess := visit(t, engines[0], client, server, nil)
	stored(t, sc)
	return sess
}

func TestParking_HandshakeWaitsForItsSession(t *testing.T) {
	for _, m := range storeModes() {
		t.Run(m.name, func(t *testing.T) {
			st, client, server := newRemote(), newClient(t), m.server(t)
			sc := useStore(t, server, st, &libssl.StoreOptions{LookupTimeout: ample})
			l := parked(sc)
			sess := issue(t, client, server, sc)
			require.Empty(t, l.ready, "no handshake waits without a session to look up")

			open := st.shut()
			p := newPair(t, client, server, sess)
			for range 3 { // too early does no harm
				require.Equal(t, cref.Parked, p.Step())
			}
			require.EqualValues(t, 1, l.places.Load())
			require.Eventually(t, func() bool { return sc.Stats().Parked == 1 }, ample, time.Millisecond)
			open()
			s := <-l.ready
			require.Equal(t, p.Server(), s.ssl)
			require.Equal(t, cref.Done, p.Step())
			require.True(t, p.Reused())
			require.Zero(t, l.places.Load())
			p.Free(true)
			require.Equal(t, []int{1, 1}, []int{s.ready, s.leave})
			require.Zero(t, sc.Stats().Parked)
			require.EqualValues(t, 1, sc.Stats().Hits)
		})
	}
}

func TestParking_LateLookupIsAFullHandshake(t *testing.T) {
	st, client, server := newRemote(), newClient(t), modes[3].server(t)
	sc := useStore(t, server, st, nil)
	l := parked(sc)
	sess := issue(t, client, server, sc)
	open := st.shut()
	defer open()
	p := newPair(t, client, server, sess)
	defer p.Free(true)
	require.Equal(t, cref.Parked, p.Step())
	<-l.ready
	require.Equal(t, cref.Done, p.Step())
	require.False(t, p.Reused())
	require.EqualValues(t, 1, sc.Stats().Timeouts)
}

// An SSL that is freed while its session is looked up: before the answer, and after it.
func TestParking_FreedWhileParked(t *testing.T) {
	for _, answered := range []bool{false, true} {
		st, client, server := newRemote(), newClient(t), modes[3].server(t)
		sc := useStore(t, server, st, &libssl.StoreOptions{LookupTimeout: ample, SingleUse: true})
		l := parked(sc)
		sess := issue(t, client, server, sc)
		open := st.shut()
		p := newPair(t, client, server, sess)
		require.Equal(t, cref.Parked, p.Step())
		if answered {
			open()
			<-l.ready
			require.Zero(t, st.mem.Len(), "taken")
		}
		p.Free(false)
		require.Zero(t, l.places.Load())
		if !answered {
			open()
		}
		require.Eventually(t, func() bool { return sc.Stats().Parked == 0 && sc.Stats().Queue == 0 && st.mem.Len() == 1 }, ample, time.Millisecond,
			"the session is there for its client")
		if answered { // else a lookup that was given up may have taken it, or not
			require.EqualValues(t, 1, sc.Stats().PutBack)
		}
		require.NoError(t, sc.Close(t.Context())) // waits for the lookup
		require.Empty(t, l.ready, "no handshake is left to be told")
	}
}

func TestParking_WithoutAPlaceThereIsNoLookup(t *testing.T) {
	st, client, server := newRemote(), newClient(t), modes[0].server(t)
	sc := useStore(t, server, st, &libssl.StoreOptions{LookupTimeout: ample})
	l := parked(sc)
	sess := issue(t, client, server, sc)
	l.full.Store(true)
	defer st.shut()() // a lookup would wait
	p := newPair(t, client, server, sess)
	defer p.Free(true)
	require.Equal(t, cref.Done, p.Step())
	require.False(t, p.Reused())
}

// Close waits for lookups; the handshakes then go on, without the store.
func TestParking_CloseOfTheCache(t *testing.T) {
	st, client, server := newRemote(), newClient(t), modes[0].server(t)
	sc := useStore(t, server, st, &libssl.StoreOptions{LookupTimeout: ample})
	l := parked(sc)
	sess := issue(t, client, server, sc)
	open := st.shut()
	p, late := newPair(t, client, server, sess), newPair(t, client, server, sess)
	require.Equal(t, cref.Parked, p.Step())
	closed := make(chan error)
	go func() { closed <- sc.Close(t.Context()) }()
	require.Eventually(t, func() bool { return !l.open(server) }, ample, time.Millisecond)
	require.Equal(t, cref.Done, late.Step(), "no handshake parks any more")
	require.False(t, late.Reused())
	open()
	require.NoError(t, <-closed)
	<-l.ready
	require.Equal(t, cref.Done, p.Step())
	require.False(t, p.Reused())
	p.Free(true)
	late.Free(true)
	require.Zero(t, l.places.Load())
}

// open says whether a Context has a store: only then is a setter refused.
func (l *lot) open(ctx *libssl.Context) bool {
	refused := false
	ctx.OnCallbackError(func(*libssl.CallbackError) { refused = true })
	defer ctx.OnCallbackError(nil)
	ctx.SetSessRemoveCallback(nil)
	return refused
}

// both runs f with a thread that waits for the lookup, and with a loop that parks the handshake.
func both(t *testing.T, f func(t *testing.T, mode func(*libssl.SessionCache) func(*cref.Pair) bool)) {
	t.Run("blocking", func(t *testing.T) {
		f(t, func(*libssl.SessionCache) func(*cref.Pair) bool { return (*cref.Pair).Run })
	})
	t.Run("parked", func(t *testing.T) {
		f(t, func(sc *libssl.SessionCache) func(*cref.Pair) bool {
			l := parked(sc)
			return func(p *cref.Pair) bool {
				for {
					switch p.Step() {
					case cref.Parked:
						<-l.ready
					case cref.Done:
						return p.Run() // the byte each way
					default:
						return false
					}
				}
			}
		})
	})
}

// A renewed session ends with the one that was made in a full handshake.
func TestAttachedSSL_RenewalsKeepTheirOrigin(t *testing.T) {
	both(t, func(t *testing.T, mode func(*libssl.SessionCache) func(*cref.Pair) bool) {
		st, client, server := newRemote(), newClient(t), modes[3].server(t)
		server.SetSessionTimeout(10 * time.Hour)
		sc := useStore(t, server, st, &libssl.StoreOptions{LookupTimeout: ample, MaxLifetime: time.Hour})
		run := mode(sc)
		sess := issue(t, client, server, sc)
		for range 3 {
			p := newPair(t, client, server, sess)
			require.True(t, run(p))
			require.True(t, p.Reused())
			var err error
			sess, err = libssl.WrapSession(p.Session(), libssl.Transfer)
			require.NoError(t, err)
			defer sess.Release()
			p.Free(true)
			stored(t, sc)
		}
		require.Len(t, st.puts, 4)
		for _, renewed := range st.puts[1:] {
			require.False(t, renewed.Expires.After(st.puts[0].Expires))
		}
	})
}

// A session that was taken for the first ClientHello also serves the second one of that handshake, and no other handshake.
func TestAttachedSSL_SingleUse(t *testing.T) {
	both(t, func(t *testing.T, mode func(*libssl.SessionCache) func(*cref.Pair) bool) {
		st, client, server := newRemote(), newClient(t), modes[3].server(t)
		require.NoError(t, client.SetGroups("X25519:P-256"))
		require.NoError(t, server.SetGroups("P-256"))
		sc := useStore(t, server, st, &libssl.StoreOptions{LookupTimeout: ample, SingleUse: true})
		run := mode(sc)
		sess := issue(t, client, server, sc)
		require.NoError(t, server.SetNumTickets(0)) // which would tell that the handshake is over
		p := newPair(t, client, server, sess)
		require.True(t, run(p))
		require.True(t, p.Reused(), "after a HelloRetryRequest")
		require.True(t, p.Clear(client.Pointer(), sess.Pointer()))
		require.True(t, run(p))
		require.False(t, p.Reused(), "the same SSL, another connection")
		p.Free(true)
		stored(t, sc)
		require.Zero(t, st.mem.Len())
		require.Zero(t, sc.Stats().PutBack)
		p = newPair(t, client, server, sess)
		require.True(t, run(p))
		require.False(t, p.Reused())
		p.Free(true)
	})
}

// A peer that knows a ticket but not its secret fails, and the ticket's client still resumes.
func TestAttachedSSL_WrongBinderBurnsNothing(t *testing.T) {
	both(t, func(t *testing.T, mode func(*libssl.SessionCache) func(*cref.Pair) bool) {
		st, client, server := newRemote(), newClient(t), modes[3].server(t)
		sc := useStore(t, server, st, &libssl.StoreOptions{LookupTimeout: ample, SingleUse: true})
		run := mode(sc)
		sess := issue(t, client, server, sc)
		der, err := sess.MarshalBinary()
		require.NoError(t, err)
		secret := cref.MasterKey(sess.Pointer())
		at := bytes.Index(der, secret)
		require.Positive(t, at)
		der[at] ^= 1
		forged, err := libssl.ParseSession(der)
		require.NoError(t, err)
		defer forged.Release()
		p := newPair(t, client, server, forged)
		require.False(t, run(p))
		p.Free(false)
		stored(t, sc)
		require.EqualValues(t, 1, sc.Stats().PutBack)
		p = newPair(t, client, server, sess)
		require.True(t, run(p))
		require.True(t, p.Reused())
		p.Free(true)
	})
}

// Handshakes in ASYNC jobs run as without handlers, also on a Go thread.
func TestAttachContext_AsyncJobsOfC(t *testing.T) {
	for _, m := range asking() {
		t.Run(m.name, func(t *testing.T) {
			sslCtx, ctx := attached(t, m)
			defer cref.FreeContext(sslCtx)
			defer ctx.Close()
			cref.SetAsync(sslCtx)
			c := newCache(t)
			c.install(ctx)
			client := newClient(t)
			first := linkC(t, client, ctx, nil).closed()
			second := linkC(t, client, ctx, first.session).closed()
			require.False(t, second.reused)
			first.session.Release()
			second.session.Release()
			require.Zero(t, c.news.Load()+c.gets.Load())
		})
	}
}

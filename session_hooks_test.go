package libssl_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/sqlitestore"
	"github.com/stretchr/testify/require"
)

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

				third := f.visit(t, a, second.next) // in 1.3 the session that b issued
				require.True(t, third.resumed)
				require.Equal(t, storeID(t, second.next), third.from)
				require.EqualValues(t, 1, cacheA.Stats().Hits)
			})
		})
	}
}

func TestStore_ResumesAfterAHelloRetryRequest(t *testing.T) {
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("SingleUse=%t", single), func(t *testing.T) {
			f, st := newFleet(t, tls.VersionTLS13), newSpy()
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
			require.EqualValues(t, 1, names.Load(), "the choice holds for the second hello")
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

// Where each session must be in the store, tickets stay off.
func TestStore_TicketsStayOff(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for name, opt := range map[string]libssl.StoreOptions{"revocable": {Revocable: true}, "single use": {SingleUse: true}, "early data": {}} {
			t.Run(name, func(t *testing.T) {
				opt.Keys = newRing(t)
				server, cache := f.node(t, newSpy(), &opt)
				if name == "early data" {
					server.ClearOptions(libssl.OpNoTicket)
					require.NoError(t, server.SetMaxEarlyData(1000))
				}
				require.NotZero(t, server.ClearOptions(libssl.OpNoTicket)&libssl.OpNoTicket)
				second := f.visit(t, server, f.visit(t, server, nil).next)
				require.True(t, second.resumed)
				require.NotZero(t, second.from)
				require.NoError(t, cache.Close(t.Context()))
				require.Zero(t, server.ClearOptions(libssl.OpNoTicket)&libssl.OpNoTicket)
			})
		}
	})
}

// ---- storing -------------------------------------------------------------------

func TestStore_PutComesBeforeTheFlight(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		entered, release := st.holdPuts()
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

// A handshake waits once for all its tickets to be stored.
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
		_, release := st.holdPuts()
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

// ---- lifetimes ---------------------------------------------------------------------------

func TestStore_MaxLifetimeCountsFromTheFirstHandshake(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	st, ring := newSpy(), newRing(t)
	server := f.server(t)
	server.SetSessionTimeout(24 * time.Hour)
	cache := useStore(t, server, st, &libssl.StoreOptions{Keys: ring, MaxLifetime: 2 * time.Hour})
	i := f.issue(t, server, st, ring)
	_, origin, err := libssl.OpenEntry(ring, i.id, i.rec.Data)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), origin, time.Minute)
	require.WithinDuration(t, origin.Add(2*time.Hour), i.rec.Expires, time.Second)

	age := func(by time.Duration) {
		rec := i.rec
		rec.Data = libssl.SealEntry(ring, i.id, origin.Add(-by), i.der)
		require.NoError(t, st.mem.Put(t.Context(), rec))
	}
	age(90 * time.Minute)
	sess := i.sess
	for range 3 { // each renewal of the one before
		v := f.visit(t, server, sess)
		require.True(t, v.resumed)
		sess = v.next
		rec := st.record(t, storeID(t, sess))
		_, renewed, err := libssl.OpenEntry(ring, rec.ID, rec.Data)
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

package libssl_test

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/internal/entry"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// called is one connection of a client that keeps every ticket.
type called struct {
	origin  libssl.SessionOrigin
	resumed bool
	tickets []*libssl.Session // TLS 1.2 has one session
}

// call connects, offering sess, which may be nil, and waits for all tickets.
func (f *fleet) call(t testing.TB, server *libssl.Context, sess *libssl.Session) called {
	t.Helper()
	var v called
	f.client.SetSessionCacheMode(libssl.CacheClient | libssl.CacheNoInternal)
	f.client.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
		kept, err := s.Retain()
		if assert.NoError(t, err) {
			t.Cleanup(kept.Release)
			v.tickets = append(v.tickets, kept)
		}
		return false
	})
	defer f.client.SetSessNewCallback(nil)
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, cn, sn, server, sess)
	require.Zero(t, s.SessionOrigin(), "before the handshake")
	require.NoError(t, exchange(c, s))
	defer closeBoth(c, s)
	require.Zero(t, c.SessionOrigin(), "on the client")
	v.origin, v.resumed = s.SessionOrigin(), s.SessionReused()
	require.Equal(t, v.resumed, c.SessionReused())
	return v
}

func TestConn_SessionOrigin(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		opt := &libssl.StoreOptions{Keys: newRing(t)}
		a, _ := f.node(t, st, opt)
		b, _ := f.node(t, st, opt)
		first := f.call(t, a, nil)
		require.False(t, first.resumed)
		require.NotZero(t, first.origin)
		require.Regexp(t, "^[0-9a-f]{32}$", first.origin.String())
		require.Len(t, first.tickets, f.tickets)
		for _, ticket := range first.tickets {
			next := ticket
			for range 3 { // renewals
				v := f.call(t, b, next)
				require.True(t, v.resumed)
				require.Equal(t, first.origin, v.origin)
				if f.version == tls.VersionTLS13 {
					require.Len(t, v.tickets, 1)
					next = v.tickets[0]
				}
			}
		}
		second := f.call(t, a, nil)
		require.NotEqual(t, first.origin, second.origin)
		refused := f.call(t, b, forgedID(t, second.tickets[0]))
		require.False(t, refused.resumed)
		require.NotZero(t, refused.origin)
		require.NotContains(t, []libssl.SessionOrigin{first.origin, second.origin}, refused.origin)
		require.Zero(t, f.call(t, f.server(t), nil).origin, "without a store")
	})
}

// An FTPS server takes a data connection only from the client of the control connection. That client may resume with any ticket
// of it, or of a data connection before.
func TestConn_SessionOrigin_TellsWhoseDataConnectionItIs(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server, _ := f.node(t, memstore.New(memstore.Options{}), nil)
		control, other := f.call(t, server, nil), f.call(t, server, nil)
		var data called
		for _, ticket := range control.tickets {
			data = f.call(t, server, ticket)
			require.Equal(t, control.origin, data.origin)
		}
		for _, ticket := range data.tickets {
			require.Equal(t, control.origin, f.call(t, server, ticket).origin)
		}
		for _, ticket := range append(other.tickets, nil) {
			require.NotEqual(t, control.origin, f.call(t, server, ticket).origin)
		}
	})
}

func TestConn_SessionOrigin_WithStatelessTickets(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server, _ := f.node(t, memstore.New(memstore.Options{}), nil)
		require.NoError(t, server.UseTicketKeys(newRing(t)))
		first := f.call(t, server, nil)
		require.NotZero(t, first.origin)
		for _, ticket := range first.tickets {
			v := f.call(t, server, ticket)
			require.True(t, v.resumed)
			require.Equal(t, first.origin, v.origin)
		}
		require.NotEqual(t, first.origin, f.call(t, server, nil).origin)
	})
}

func TestSessionCache_Revoke(t *testing.T) {
	for name, tt := range map[string]struct {
		st  func() store.Store
		opt libssl.StoreOptions
	}{
		"local":          {func() store.Store { return memstore.New(memstore.Options{}) }, libssl.StoreOptions{}},
		"remote":         {func() store.Store { return newSpy() }, libssl.StoreOptions{Keys: newRing(t)}},
		"write-behind":   {func() store.Store { return newSpy() }, libssl.StoreOptions{Keys: newRing(t), WriteBehind: true}},
		"single use":     {func() store.Store { return newSpy() }, libssl.StoreOptions{Keys: newRing(t), SingleUse: true}},
		"plaintext":      {func() store.Store { return newSpy() }, libssl.StoreOptions{Plaintext: true}},
		"plaintext, ids": {func() store.Store { return newSpy() }, libssl.StoreOptions{Plaintext: true, Keys: newRing(t)}},
	} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				tt.opt.Revocable = true
				st := tt.st()
				a, cacheA := f.node(t, st, &tt.opt)
				b, cacheB := f.node(t, st, &tt.opt)
				stored := func() { wait(t, "the queue", func() bool { return cacheA.Stats().Queue+cacheB.Stats().Queue == 0 }) }
				gone, stays := f.call(t, a, nil), f.call(t, a, nil)
				stored()
				renewed := f.call(t, b, gone.tickets[0])
				require.True(t, renewed.resumed)
				stored()
				require.NoError(t, cacheA.Revoke(t.Context(), gone.origin))
				// A ticket that was taken is a miss already.
				refused := gone.tickets[1:]
				if f.version == tls.VersionTLS12 {
					refused = gone.tickets
				}
				refused = append(refused, renewed.tickets...)
				for _, ticket := range refused {
					require.False(t, f.call(t, b, ticket).resumed)
				}
				require.EqualValues(t, len(refused), cacheB.Stats().RejectedFor[libssl.RejectedRevoked])
				require.Zero(t, cacheB.Stats().PutBack)
				stored()
				require.True(t, f.call(t, b, stays.tickets[0]).resumed)
				require.Zero(t, cacheB.Stats().Misses, "tombstones that are not there are no misses")
			})
		})
	}
}

// Revoke ends no connection, and the next full handshake of the client has sessions that resume.
func TestSessionCache_Revoke_EndsSessionsOnly(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server, cache := f.node(t, memstore.New(memstore.Options{}), &libssl.StoreOptions{Revocable: true})
		cn, sn := tcpPipe(t)
		c, s := f.ends(t, cn, sn, server, nil)
		require.NoError(t, exchange(c, s))
		require.NoError(t, cache.Revoke(t.Context(), s.SessionOrigin()))
		require.NoError(t, exchange(c, s))
		again := f.call(t, server, sessionOf(t, c))
		require.False(t, again.resumed)
		require.NotEqual(t, s.SessionOrigin(), again.origin)
		require.True(t, f.call(t, server, again.tickets[0]).resumed)
	})
}

func TestSessionCache_Revoke_Refuses(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	origin := libssl.SessionOrigin{1}
	_, plain := f.node(t, memstore.New(memstore.Options{}), nil)
	require.ErrorIs(t, plain.Revoke(t.Context(), origin), libssl.ErrUnsupported)

	st := newSpy()
	server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), Revocable: true})
	require.ErrorContains(t, cache.Revoke(t.Context(), libssl.SessionOrigin{}), "zero")
	require.ErrorIs(t, server.UseTicketKeys(newRing(t)), libssl.ErrUnsupported)
	failure := errors.New("disk full")
	st.OnPut = func(context.Context, store.Record) error { return failure }
	require.ErrorIs(t, cache.Revoke(t.Context(), origin), failure)
	require.NoError(t, cache.Close(t.Context()))
	require.ErrorIs(t, cache.Revoke(t.Context(), origin), libssl.ErrClosed)

	stateless := f.server(t)
	require.NoError(t, stateless.UseTicketKeys(newRing(t)))
	_, err := stateless.UseStore(memstore.New(memstore.Options{}), &libssl.StoreOptions{Revocable: true})
	require.ErrorIs(t, err, libssl.ErrUnsupported)
}

func TestSessionCache_Revoke_HasTheDeadlineOfItsContext(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	st := newSpy()
	st.OnPut = func(ctx context.Context, r store.Record) error {
		deadline, _ := ctx.Deadline()
		assert.Greater(t, time.Until(deadline), time.Minute)
		return st.mem.Put(ctx, r)
	}
	_, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), Revocable: true, PutTimeout: time.Nanosecond, MaxLifetime: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	require.NoError(t, cache.Revoke(ctx, libssl.SessionOrigin{1}))
	require.Len(t, st.ids(t), 1)
	expires := st.record(t, st.ids(t)[0]).Expires
	require.WithinRange(t, expires, time.Now().Add(50*time.Minute), time.Now().Add(time.Hour), "as long as a session may live")
}

// A tombstone that cannot be read is a miss.
func TestRevocable_UnreadableTombstone(t *testing.T) {
	down := errors.New("down")
	for name, tt := range map[string]struct {
		answer func(id store.ID) (store.Record, error)
		count  func(s libssl.CacheStats) uint64
	}{
		"error": {func(store.ID) (store.Record, error) { return store.Record{}, down },
			func(s libssl.CacheStats) uint64 { return s.LookupErrors }},
		"damaged": {func(store.ID) (store.Record, error) { return store.Record{}, store.ErrDamaged },
			func(s libssl.CacheStats) uint64 { return s.RejectedFor[libssl.RejectedForged] }},
		"another record": {func(store.ID) (store.Record, error) { return store.Record{}, nil },
			func(s libssl.CacheStats) uint64 { return s.RejectedFor[libssl.RejectedForged] }},
		"empty": {func(id store.ID) (store.Record, error) { return store.Record{ID: id}, nil },
			func(s libssl.CacheStats) uint64 { return s.RejectedFor[libssl.RejectedForged] }},
		"garbage": {func(id store.ID) (store.Record, error) { return store.Record{ID: id, Data: []byte("\x06garbage")}, nil },
			func(s libssl.CacheStats) uint64 { return s.RejectedFor[libssl.RejectedForged] }},
		"of another version": {func(id store.ID) (store.Record, error) { return store.Record{ID: id, Data: []byte("\xff")}, nil },
			func(s libssl.CacheStats) uint64 { return s.Undecodable }},
		"of another fleet": {func(id store.ID) (store.Record, error) {
			return store.Record{ID: id, Data: entry.SealTombstone(newRing(t), id)}, nil
		}, func(s libssl.CacheStats) uint64 { return s.Undecodable }},
	} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				st := newSpy()
				server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), Revocable: true})
				sess := f.call(t, server, nil).tickets[0]
				st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
					if id != storeID(t, sess) {
						return tt.answer(id)
					}
					return st.mem.Get(ctx, id)
				}
				require.False(t, f.call(t, server, sess).resumed)
				s := cache.Stats()
				require.EqualValues(t, 1, tt.count(s))
				require.EqualValues(t, 1, s.Hits+s.Misses-s.Untagged+s.Rejected+s.Undecodable+s.LookupErrors+s.LookupTimeouts+s.LookupsSkipped)
				st.OnGet = nil
				require.True(t, f.call(t, server, sess).resumed, "the entry is still there")
			})
		})
	}
}

// Entry and tombstone are asked for at the same time.
func TestRevocable_CostsNoSecondRoundTrip(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		server, _ := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), Revocable: true})
		sess := f.call(t, server, nil).tickets[0]
		var met sync.WaitGroup
		met.Add(2)
		st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
			met.Done()
			met.Wait()
			return st.mem.Get(ctx, id)
		}
		require.True(t, f.call(t, server, sess).resumed)
		require.Len(t, st.asked(&st.gets), 2)
	})
}

// A ring that is rotated after a session was made and before it is revoked changes nothing.
func TestSessionCache_Revoke_AfterRotations(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		ring := newRing(t)
		server, cache := f.node(t, newSpy(), &libssl.StoreOptions{Keys: ring, Revocable: true})
		first, other := f.call(t, server, nil), f.call(t, server, nil)
		require.NoError(t, ring.Rotate())
		require.NoError(t, cache.Revoke(t.Context(), first.origin))
		require.NoError(t, ring.Rotate())
		require.False(t, f.call(t, server, first.tickets[0]).resumed)
		require.True(t, f.call(t, server, other.tickets[0]).resumed)
		require.EqualValues(t, 1, cache.Stats().RejectedFor[libssl.RejectedRevoked])
	})
}

// The ids of one origin have nothing in common that the store or the network could see.
func TestSessionOrigin_DoesNotShowInIDs(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, _ := f.node(t, newSpy(), &libssl.StoreOptions{Keys: newRing(t), Revocable: true})
	v := f.call(t, server, nil)
	require.Len(t, v.tickets, 2)
	a, b := storeID(t, v.tickets[0]).Bytes(), storeID(t, v.tickets[1]).Bytes()
	require.NotEqual(t, a[:8], b[:8])
	require.NotEqual(t, v.origin[:8], a[:8])
}

// OpenSSL does not always resume the session that it was given. Here its cipher has another hash than the one chosen now.
func TestConn_SessionOrigin_IsNotThatOfASessionOnlyOffered(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	st, keys := newSpy(), newRing(t)
	var servers []*libssl.Context
	for _, suite := range []string{"TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"} {
		server := f.server(t)
		require.NoError(t, server.SetCipherSuites(suite))
		require.NoError(t, server.SetSessionIDContext([]byte("both")))
		useStore(t, server, st, &libssl.StoreOptions{Keys: keys, Revocable: true})
		servers = append(servers, server)
	}
	first := f.call(t, servers[0], nil)
	second := f.call(t, servers[1], first.tickets[0])
	require.False(t, second.resumed)
	require.Len(t, st.asked(&st.gets), 2, "the session was found")
	require.NotEqual(t, first.origin, second.origin)
}

// A Put that was given up may still reach the store, after the Delete or the Revoke that was to end the session. A deleted
// session is back then, a revoked one is not.
func TestSessionCache_Revoke_HoldsAgainstALatePut(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for _, revoke := range []bool{false, true} {
			st := newSpy()
			server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), Revocable: true})
			v := f.call(t, server, nil)
			ticket := v.tickets[0]
			late := st.record(t, storeID(t, ticket))
			require.NoError(t, st.Delete(t.Context(), late.ID))
			require.False(t, f.call(t, server, ticket).resumed)
			if revoke {
				require.NoError(t, cache.Revoke(t.Context(), v.origin))
			}
			require.NoError(t, st.Put(t.Context(), late))
			require.Equal(t, !revoke, f.call(t, server, ticket).resumed)
		}
	})
}

package libssl_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"expvar"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/stretchr/testify/require"
)

var _ expvar.Var = (*libssl.SessionCache)(nil)

func TestStats_TellTheStoryOfAStore(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server, sc := f.node(t, memstore.New(memstore.Options{}), nil)
		require.Zero(t, sc.Stats())
		v := f.visit(t, server, nil)
		first := sc.Stats()
		require.Greater(t, first.Full.Sum, first.Put.Sum, "a handshake contains its puts")
		for range 3 {
			require.True(t, f.visit(t, server, v.next).resumed)
		}
		st := sc.Stats()
		require.EqualValues(t, 1, st.Full.Count())
		require.EqualValues(t, 3, st.Resumed.Count())
		require.EqualValues(t, 3, st.Get.Count())
		require.Equal(t, st.Stored, st.Put.Count())
		require.EqualValues(t, 3, st.Hits)
		for _, h := range []libssl.Histogram{st.Get, st.Put, st.Full, st.Resumed} {
			require.Positive(t, h.Sum)
		}

		var read libssl.CacheStats
		require.NoError(t, json.Unmarshal([]byte(sc.String()), &read))
		require.Equal(t, st, read)
	})
}

func TestStats_SplitRejectionsByReason(t *testing.T) {
	f := newFleet(t, tls.VersionTLS12)
	st := memstore.New(memstore.Options{})
	server, sc := f.node(t, st, nil)
	v := f.visit(t, server, nil)
	rec, err := st.Get(t.Context(), v.id)
	require.NoError(t, err)
	rec.Data[len(rec.Data)-1] ^= 1
	require.NoError(t, st.Put(t.Context(), rec))
	require.False(t, f.visit(t, server, v.next).resumed)
	stats := sc.Stats()
	require.EqualValues(t, 1, stats.Rejected)
	require.EqualValues(t, 1, stats.RejectedFor[libssl.RejectedForged])

	plain := memstore.New(memstore.Options{})
	server, sc = f.node(t, plain, &libssl.StoreOptions{Plaintext: true, MaxLifetime: time.Hour})
	v = f.visit(t, server, nil)
	rec, err = plain.Get(t.Context(), v.id)
	require.NoError(t, err)
	other, err := store.IDFromBytes([]byte("another one"))
	require.NoError(t, err)
	rec.ID = other
	require.NoError(t, plain.Delete(t.Context(), v.id))
	require.NoError(t, plain.Put(t.Context(), rec))
	require.False(t, f.visit(t, server, v.next).resumed)
	require.Zero(t, sc.Stats().Rejected, "absent")

	seen := map[string]bool{}
	for _, r := range libssl.Rejections() {
		require.NotEmpty(t, r.String())
		require.False(t, seen[r.String()])
		seen[r.String()] = true
	}
}

func TestStats_CountTakenEntries(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, sc := f.node(t, memstore.New(memstore.Options{}), &libssl.StoreOptions{SingleUse: true})
	v := f.visit(t, server, nil)
	require.True(t, f.visit(t, server, v.next).resumed)
	require.EqualValues(t, 1, sc.Stats().Taken)
}

func TestStats_CountALookupOnce(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st, ring := newSpy(), newRing(t)
		type get func(ctx context.Context, id store.ID) (store.Record, error)
		var answer atomic.Pointer[get]
		st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) { return (*answer.Load())(ctx, id) }
		answers := func(g get) { answer.Store(&g) }
		answers(st.mem.Get)
		var full atomic.Bool
		st.OnPut = func(ctx context.Context, r store.Record) error {
			if full.Load() {
				return errDown
			}
			return st.mem.Put(ctx, r)
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: ring})
		i := f.issue(t, server, st, ring)
		lookups := uint64(0)
		counts := func(want uint64, of func(libssl.CacheStats) uint64) {
			t.Helper()
			require.Equal(t, want == 0, f.visit(t, server, i.sess).resumed)
			lookups++
			s := found(cache)
			if want > 0 {
				require.Equal(t, want, of(s))
			}
			require.Equal(t, lookups, s.Hits+s.Misses+s.Rejected+s.Undecodable+s.LookupErrors+s.LookupTimeouts+s.LookupsSkipped)
		}
		counts(0, nil)
		require.EqualValues(t, 1, cache.Stats().Hits)
		answers(func(context.Context, store.ID) (store.Record, error) { return store.Record{}, store.ErrNotFound })
		counts(1, func(s libssl.CacheStats) uint64 { return s.Misses })
		answers(func(context.Context, store.ID) (store.Record, error) {
			return store.Record{ID: i.id, Data: []byte{1}}, nil
		})
		counts(1, func(s libssl.CacheStats) uint64 { return s.Rejected + s.Undecodable })
		answers(func(ctx context.Context, _ store.ID) (store.Record, error) {
			<-ctx.Done()
			return store.Record{}, ctx.Err()
		})
		cache.SetTimeouts(short, time.Minute)
		counts(1, func(s libssl.CacheStats) uint64 { return s.LookupTimeouts })
		cache.SetTimeouts(time.Minute, time.Minute)
		answers(func(context.Context, store.ID) (store.Record, error) { return store.Record{}, errDown })
		counts(1, func(s libssl.CacheStats) uint64 { return s.LookupErrors })

		for !cache.Stats().Open {
			counts(cache.Stats().LookupErrors+1, func(s libssl.CacheStats) uint64 { return s.LookupErrors })
		}

		// Puts fail too, and are no lookups.
		full.Store(true)
		f.visit(t, server, nil)
		require.EqualValues(t, f.tickets, cache.Stats().Errors-cache.Stats().LookupErrors)
		counts(1, func(s libssl.CacheStats) uint64 { return s.LookupsSkipped })
		require.EqualValues(t, 1, cache.Stats().Skipped)
	})
}

// lateOnce is a transport whose first Read times out after a while.
type lateOnce struct {
	net.Conn
	after time.Duration
	done  bool
}

func (l *lateOnce) Read(p []byte) (int, error) {
	if !l.done {
		l.done = true
		time.Sleep(l.after)
		return 0, os.ErrDeadlineExceeded
	}
	return l.Conn.Read(p)
}

// A handshake that a timeout cut in two took the time of both parts.
func TestStats_AHandshakesTimeIsThatOfAllItsCalls(t *testing.T) {
	f := newFleet(t, tls.VersionTLS12)
	server, cache := f.node(t, memstore.New(memstore.Options{}), nil)
	cn, sn := tcpPipe(t)
	const first = 50 * time.Millisecond
	c, s := f.ends(t, cn, &lateOnce{Conn: sn, after: first}, server, nil)
	require.ErrorIs(t, s.Handshake(), os.ErrDeadlineExceeded)
	require.NoError(t, exchange(c, s))
	full := cache.Stats().Full
	require.EqualValues(t, 1, full.Count())
	require.Greater(t, full.Sum, first)
	require.Zero(t, full.Counts[0])
}

func TestStats_NameRejectionsInJSON(t *testing.T) {
	var c libssl.RejectionCounts
	c[libssl.RejectedExpired] = 3
	text, err := json.Marshal(c)
	require.NoError(t, err)
	var named map[string]uint64
	require.NoError(t, json.Unmarshal(text, &named))
	require.Len(t, named, len(libssl.Rejections()))
	require.EqualValues(t, 3, named["expired"])

	var read libssl.RejectionCounts
	require.NoError(t, json.Unmarshal([]byte(`{"expired":3,"a later version's":1}`), &read))
	require.Equal(t, c, read)
	require.Error(t, json.Unmarshal([]byte(`[1]`), &read))
}

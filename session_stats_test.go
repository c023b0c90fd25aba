package libssl_test

import (
	"crypto/tls"
	"encoding/json"
	"expvar"
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
		require.Greater(t, st.Full.Sum, st.Put.Sum/time.Duration(st.Put.Count()), "a handshake contains its puts")

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

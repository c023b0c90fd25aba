package libssl_test

import (
	"bytes"
	"crypto/tls"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

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

package peers_test

import (
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

const again = 20

// One full handshake, then twenty that resume: counted by the clients, by OpenSSL and by the cache.
func TestHAProxy_FullThenTwentyResumed(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		st := newShared()
		server, cache := h.node(t, st, libssl.StoreOptions{Keys: newRing(t)})
		client := h.client(t)
		count := h.twenty(t, client, server, nil)
		require.Equal(t, again, count)

		made := map[way]int{ids12: 1, stateful13: 1 + again}[h.way] // a resumption of 1.3 makes the next session
		require.Len(t, ids(t, st.mem), made)
		want := libssl.CacheStats{Hits: again, Suspended: again, Stored: uint64(made)}
		got := cache.Stats()
		for _, c := range []struct {
			times *libssl.Histogram
			want  int
		}{{&got.Get, again}, {&got.Put, made}, {&got.Full, 1}, {&got.Resumed, again}} {
			measured := 0
			for _, n := range c.times.Counts {
				measured += int(n)
			}
			require.Equal(t, c.want, measured)
			*c.times = libssl.Histogram{}
		}
		require.Equal(t, want, got)
		require.Equal(t, libssl.Stats{
			Accept: 1 + again, AcceptGood: 1 + again, Hits: again, CallbackHits: again,
		}, server.Stats())
		clients := client.Stats()
		require.Equal(t, 1+again, clients.Connect)
		require.Equal(t, 1+again, clients.ConnectGood)
		require.Equal(t, again, clients.Hits)
	})
}

// twenty visits once, offering sess, and twenty times again with what the visit before brought. It counts how often
// those resumed; the first must not.
func (h *host) twenty(t testing.TB, client, server *libssl.Context, sess *libssl.Session) (resumptions int) {
	t.Helper()
	resumed, sess := h.visit(t, client, server, sess)
	require.False(t, resumed)
	for range again {
		if resumed, sess = h.visit(t, client, server, sess); resumed {
			resumptions++
		}
	}
	return resumptions
}

// Two binds share the store and differ in their certificate or in what they ask clients for. Neither resumes what the
// other made, whichever was first, and each goes on with its own.
func TestHAProxy_OtherBindDoesNotResume(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		for name, other := range map[string]setting{
			"other certificate":   certificate(h.ca.Leaf(t, h.name, "other.test")),
			"verify optional":     demands(libssl.VerifyPeer, h.ca),
			"verify required":     demands(libssl.VerifyRequirePeer, h.ca),
			"other ciphers":       func(ctx *libssl.Context) error { return ctx.SetCiphers("ECDHE-ECDSA-AES256-GCM-SHA384") },
			"other cipher suites": func(ctx *libssl.Context) error { return ctx.SetCipherSuites("TLS_AES_256_GCM_SHA384") },
		} {
			t.Run(name, func(t *testing.T) {
				opt := libssl.StoreOptions{Keys: newRing(t)}
				st := newShared()
				client := h.client(t, certificate(h.ca.Leaf(t, "client.test")))
				plain, plainCache := h.node(t, st, opt)
				changed, changedCache := h.node(t, st, opt, other)

				_, ofPlain := h.visit(t, client, plain, nil)
				require.Equal(t, again, h.twenty(t, client, changed, ofPlain))
				_, ofChanged := h.visit(t, client, changed, nil)
				require.Equal(t, again, h.twenty(t, client, plain, ofChanged))
				require.EqualValues(t, 1, plainCache.Stats().Rejected)
				require.EqualValues(t, 1, changedCache.Stats().Rejected)

				resumed, _ := h.visit(t, client, plain, ofPlain)
				require.True(t, resumed, "the refusals cost it nothing")
				resumed, _ = h.visit(t, client, changed, ofChanged)
				require.True(t, resumed)
			})
		}
	})
}

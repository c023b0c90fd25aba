package callbacks_test

import (
	"context"
	"crypto/tls"
	"sync/atomic"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/require"
)

// A session that does not fit the ClientHello would fail the handshake, or be passed over after it was counted. It is a miss,
// and stays good for the client that made it.
func TestSession_ThatDoesNotFitTheHelloIsAMiss(t *testing.T) {
	fragments := func(n int) func(t testing.TB, client *libssl.Context) {
		return func(t testing.TB, client *libssl.Context) { require.True(t, cref.AskForFragments(client.Pointer(), n)) }
	}
	ciphers := func(list string) func(t testing.TB, client *libssl.Context) {
		return func(t testing.TB, client *libssl.Context) { require.NoError(t, client.SetCiphers(list)) }
	}
	for what, c := range map[string]struct {
		first, second func(t testing.TB, client *libssl.Context)
		version       uint16 // 0: both
	}{
		"another cipher":      {ciphers("ECDHE-ECDSA-AES128-GCM-SHA256"), ciphers("ECDHE-ECDSA-AES256-GCM-SHA384"), tls.VersionTLS12},
		"no fragment length":  {fragments(1), fragments(0), tls.VersionTLS12}, // in 1.3 later clients hold the server to what they do not ask for
		"another length":      {fragments(1), fragments(2), tls.VersionTLS12},
		"a fragment length":   {fragments(0), fragments(1), 0},
		"extended secret now": {func(_ testing.TB, client *libssl.Context) { client.SetOptions(libssl.OpNoExtendedMasterSecret) }, fragments(0), tls.VersionTLS12},
	} {
		for _, m := range modes {
			if c.version != 0 && c.version != m.version {
				continue
			}
			for _, e := range engines {
				t.Run(what+"/"+m.name+"/"+e.name, func(t *testing.T) {
					if what == "extended secret now" && libssl.OpNoExtendedMasterSecret == 0 {
						t.Skip("OpenSSL before 3.0 has no SSL_OP_NO_EXTENDED_MASTER_SECRET")
					}
					server := m.server(t)
					var cache *libssl.SessionCache
					if m.asks {
						cache = useStore(t, server, memstore.New(memstore.Options{}), nil)
					}
					first, second := newClient(t), newClient(t)
					c.first(t, first)
					c.second(t, second)
					made := e.link(t, first, server, nil).closed()
					defer made.session.Release()
					for _, client := range []*libssl.Context{second, first} {
						offer, err := made.session.Dup() // a handshake changes what it offers
						require.NoError(t, err)
						l := e.link(t, client, server, offer).closed()
						offer.Release()
						l.session.Release()
						require.Equal(t, client == first, l.reused)
					}
					if m.asks {
						require.EqualValues(t, 1, cache.Stats().Hits)
						require.EqualValues(t, 1, cache.Stats().RejectedFor[libssl.RejectedHello])
					}
				})
			}
		}
	}
}

// counting counts lookups.
type counting struct {
	*memstore.Store
	gets atomic.Int32
}

func (c *counting) Get(ctx context.Context, id store.ID) (store.Record, error) {
	c.gets.Add(1)
	return c.Store.Get(ctx, id)
}

// A session of a version that the server has given up is not asked for.
func TestSession_OfAVersionOutOfRangeIsAMiss(t *testing.T) {
	for _, m := range storeModes() {
		other := map[uint16]uint16{tls.VersionTLS12: tls.VersionTLS13, tls.VersionTLS13: tls.VersionTLS12}[m.version]
		for _, e := range engines {
			t.Run(m.name+"/"+e.name, func(t *testing.T) {
				former, server, client, st := m.server(t), m.server(t), newClient(t), &counting{Store: memstore.New(memstore.Options{})}
				useStore(t, former, st, nil)
				made := e.link(t, client, former, nil).closed()
				defer made.session.Release()
				require.NoError(t, server.SetVersions(other, other))
				cache := useStore(t, server, st, nil)
				l := e.link(t, client, server, made.session).closed()
				l.session.Release()
				require.False(t, l.reused)
				require.Zero(t, cache.Stats().Hits)
				require.Zero(t, st.gets.Load())
			})
		}
	}
}

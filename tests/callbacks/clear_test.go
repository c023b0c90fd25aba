package callbacks_test

import (
	"crypto/tls"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/require"
)

// SSL_clear makes an SSL forget that it resumed. The entry that it took for that is spent all the same, whether the SSL
// is used again, freed, or both.
func TestGuests_ClearedSSLKeepsWhatItUsed(t *testing.T) {
	for name, after := range map[string]func(p *cref.Pair, run func(*cref.Pair) bool) bool{
		"freed": func(*cref.Pair, func(*cref.Pair) bool) bool { return true },
		"used and freed": func(p *cref.Pair, run func(*cref.Pair) bool) bool {
			run(p) // fails on 1.1.1, where a cleared SSL can only resume in TLS 1.3
			return !p.Reused()
		},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, mode func(*libssl.SessionCache) func(*cref.Pair) bool) {
				st, client, server := newRemote(), newClient(t), modes[3].server(t)
				sc := useStore(t, server, st, &libssl.StoreOptions{LookupTimeout: ample, SingleUse: true})
				run := mode(sc)
				sess := issue(t, client, server, sc)
				require.NoError(t, server.SetNumTickets(0)) // a ticket would tell that the handshake is over
				p := newPair(t, client, server, sess)
				require.True(t, run(p))
				require.True(t, p.Reused())
				require.True(t, p.Clear(client.Pointer(), sess.Pointer()))
				require.True(t, after(p, run))
				p.Free(true)
				stored(t, sc)
				require.Zero(t, st.mem.Len())
				require.Zero(t, sc.Stats().PutBack)
			})
		})
	}
}

// SSL_clear leaves an SSL with the context of its last connection. The name of the next one chooses again: a handler that
// stays means the Context that the SSL was made with.
func TestServerName_ChoosesAgainAfterClear(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			front, chosen, client := m.server(t), m.server(t), newClient(t)
			front.SetServerNameCallback(func(_ *libssl.SSL, host string) *libssl.Context {
				if host == name {
					return chosen
				}
				return nil
			})
			p := newPair(t, client, front, nil)
			defer p.Free(true)
			require.True(t, p.Run())
			require.Equal(t, chosen.Pointer(), cref.CurrentContext(p.Server()))
			require.True(t, p.Clear(client.Pointer(), nil), "the next client names no server")
			ran := p.Run() // fails on 1.1.1, where a cleared SSL can only resume in TLS 1.3
			require.True(t, ran || m.version == tls.VersionTLS13)
			if ran {
				require.Equal(t, front.Pointer(), cref.CurrentContext(p.Server()))
			}
		})
	}
}

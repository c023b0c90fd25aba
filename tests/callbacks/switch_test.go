package callbacks_test

import (
	"crypto/x509"
	"testing"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// SSL_set_SSL_CTX leaves an SSL the verification that it was made with: mode, callback and parameters. A switch by the server
// name has to carry over those of the Context that is chosen, be they stricter or laxer.
func TestServerName_SwitchCarriesThePolicyOver(t *testing.T) {
	ca := tlstest.NewCA(t, "clients")
	inter := ca.Intermediate(t, "intermediate")
	type settings func(t testing.TB, ctx *libssl.Context)
	asks := func(t testing.TB, ctx *libssl.Context) {
		require.NoError(t, ctx.AddClientCAsPEM(ca.PEM))
		require.NoError(t, ctx.SetVerify(libssl.VerifyRequirePeer))
	}
	asksNothing := func(testing.TB, *libssl.Context) {}
	shows := func(by *tlstest.CA, chain ...byte) settings {
		return func(t testing.TB, client *libssl.Context) {
			cert, key := by.Leaf(t, "client")
			require.NoError(t, client.UseCertificatePEM(append(cert, chain...), key))
		}
	}
	demands := func(demand func(sslCtx unsafe.Pointer) bool) settings {
		return func(t testing.TB, ctx *libssl.Context) {
			asks(t, ctx)
			require.True(t, demand(ctx.Pointer()))
		}
	}
	ofHost := func(sslCtx unsafe.Pointer) bool { return cref.DemandHost(sslCtx, "other") }
	onlyClient := func(t testing.TB, client *libssl.Context) {
		cert, key := ca.LeafWith(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "client")
		require.NoError(t, client.UseCertificatePEM(cert, key))
	}
	for _, c := range []struct {
		name          string
		front, chosen settings
		client        settings
		in            bool
	}{
		{"asks", asksNothing, asks, asksNothing, false},
		{"asks and is shown", asksNothing, asks, shows(ca), true},
		{"asks nothing", asks, asksNothing, asksNothing, true},
		{"short chains only", asks, func(t testing.TB, ctx *libssl.Context) {
			asks(t, ctx)
			cref.SetVerifyDepth(ctx.Pointer(), 0)
		}, shows(inter, inter.PEM...), false},
		{"long chains", asks, asks, shows(inter, inter.PEM...), true},
		{"callback", asks, func(t testing.TB, ctx *libssl.Context) {
			asks(t, ctx)
			cref.LetAllIn(ctx.Pointer())
		}, shows(tlstest.NewCA(t, "stranger")), true},
		{"no callback", func(t testing.TB, ctx *libssl.Context) {
			asks(t, ctx)
			cref.LetAllIn(ctx.Pointer())
		}, asks, shows(tlstest.NewCA(t, "stranger")), false},
		{"revocation lists", asks, demands(cref.DemandCRLs), shows(ca), false},
		{"no revocation lists", demands(cref.DemandCRLs), asks, shows(ca), true},
		{"purpose", asks, demands(cref.DemandServer), onlyClient, false},
		{"no purpose", demands(cref.DemandServer), asks, onlyClient, true},
		{"name", asks, demands(ofHost), shows(ca), false},
		{"no name", demands(ofHost), asks, shows(ca), true},
		{"verify store", asks, demands(cref.TrustNone), shows(ca), false},
		{"no verify store", demands(cref.TrustNone), asks, shows(ca), true},
	} {
		for _, m := range storeModes() {
			t.Run(c.name+"/"+m.name, func(t *testing.T) {
				front, chosen, client := m.server(t), m.server(t), newClient(t)
				c.front(t, front)
				c.chosen(t, chosen)
				c.client(t, client)
				front.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return chosen })
				p := newPair(t, client, front, nil)
				defer p.Free(false)
				require.Equal(t, c.in, p.Run())
			})
		}
	}
}

// RFC 6066, section 3: a server confirms the name in a full handshake, and not in a resumption.
func TestServerName_IsNotConfirmedInAResumption(t *testing.T) {
	for _, e := range engines {
		for _, m := range modes {
			t.Run(e.name+" SSLs/"+m.name, func(t *testing.T) {
				server, client := m.server(t), newClient(t)
				cref.WatchNames(client.Pointer())
				first := e.link(t, client, server, nil).closed()
				defer first.session.Release()
				require.Equal(t, 1, cref.NamesConfirmed())
				second := e.link(t, client, server, first.session).closed()
				defer second.session.Release()
				require.True(t, second.reused)
				require.Equal(t, 1, cref.NamesConfirmed())
				require.Equal(t, name, second.session.ServerName())
			})
		}
	}
}

// A session made under a name resumes under no other one that the certificate is not good for.
func TestServerName_BindsSessionsOfSSLsOfC(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			server, client := m.server(t), newClient(t)
			if m.asks {
				useStore(t, server, memstore.New(memstore.Options{}), nil)
			}
			first := linkC(t, client, server, nil).closed()
			defer first.session.Release()
			for _, host := range []string{"other.test", name} {
				p, err := cref.NewPair(client.Pointer(), server.Pointer(), host, first.session.Pointer())
				require.NoError(t, err)
				require.True(t, p.Run())
				require.Equal(t, host == name, p.Reused(), host)
				p.Free(true)
			}
		})
	}
}

package callbacks_test

import (
	"crypto/rand"
	"crypto/rsa"
	"testing"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

// computing is a server without an id context of its own, which asks for client certificates but does without one.
func (m mode) computing(t testing.TB, ca *tlstest.CA) *libssl.Context {
	t.Helper()
	ctx := m.server(t)
	require.NoError(t, ctx.SetSessionIDContext(nil))
	require.NoError(t, ctx.AddClientCAsPEM(ca.PEM))
	require.NoError(t, ctx.SetVerify(libssl.VerifyPeer))
	return ctx
}

// Two servers have equal computed id contexts unless something differs that decides who is let in. The client has no
// certificate, so only the id context can keep its session from resuming.
func TestIDContext_CoversThePolicy(t *testing.T) {
	ca, other := tlstest.NewCA(t, "clients"), tlstest.NewCA(t, "others")
	cert, key := ca.Leaf(t, name)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	withKey := func(names ...string) func(*libssl.Context) bool {
		return func(c *libssl.Context) bool {
			cert, key := ca.Leaf(t, names...)
			return c.UseCertificatePEM(cert, key) == nil
		}
	}
	inC := func(f func(sslCtx unsafe.Pointer) bool) func(*libssl.Context) bool {
		return func(c *libssl.Context) bool { return f(c.Pointer()) }
	}
	both := func(a, b func(*libssl.Context) bool) func(*libssl.Context) bool {
		return func(c *libssl.Context) bool { return a(c) && b(c) }
	}
	list := ca.CRL(t)
	for _, tt := range []struct {
		name          string
		first, second func(*libssl.Context) bool // nil: nothing
		equal         bool
		since         string // the first OpenSSL that tells of it
	}{
		{"nothing", nil, nil, true, ""},
		{"renewed certificate", nil, withKey(name), true, ""},
		{"names in another order", withKey(name, "a.test", "b.test"), withKey(name, "b.test", "a.test"), true, ""},
		{"another kind of key", nil, func(c *libssl.Context) bool {
			cert, key := ca.LeafWithKey(t, rsaKey, name)
			return c.UseCertificatePEM(cert, key) == nil
		}, true, ""},
		{"two kinds of keys", nil, func(c *libssl.Context) bool {
			cert, key := ca.LeafWithKey(t, rsaKey, name)
			return c.UseCertificatePEM(cert, key) == nil && withKey(name)(c)
		}, true, ""},
		{"ALPN", nil, func(c *libssl.Context) bool { return c.SetALPN("h2") == nil }, true, ""},
		{"another name", nil, withKey(name, "also.test"), false, ""},
		{"CA", nil, func(c *libssl.Context) bool { return c.AddClientCAsPEM(other.PEM) == nil }, false, ""},
		{"mode", nil, func(c *libssl.Context) bool { return c.SetVerify(libssl.VerifyNone) == nil }, false, ""},
		{"equal CRLs", inC(func(p unsafe.Pointer) bool { return cref.AddCRL(p, list) }),
			inC(func(p unsafe.Pointer) bool { return cref.AddCRL(p, list) }), true, ""},
		{"CRL", nil, inC(func(p unsafe.Pointer) bool { return cref.AddCRL(p, list) }), false, ""},
		{"another CRL", inC(func(p unsafe.Pointer) bool { return cref.AddCRL(p, list) }),
			inC(func(p unsafe.Pointer) bool { return cref.AddCRL(p, ca.CRL(t, cert)) }), false, ""},
		{"flags", nil, inC(cref.DemandCRLs), false, ""},
		{"depth", nil, inC(func(p unsafe.Pointer) bool { cref.SetVerifyDepth(p, 3); return true }), false, ""},
		{"security level", nil, inC(func(p unsafe.Pointer) bool { cref.SetSecurityLevel(p, 0); return true }), false, ""},
		{"time", nil, inC(func(p unsafe.Pointer) bool { cref.SetVerifyTime(p, time.Now()); return true }), false, ""},
		{"host", nil, inC(func(p unsafe.Pointer) bool { return cref.DemandHost(p, "a.test") }), false, "3"},
		{"another host", inC(func(p unsafe.Pointer) bool { return cref.DemandHost(p, "a.test") }),
			inC(func(p unsafe.Pointer) bool { return cref.DemandHost(p, "b.test") }), false, "3"},
		{"purpose", nil, inC(cref.DemandServer), false, "4"},
		{"verify store", nil, inC(func(p unsafe.Pointer) bool { return cref.VerifyBy(p, other.PEM) }), false, "3"},
		{"equal verify store", nil, inC(func(p unsafe.Pointer) bool { return cref.VerifyBy(p, ca.PEM) }), true, ""},
		{"verify store and another CA beside it", inC(func(p unsafe.Pointer) bool { return cref.VerifyBy(p, ca.PEM) }),
			both(inC(func(p unsafe.Pointer) bool { return cref.VerifyBy(p, ca.PEM) }),
				func(c *libssl.Context) bool { return c.AddClientCAsPEM(other.PEM) == nil }), true, "3"},
	} {
		client := newClient(t)
		for _, m := range modes {
			for _, e := range engines {
				share := m.sharing(t)
				delete(share, "handlers") // which need an id context
				for how, share := range share {
					t.Run(tt.name+"/"+m.name+"/"+e.name+"/"+how, func(t *testing.T) {
						if opensslVersion() < tt.since {
							t.Skip("this OpenSSL has no getter of this verify parameter")
						}
						first, second := m.computing(t, ca), m.computing(t, ca)
						for ctx, settings := range map[*libssl.Context]func(*libssl.Context) bool{first: tt.first, second: tt.second} {
							require.NoError(t, ctx.UseCertificatePEM(cert, key))
							if settings != nil {
								require.True(t, settings(ctx))
							}
							share(ctx)
						}
						_, sess := visit(t, e, client, first, nil)
						resumed, _ := visit(t, e, client, second, sess)
						require.Equal(t, tt.equal, resumed)
					})
				}
			}
		}
	}
}

// No id context is computed where something decides who is let in that OpenSSL has no getter for.
func TestIDContext_IsNotComputedOverWhatCannotBeSeen(t *testing.T) {
	ca := tlstest.NewCA(t, "clients")
	ring, err := ticket.NewRing()
	require.NoError(t, err)
	uses := map[string]func(c *libssl.Context) error{
		"store": func(c *libssl.Context) error {
			sc, err := c.UseStore(memstore.New(memstore.Options{}), nil)
			if err == nil {
				t.Cleanup(func() { sc.Close(t.Context()) })
			}
			return err
		},
		"ring": func(c *libssl.Context) error { return c.UseTicketKeys(ring) },
	}
	for _, tt := range []struct {
		name, says string
		unseen     func(t testing.TB, c *libssl.Context)
	}{
		{"verify callback", "verify callback", func(t testing.TB, c *libssl.Context) {
			asksFor(t, c, ca)
			cref.LetAllIn(c.Pointer())
		}},
		{"CA path", "no CA is loaded", func(t testing.TB, c *libssl.Context) {
			require.NoError(t, c.SetVerify(libssl.VerifyRequirePeer))
			require.True(t, cref.SetCAPath(c.Pointer(), caPath(t, ca)))
		}},
		{"CA path beside a CA", "CAs are loaded when", func(t testing.TB, c *libssl.Context) {
			asksFor(t, c, ca)
			path := tlstest.NewCA(t, "another")
			require.True(t, cref.SetCAPath(c.Pointer(), caPath(t, path)))
			require.True(t, cref.Announce(c.Pointer(), path.PEM))
		}},
		{"certificate from a callback", "no certificate", func(t testing.TB, c *libssl.Context) {
			cert, key := ca.Leaf(t, name)
			require.True(t, cref.CertifyByCallback(c.Pointer(), cert, key))
		}},
	} {
		for how, use := range uses {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				server, err := libssl.NewContext(libssl.ServerRole)
				require.NoError(t, err)
				defer server.Close()
				if tt.says != "no certificate" {
					cert, key := ca.Leaf(t, name)
					require.NoError(t, server.UseCertificatePEM(cert, key))
				}
				tt.unseen(t, server)
				err = use(server)
				require.ErrorContains(t, err, tt.says)
				require.ErrorContains(t, err, "SetSessionIDContext")
				require.NoError(t, server.SetSessionIDContext([]byte("ours")))
				require.NoError(t, use(server))
			})
		}
	}
}

// CAs of a CApath join the store with the first client that needs them. That changes no id context.
func TestIDContext_StaysWhenCAsJoin(t *testing.T) {
	ca, joins := tlstest.NewCA(t, "clients"), tlstest.NewCA(t, "joins")
	for _, m := range storeModes() {
		for _, e := range engines {
			t.Run(m.name+"/"+e.name, func(t *testing.T) {
				client, server := newClient(t), m.computing(t, ca)
				require.True(t, cref.SetCAPath(server.Pointer(), caPath(t, joins))) // not announced, so it cannot be seen
				useStore(t, server, memstore.New(memstore.Options{}), nil)
				_, sess := visit(t, e, client, server, nil)
				known := newClient(t)
				cert, key := joins.Leaf(t, "client")
				require.NoError(t, known.UseCertificatePEM(cert, key))
				in, _, _ := e.enter(t, known, server, nil)
				require.True(t, in)
				resumed, _ := visit(t, e, client, server, sess)
				require.True(t, resumed)
			})
		}
	}
}

// A setter after UseStore that finds something it cannot see leaves no id context of the old policy.
func TestIDContext_OfNoPolicyWhereASetterCannotComputeIt(t *testing.T) {
	ca := tlstest.NewCA(t, "clients")
	for _, m := range storeModes() {
		t.Run(m.name, func(t *testing.T) {
			client, server := newClient(t), m.computing(t, ca)
			useStore(t, server, memstore.New(memstore.Options{}), nil)
			_, old := visit(t, engines[1], client, server, nil)
			cref.LetAllIn(server.Pointer())
			require.ErrorContains(t, server.SetVerify(libssl.VerifyPeer), "verify callback")
			resumed, sess := visit(t, engines[1], client, server, old)
			require.False(t, resumed)
			require.NoError(t, server.SetSessionIDContext([]byte("ours")))
			resumed, sess = visit(t, engines[1], client, server, sess)
			require.False(t, resumed)
			resumed, _ = visit(t, engines[1], client, server, sess)
			require.True(t, resumed)
		})
	}
}

// A Context that a server name chooses has an id context computed for it. It goes on without one where it serves by itself.
func TestIDContext_OfAChosenContextIsNotItsOwn(t *testing.T) {
	for _, m := range modes {
		if m.asks { // its own sessions are in tickets
			continue
		}
		for _, e := range engines {
			t.Run(m.name+"/"+e.name, func(t *testing.T) {
				client, front, chosen := newClient(t), m.server(t), m.server(t)
				require.NoError(t, chosen.SetSessionIDContext(nil))
				front.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return chosen })
				_, own := visit(t, e, client, chosen, nil)
				visit(t, e, client, front, nil)
				resumed, _ := visit(t, e, client, chosen, own)
				require.True(t, resumed)
			})
		}
	}
}

package callbacks_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// enter is a handshake that the server may refuse. The session, which is the client's, is the next handshake's to offer.
func (e engine) enter(t testing.TB, client, server *libssl.Context, offer *libssl.Session) (in, resumed bool, s *libssl.Session) {
	t.Helper()
	if e.name == "C" {
		p, err := cref.NewPair(client.Pointer(), server.Pointer(), name, offer.Pointer())
		require.NoError(t, err)
		defer p.Free(true)
		if !p.Run() {
			return false, false, nil
		}
		s, err = libssl.WrapSession(p.Session(), libssl.Transfer)
		require.NoError(t, err)
		t.Cleanup(s.Release)
		return true, p.Reused(), s
	}
	cn, sn, err := tlstest.TCPPair()
	require.NoError(t, err)
	c, err := libssl.Client(cn, client, name)
	require.NoError(t, err)
	accepted := make(chan *libssl.Conn)
	go func() {
		conn, err := libssl.Server(sn, server)
		if err == nil {
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			if conn.Handshake() == nil {
				conn.Write([]byte{'x'}) // behind the tickets
			}
		}
		accepted <- conn
	}()
	if offer != nil {
		require.NoError(t, c.SetSession(offer))
	}
	c.SetDeadline(time.Now().Add(30 * time.Second))
	_, err = c.Read(make([]byte, 1))
	conn := <-accepted
	require.NotNil(t, conn)
	defer func() {
		go c.Close()
		conn.Close()
	}()
	if err != nil {
		return false, false, nil
	}
	s, err = c.Session()
	require.NoError(t, err)
	t.Cleanup(s.Release)
	return true, conn.SessionReused(), s
}

// serverOf is a server whose SSL_CTX the engine's language makes.
func (m mode) serverOf(t testing.TB, e engine) *libssl.Context {
	t.Helper()
	if e.name == "Go" {
		return m.server(t)
	}
	p := cref.NewContext(false)
	ctx, err := libssl.AttachContext(p)
	require.NoError(t, err)
	cref.FreeContext(p) // the Context has a reference of its own
	t.Cleanup(func() { ctx.Close() })
	m.prepare(t, ctx)
	return ctx
}

// opensslVersion is the version's number: "3.0.19".
func opensslVersion() string {
	var n string
	fmt.Sscanf(libssl.Version(), "OpenSSL %s", &n)
	return n
}

// asksFor has a server require certificates of a CA.
func asksFor(t testing.TB, ctx *libssl.Context, ca *tlstest.CA) {
	t.Helper()
	require.NoError(t, ctx.AddClientCAsPEM(ca.PEM))
	require.NoError(t, ctx.SetVerify(libssl.VerifyRequirePeer))
}

// caPath is a folder of CAs for SetCAPath.
func caPath(t testing.TB, cas ...*tlstest.CA) string {
	t.Helper()
	dir := t.TempDir()
	for _, ca := range cas {
		require.NoError(t, os.WriteFile(filepath.Join(dir, cref.CAFile(ca.PEM)), ca.PEM, 0o600))
	}
	return dir
}

// Two servers share sessions and have the same id context, but verify clients differently. A client that the second one
// refuses in a full handshake must not come in with a session that the first one made.
func TestResumption_LetsInOnlyWhomAFullHandshakeWouldLetIn(t *testing.T) {
	ca, other := tlstest.NewCA(t, "clients"), tlstest.NewCA(t, "others")
	cert, key := ca.Leaf(t, "client")
	weakKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	weak, weakPEM := ca.LeafWithKey(t, weakKey, "client")
	onlyClient, onlyKey := ca.LeafWith(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "client")
	usual := func(t testing.TB, ctx *libssl.Context) { asksFor(t, ctx, ca) }
	demands := func(demand func(sslCtx unsafe.Pointer) bool) func(testing.TB, *libssl.Context) {
		return func(t testing.TB, ctx *libssl.Context) {
			usual(t, ctx)
			require.True(t, demand(ctx.Pointer()))
		}
	}
	lists := func(revoked ...[]byte) func(testing.TB, *libssl.Context) {
		return demands(func(p unsafe.Pointer) bool { return cref.DemandCRLs(p) && cref.AddCRL(p, ca.CRL(t, revoked...)) })
	}
	reads := func(cas ...*tlstest.CA) func(testing.TB, *libssl.Context) {
		return func(t testing.TB, ctx *libssl.Context) {
			require.NoError(t, ctx.SetVerify(libssl.VerifyRequirePeer))
			require.True(t, cref.SetCAPath(ctx.Pointer(), caPath(t, cas...)))
		}
	}
	trusts := func(ca *tlstest.CA) func(p unsafe.Pointer) bool {
		return func(p unsafe.Pointer) bool { return cref.VerifyBy(p, ca.PEM) }
	}
	strong := func(p unsafe.Pointer) bool { cref.SetSecurityLevel(p, 3); return true }
	content := func(p unsafe.Pointer) bool { cref.LetAllIn(p); return true }
	stern := func(p unsafe.Pointer) bool { cref.LetNoneIn(p); return true }
	type settings = func(testing.TB, *libssl.Context)
	set := func(f func(*libssl.Context) error) settings {
		return func(t testing.TB, ctx *libssl.Context) {
			usual(t, ctx)
			require.NoError(t, f(ctx))
		}
	}
	purpose := func(v libssl.VerifyPurpose) settings {
		return set(func(ctx *libssl.Context) error { return ctx.SetVerifyPurpose(v) })
	}
	names := func(names ...string) settings {
		return set(func(ctx *libssl.Context) error { return ctx.SetVerifyNames(names...) })
	}
	depth := func(n int) settings {
		return set(func(ctx *libssl.Context) error {
			ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal) // so that the handlers' sessions keep the chain
			return ctx.SetVerifyDepth(n)
		})
	}
	onlyServer, onlyServerKey := ca.LeafWith(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "client")
	mid := ca.Intermediate(t, "intermediate")
	deep, deepKey := mid.Leaf(t, "client")
	deep = append(deep, mid.PEM...)
	for _, tt := range []struct {
		name          string
		cert, key     []byte
		first, second settings
		in, resumes   bool
		unseen        bool // by 1.1.1
	}{
		{"equal", cert, key, usual, usual, true, true, false},
		{"other CA", cert, key, usual, func(t testing.TB, ctx *libssl.Context) { asksFor(t, ctx, other) }, false, false, false},
		{"equal CA path", cert, key, reads(ca), reads(ca, other), true, true, false},
		{"other CA path", cert, key, reads(ca), reads(other), false, false, false},
		{"equal verify store", cert, key, usual, demands(trusts(ca)), true, true, false},
		{"other verify store", cert, key, usual, demands(trusts(other)), false, false, true},
		{"empty verify store", cert, key, usual, demands(cref.TrustNone), false, false, true},
		{"no CRLs", cert, key, usual, demands(cref.DemandCRLs), false, false, false},
		{"not revoked", cert, key, usual, lists(weak), true, true, false},
		{"revoked", cert, key, usual, lists(cert), false, false, false},
		{"purpose", onlyClient, onlyKey, usual, demands(cref.DemandServer), false, false, false},
		{"host", cert, key, usual, demands(func(p unsafe.Pointer) bool { return cref.DemandHost(p, "other") }), false, false, false},
		{"purpose of a server", onlyClient, onlyKey, usual, purpose(libssl.PurposeServer), false, false, false},
		{"servers among themselves", onlyServer, onlyServerKey, purpose(libssl.PurposeServer), purpose(libssl.PurposeServer), true, true, false},
		{"any purpose", onlyServer, onlyServerKey, purpose(libssl.PurposeAny), purpose(libssl.PurposeAny), true, true, false},
		{"purpose of a client", onlyServer, onlyServerKey, purpose(libssl.PurposeAny), usual, false, false, false},
		{"one of the names", cert, key, usual, names("CLIENT", "other"), true, true, false},
		{"none of the names", cert, key, usual, names("other", "another"), false, false, false},
		{"depth", deep, deepKey, depth(1), depth(1), true, true, false},
		{"too deep", deep, deepKey, depth(1), depth(0), false, false, false},
		{"weak for the security level", weak, weakPEM, usual, demands(strong), false, false, false},
		{"stern callback", cert, key, usual, demands(stern), false, false, false},
		{"callback that lets all in", cert, key, usual, demands(content), true, true, false},
		// It comes in, but the session says that it was verified.
		{"callback that lets a stranger in", cert, key, usual, func(t testing.TB, ctx *libssl.Context) {
			asksFor(t, ctx, other)
			cref.LetAllIn(ctx.Pointer())
		}, true, false, false},
		{"callbacks that let a stranger in", cert, key, func(t testing.TB, ctx *libssl.Context) {
			asksFor(t, ctx, other)
			cref.LetAllIn(ctx.Pointer())
		}, func(t testing.TB, ctx *libssl.Context) {
			asksFor(t, ctx, other)
			cref.LetAllIn(ctx.Pointer())
		}, true, true, false},
		{"nobody asks", cert, key, usual, func(testing.TB, *libssl.Context) {}, true, false, false},
	} {
		client := newClient(t)
		require.NoError(t, client.UseCertificatePEM(tt.cert, tt.key))
		for _, m := range modes {
			for _, e := range engines {
				for how, share := range m.sharing(t) {
					t.Run(tt.name+"/"+m.name+"/"+e.name+"/"+how, func(t *testing.T) {
						if tt.unseen && opensslVersion() < "3" {
							t.Skip("OpenSSL 1.1.1 has no SSL_CTX_get0_verify_cert_store")
						}
						first, second := m.serverOf(t, e), m.serverOf(t, e)
						tt.first(t, first)
						tt.second(t, second)
						share(first)
						share(second)
						in, _, sess := e.enter(t, client, first, nil)
						require.True(t, in)
						in, resumed, _ := e.enter(t, client, second, sess)
						require.Equal(t, tt.in, in)
						require.Equal(t, tt.resumes, resumed)
					})
				}
			}
		}
	}
}

// The intermediate certificates of a client travel with the session, and a server that resumes it shows them, with the chain
// that it has verified.
func TestResumption_KeepsTheIntermediates(t *testing.T) {
	ca := tlstest.NewCA(t, "clients")
	inter := ca.Intermediate(t, "intermediate")
	cert, key := inter.Leaf(t, "client")
	client := newClient(t)
	require.NoError(t, client.UseCertificatePEM(append(cert, inter.PEM...), key))
	for _, m := range modes {
		for _, e := range engines {
			for how, share := range m.sharing(t) {
				t.Run(m.name+"/"+e.name+"/"+how, func(t *testing.T) {
					first, second, other := m.serverOf(t, e), m.serverOf(t, e), m.serverOf(t, e)
					asksFor(t, first, ca)
					asksFor(t, second, ca)
					asksFor(t, other, tlstest.NewCA(t, "others"))
					for _, ctx := range []*libssl.Context{first, second, other} {
						ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
						share(ctx)
					}
					var seen []tls.ConnectionState
					require.NoError(t, second.SetVerifyConnection(func(s tls.ConnectionState) error { seen = append(seen, s); return nil }))
					_, _, sess := e.enter(t, client, first, nil)
					for range 2 { // the renewal has them too
						in, resumed, renewed := e.enter(t, client, second, sess)
						require.True(t, in)
						require.True(t, resumed)
						sess = renewed
					}
					in, _, _ := e.enter(t, client, other, sess)
					require.False(t, in)
					for _, s := range seen {
						require.True(t, s.DidResume)
						require.Len(t, s.PeerCertificates, 2)
						require.Len(t, s.VerifiedChains, 1)
						require.Len(t, s.VerifiedChains[0], 3)
					}
					if e.name == "Go" {
						require.Len(t, seen, 2)
					}
				})
			}
		}
	}
}

// An intermediate certificate that is not valid now keeps a client out that comes back, as in a full handshake.
func TestResumption_JudgesTheIntermediates(t *testing.T) {
	ca, now := tlstest.NewCA(t, "clients"), time.Now()
	later := now.Add(3 * time.Hour)
	ends := func(c *x509.Certificate) { c.NotAfter = now.Add(2 * time.Hour) }
	begins := func(c *x509.Certificate) { c.NotBefore = now.Add(2 * time.Hour) }
	for _, tt := range []struct {
		name          string
		edit          func(*x509.Certificate)
		first, second time.Time // of the servers' clocks
		in            bool
	}{
		{"valid", ends, now, now, true},
		{"valid later", begins, later, later, true},
		{"expired", ends, now, later, false},
		{"not yet valid", begins, later, now, false},
	} {
		inter := ca.IntermediateWith(t, tt.edit, "intermediate")
		cert, key := inter.Leaf(t, "client")
		client := newClient(t)
		require.NoError(t, client.UseCertificatePEM(append(cert, inter.PEM...), key))
		for _, m := range modes {
			for _, e := range engines {
				for how, share := range m.sharing(t) {
					t.Run(tt.name+"/"+m.name+"/"+e.name+"/"+how, func(t *testing.T) {
						first, second := m.serverOf(t, e), m.serverOf(t, e)
						for ctx, at := range map[*libssl.Context]time.Time{first: tt.first, second: tt.second} {
							asksFor(t, ctx, ca)
							cref.SetVerifyTime(ctx.Pointer(), at)
							require.NoError(t, ctx.SetSessionIDContext([]byte("equal")))
							ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
							share(ctx)
						}
						in, _, sess := e.enter(t, client, first, nil)
						require.True(t, in)
						in, resumed, _ := e.enter(t, client, second, sess)
						require.Equal(t, tt.in, in)
						require.Equal(t, tt.in, resumed)
					})
				}
			}
		}
	}
}

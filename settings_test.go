package libssl_test

import (
	"crypto/tls"
	"fmt"
	"sync"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The setters that may be called at any time, on both sides, beside handshakes. OpenSSL alone crashes within a second.
func TestSettings_ChangeWhileConnectionsAreMade(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server, _ := f.node(t, memstore.New(memstore.Options{}), nil)
		require.NoError(t, server.AddClientCAsPEM(f.ca.PEM))
		require.NoError(t, server.SetVerify(libssl.VerifyPeer))
		cert, key := f.ca.Leaf(t, "client.test")
		require.NoError(t, f.client.UseCertificatePEM(cert, key))
		other := f.server(t)
		require.NoError(t, other.AddClientCAsPEM(f.ca.PEM))
		server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return other })
		var more [8][]byte
		for i := range more {
			more[i] = tlstest.NewCA(t, fmt.Sprint("ca ", i)).PEM
		}
		setters := []func(i int) error{
			func(i int) error { return f.client.AddRootCAsPEM(more[i%len(more)]) },
			func(int) error { return f.client.UseCertificatePEM(cert, key) },
			func(i int) error { return f.client.SetALPN([][]string{{"a", "b", "c"}, {"a"}}[i%2]...) },
		}
		for _, ctx := range []*libssl.Context{server, other} {
			setters = append(setters,
				func(int) error { return ctx.UseCertificatePEM(f.cert, f.key) },
				func(i int) error { return ctx.AddClientCAsPEM(more[i%len(more)]) },
				func(i int) error {
					return ctx.SetVerify([]libssl.VerifyMode{libssl.VerifyPeer, libssl.VerifyNone}[i%2])
				},
				func(i int) error { return ctx.SetALPN([][]string{{"a", "b", "c"}, {"a"}}[i%2]...) },
				func(i int) error { return ctx.SetSessionIDContext([]byte{byte(i)}) },
			)
		}
		done := make(chan struct{})
		var connecting, setting sync.WaitGroup
		for range 3 {
			connecting.Go(func() {
				for range 15 {
					f.meets(t, server)
				}
			})
		}
		for _, set := range setters {
			setting.Go(func() {
				for i := 0; ; i++ {
					assert.NoError(t, set(i))
					select {
					case <-done:
						return
					default:
					}
				}
			})
		}
		connecting.Wait()
		close(done)
		setting.Wait()
	})
}

// meets connects, on a goroutine.
func (f *fleet) meets(t *testing.T, server *libssl.Context) {
	cn, sn, err := tlstest.TCPPair()
	if !assert.NoError(t, err) {
		return
	}
	s, err := libssl.Server(sn, server)
	assert.NoError(t, err)
	c, err := libssl.Client(cn, f.client, f.name)
	assert.NoError(t, err)
	assert.NoError(t, exchange(c, s))
	closeBoth(c, s)
}

// A connection has all settings as they were at one time: here a certificate, and the id context that is computed from it.
func TestSettings_ChangeAsAWhole(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server, _ := f.node(t, memstore.New(memstore.Options{}), nil)
		certs := [2]func() error{func() error { return server.UseCertificatePEM(f.cert, f.key) }}
		otherCert, otherKey := f.ca.Leaf(t, f.name, "other.test")
		certs[1] = func() error { return server.UseCertificatePEM(otherCert, otherKey) }
		of := map[int]string{} // names in the certificate -> id context
		for i := range 2 {
			require.NoError(t, certs[1-i]())
			v := f.visit(t, server, nil)
			of[i] = string(v.idContext)
		}
		require.NotEqual(t, of[0], of[1])
		done, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for i := 0; ; i++ {
				assert.NoError(t, certs[i%2]())
				select {
				case <-done:
					return
				default:
				}
			}
		}()
		for range 30 {
			cn, sn := tcpPipe(t)
			c, s := f.ends(t, cn, sn, server, nil)
			require.NoError(t, exchange(c, s))
			own := sessionOf(t, s)
			which := 0
			if len(c.ConnectionState().PeerCertificates[0].DNSNames) == 1 {
				which = 1
			}
			require.Equal(t, of[which], string(own.IDContext()))
			closeBoth(c, s)
		}
		close(done)
		<-ended
	})
}

func TestSettings_ThatHandshakesReadAreRefusedLater(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	refuses := func(ctx *libssl.Context, refused bool) {
		t.Helper()
		for name, set := range map[string]func() error{
			"ciphers":       func() error { return ctx.SetCiphers("DEFAULT") },
			"cipher suites": func() error { return ctx.SetCipherSuites("TLS_AES_128_GCM_SHA256") },
			"groups":        func() error { return ctx.SetGroups("P-256:X25519") },
			"versions":      func() error { return ctx.SetVersions(0, 0) },
		} {
			if refused {
				require.EqualError(t, set(), "libssl: set "+name+": cannot be changed once a connection was made")
			} else {
				require.NoError(t, set())
			}
		}
	}
	client, server, chosen := newClient(t, ca), newServer(t, ca), newServer(t, ca)
	require.NoError(t, client.SetVerify(libssl.VerifyNone))
	server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return chosen })
	all := []*libssl.Context{client, server, chosen}
	for _, ctx := range all {
		refuses(ctx, false)
	}
	c, s := handshake(t, client, server, nil)
	for _, ctx := range all {
		refuses(ctx, true)
	}
	closeBoth(c, s)
	for _, ctx := range all {
		refuses(ctx, true)
	}
}

// CAs that are added while the server serves reach new clients, and are verified against.
func TestAddClientCAs_WhileServing(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server, host := f.server(t), f.server(t)
		for _, ctx := range []*libssl.Context{server, host} {
			require.NoError(t, ctx.AddClientCAsPEM(f.ca.PEM))
			require.NoError(t, ctx.SetVerify(libssl.VerifyPeer))
			require.NoError(t, ctx.SetSessionIDContext([]byte("x")))
		}
		names := func() (n int) {
			cn, sn := tcpPipe(t)
			s, err := libssl.Server(sn, server)
			require.NoError(t, err)
			c := tls.Client(cn, &tls.Config{
				ServerName: f.name, RootCAs: f.ca.Pool(),
				GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
					n = len(r.AcceptableCAs)
					return &tls.Certificate{}, nil
				},
			})
			require.NoError(t, exchange(c, s))
			closeBoth(c, s)
			return n
		}
		require.Equal(t, 1, names())
		late := tlstest.NewCA(t, "late")
		for range 2 {
			require.NoError(t, server.AddClientCAsPEM(late.PEM))
			require.Equal(t, 2, names(), "each once")
		}
		require.NoError(t, server.AddClientCAsPEM(tlstest.NewCA(t, "later").PEM))
		require.Equal(t, 3, names())
		require.NoError(t, f.client.UseCertificatePEM(late.Leaf(t, "client.test")))
		require.Len(t, f.visit(t, server, nil).state.PeerCertificates, 1)

		server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return host })
		require.Equal(t, 1, names(), "the names of the chosen host")
		require.NoError(t, host.AddClientCAsPEM(late.PEM))
		require.Equal(t, 2, names())
		server.SetServerNameCallback(nil)
		require.Equal(t, 3, names())
	})
}

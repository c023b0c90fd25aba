package libssl_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func leafOf(t testing.TB, c *libssl.Certificate) *x509.Certificate {
	t.Helper()
	leaf, err := c.Leaf()
	require.NoError(t, err)
	return leaf
}

// asking is a server that asks for client certificates of its CA.
func (f *fleet) asking(t testing.TB, m libssl.VerifyMode) *libssl.Context {
	t.Helper()
	server := f.server(t)
	require.NoError(t, server.AddClientCAsPEM(f.ca.PEM))
	require.NoError(t, server.SetVerify(m))
	useStore(t, server, memstore.New(memstore.Options{}), nil)
	return server
}

func TestClientCertificateCallback_Request(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		mine, other := parsedLeaf(t, f.ca, "mine"), tlstest.NewCA(t, "other")
		client := newClient(t, f.ca)
		require.NoError(t, client.UseCertificate(parsedLeaf(t, f.ca, "the Context's")))
		var seen *libssl.CertificateRequest
		answer := mine
		require.NoError(t, client.SetClientCertificateCallback(func(_ context.Context, r *libssl.CertificateRequest) (*libssl.Certificate, error) {
			seen = r
			return answer, nil
		}))
		pair, err := tls.X509KeyPair(f.cert, f.key)
		require.NoError(t, err)
		pool := f.ca.Pool()
		pool.AppendCertsFromPEM(other.PEM)
		for _, auth := range []tls.ClientAuthType{tls.NoClientCert, tls.RequestClientCert, tls.RequireAndVerifyClientCert} {
			seen = nil
			cn, sn := tcpPipe(t)
			c, err := libssl.Client(cn, client, serverName)
			require.NoError(t, err)
			s := tls.Server(sn, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: auth, ClientCAs: pool, MaxVersion: f.version})
			require.NoError(t, exchange(c, s))
			got := s.ConnectionState().PeerCertificates
			closeBoth(c, s)
			if auth == tls.NoClientCert {
				require.Nil(t, seen)
				require.Empty(t, got)
				continue
			}
			require.Equal(t, leafOf(t, mine).SerialNumber, got[0].SerialNumber)
			require.Equal(t, pool.Subjects(), seen.AcceptableCAs) //nolint:staticcheck // as crypto/tls sends them
			require.Contains(t, seen.SignatureSchemes, uint16(tls.ECDSAWithP256AndSHA256))
			require.Equal(t, f.version, seen.Version)
		}
		answer = nil
		cn, sn := tcpPipe(t)
		c, err := libssl.Client(cn, client, serverName)
		require.NoError(t, err)
		s := tls.Server(sn, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert, MaxVersion: f.version})
		require.NoError(t, exchange(c, s))
		require.Empty(t, s.ConnectionState().PeerCertificates, "not even the Context's own")
		require.Empty(t, seen.AcceptableCAs)
		closeBoth(c, s)
		require.NoError(t, client.SetClientCertificateCallback(nil))
		c2, s2 := handshake(t, client, f.asking(t, libssl.VerifyRequirePeer), nil)
		require.Equal(t, []string{"the Context's"}, s2.ConnectionState().PeerCertificates[0].DNSNames)
		closeBoth(c2, s2)
	})
}

func TestClientCertificateCallback_Ends(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		errDenied, closed := errors.New("denied"), parsedLeaf(t, f.ca, "closed")
		closed.Close()
		server := f.asking(t, libssl.VerifyPeer)
		for name, c := range map[string]struct {
			f    func() (*libssl.Certificate, error)
			is   error
			says string
			told int
		}{
			"error":  {func() (*libssl.Certificate, error) { return nil, errDenied }, errDenied, "clientcertificate callback: denied", 0},
			"panic":  {func() (*libssl.Certificate, error) { panic("why") }, nil, "panicked", 1},
			"closed": {func() (*libssl.Certificate, error) { return closed, nil }, libssl.ErrClosed, "", 0},
		} {
			t.Run(name, func(t *testing.T) {
				client, told := newClient(t, f.ca), 0
				client.OnCallbackError(func(e *libssl.CallbackError) {
					assert.Equal(t, "clientcertificate", e.Callback)
					told++
				})
				require.NoError(t, client.SetClientCertificateCallback(func(context.Context, *libssl.CertificateRequest) (*libssl.Certificate, error) { return c.f() }))
				cn, sn := tcpPipe(t)
				cl, s := wrap(t, cn, sn, client, server)
				failed := make(chan error, 1)
				go func() { failed <- s.Handshake() }()
				err := cl.Handshake()
				require.ErrorContains(t, err, c.says)
				if c.is != nil {
					require.ErrorIs(t, err, c.is)
				}
				require.ErrorContains(t, receive(t, "the server", failed), "internal error")
				require.Equal(t, c.told, told)
			})
		}
	})
}

// A resumption keeps the certificate, and asks for none.
func TestClientCertificateCallback_Resumption(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server, mine, calls := f.asking(t, libssl.VerifyRequirePeer), parsedLeaf(t, f.ca, "mine"), 0
		require.NoError(t, f.client.SetClientCertificateCallback(func(context.Context, *libssl.CertificateRequest) (*libssl.Certificate, error) {
			calls++
			return mine, nil
		}))
		first := f.visit(t, server, nil)
		second := f.visit(t, server, first.next)
		require.True(t, second.resumed)
		require.Equal(t, 1, calls)
		require.Equal(t, leafOf(t, mine).SerialNumber, second.state.PeerCertificates[0].SerialNumber)
	})
}

func TestClientCertificateCallback_ContextEnds(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.asking(t, libssl.VerifyRequirePeer)
		for name, c := range map[string]struct {
			end  func(c *libssl.Conn, s net.Conn, cancel func())
			want error
		}{
			"canceled":           {func(_ *libssl.Conn, _ net.Conn, cancel func()) { cancel() }, context.Canceled},
			"the Conn is closed": {func(c *libssl.Conn, _ net.Conn, _ func()) { c.Close() }, libssl.ErrClosed},
			"the server leaves":  {func(_ *libssl.Conn, s net.Conn, _ func()) { s.Close() }, io.ErrUnexpectedEOF},
		} {
			t.Run(name, func(t *testing.T) {
				client, entered := newClient(t, f.ca), make(chan error)
				var cl *libssl.Conn
				require.NoError(t, client.SetClientCertificateCallback(func(ctx context.Context, _ *libssl.CertificateRequest) (*libssl.Certificate, error) {
					assert.ErrorIs(t, cl.Handshake(), libssl.ErrReentrant)
					assert.ErrorIs(t, cl.SetSession(nil), libssl.ErrReentrant)
					entered <- nil
					<-ctx.Done()
					entered <- context.Cause(ctx)
					return nil, ctx.Err()
				}))
				cn, sn := tcpPipe(t)
				var s *libssl.Conn
				cl, s = wrap(t, cn, sn, client, server)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go s.Handshake()
				done := make(chan error, 1)
				go func() { done <- cl.HandshakeContext(ctx) }()
				receive(t, "the callback", entered)
				c.end(cl, sn, cancel)
				require.ErrorIs(t, receive(t, "the end of the callback", entered), c.want)
				require.ErrorIs(t, receive(t, "the end of the handshake", done), c.want)
			})
		}
	})
}

package libssl_test

import (
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

const (
	verifyNoCRL   = 3
	verifyRevoked = 23
)

func TestCRLs_OnServers(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		middle := f.ca.Intermediate(t, "middle ca")
		cert, key := middle.Leaf(t, "client")
		server, client := f.server(t), newClient(t, f.ca)
		require.NoError(t, server.AddClientCAsPEM(f.ca.PEM))
		require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
		require.NoError(t, client.UseCertificatePEM(append(cert, middle.PEM...), key))
		visit := func(code int) {
			t.Helper()
			cn, sn := tcpPipe(t)
			c, s := wrap(t, cn, sn, client, server)
			defer closeBoth(c, s)
			served := make(chan error, 1)
			go func() { served <- s.Handshake() }()
			err := c.Handshake()
			serr := receive(t, "the server", served)
			if code == 0 {
				require.NoError(t, err)
				require.NoError(t, serr)
				return
			}
			requireVerifyError(t, serr, code)
		}
		visit(0)
		require.NoError(t, server.AddCRLsPEM(f.ca.CRL(t)))
		visit(verifyNoCRL) // of the other CA
		require.NoError(t, server.AddCRLsPEM(middle.CRL(t)))
		visit(0)
		require.NoError(t, server.AddCRLsPEM(middle.NewerCRL(t, cert)))
		visit(verifyRevoked)
		require.Error(t, server.AddCRLsPEM([]byte("x")))
		require.Error(t, server.AddCRLsPEM(nil))
		require.Error(t, server.AddCRLsPEM(append(middle.CRL(t), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"...)))
	})
}

// A client with a cache does not resume with a server that was revoked meanwhile.
func TestCRLs_OnClients(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		addr := ourEcho(t, f.server(t))
		client := cachingClient(t, f.ca, f.version, 10)
		require.NoError(t, client.AddCRLsPEM(f.ca.CRL(t)))
		requireResumed(t, addr, client, 1, false)
		requireResumed(t, addr, client, 1, true)
		require.NoError(t, client.AddCRLsPEM(f.ca.NewerCRL(t, f.cert)))
		_, err := dialEcho(addr, client, func() {})
		requireVerifyError(t, err, verifyRevoked)
	})
}

func TestSignatureAlgorithms(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server, client := f.server(t), newClient(t, f.ca)
		require.Error(t, client.SetSignatureAlgorithms("no such"))
		require.NoError(t, client.SetSignatureAlgorithms("ECDSA+SHA256"))
		c, s := handshake(t, client, server, nil)
		closeBoth(c, s)
		// The key of the server is none for RSA.
		client = newClient(t, f.ca)
		require.NoError(t, client.SetSignatureAlgorithms("RSA-PSS+SHA256"))
		cn, sn := tcpPipe(t)
		c, s = wrap(t, cn, sn, client, server)
		require.Error(t, agree(c, s))
	})
}

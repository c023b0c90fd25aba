package libssl_test

import (
	"crypto/tls"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
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
		require.NoError(t, server.AddCRLsPEM(middle.FutureCRL(t, cert)))
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

// Lists stay when CAs take the place of those of the system.
func TestCRLs_StayWithTheFirstRoots(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		for list, code := range map[string]int{string(f.ca.CRL(t)): 0, string(f.ca.CRL(t, f.cert)): verifyRevoked} {
			client, err := libssl.NewContext(libssl.ClientRole)
			require.NoError(t, err)
			defer client.Close()
			require.NoError(t, client.AddCRLsPEM([]byte(list)))
			require.NoError(t, client.AddRootCAsPEM(f.ca.PEM))
			cn, sn := tcpPipe(t)
			c, s := wrap(t, cn, sn, client, server)
			err = agree(c, s)
			if code == 0 {
				require.NoError(t, err)
			} else {
				requireVerifyError(t, err, code)
			}
		}
	})
}

// A list that another one replaces is given up, so a host that was given each of them has the policy of one that came later.
func TestCRLs_ReplacedOnesAreGivenUp(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	stranger := tlstest.NewCA(t, "stranger")
	cert, _ := f.ca.Leaf(t, "client")
	older, newer, others := f.ca.CRL(t), f.ca.NewerCRL(t, cert), stranger.CRL(t)
	mem, keys := memstore.New(memstore.Options{}), newRing(t)
	idContext := func(lists ...[]byte) []byte {
		ctx := f.server(t)
		require.NoError(t, ctx.AddClientCAsPEM(f.ca.PEM))
		require.NoError(t, ctx.SetVerify(libssl.VerifyPeer))
		for _, list := range lists {
			require.NoError(t, ctx.AddCRLsPEM(list))
		}
		useStore(t, ctx, mem, &libssl.StoreOptions{Keys: keys})
		return f.visit(t, ctx, nil).idContext
	}
	now := idContext(newer, others)
	require.Equal(t, now, idContext(older, newer, others))
	require.Equal(t, now, idContext(others, newer, older, newer))
	require.Equal(t, now, idContext(append(append(older, others...), newer...)))
	require.NotEqual(t, now, idContext(newer))
	require.NotEqual(t, now, idContext(older, others))
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

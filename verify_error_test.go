package libssl_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// Numbers of X509_V_ERR_*.
const (
	verifyNotYet       = 9
	verifyExpired      = 10
	verifyNoIssuer     = 20
	verifyPurpose      = 26
	verifyHostname     = 62
	verifyAddress      = 64
	verifyNoIssuerName = "unable to get local issuer certificate"
)

// requireVerifyError takes err apart.
func requireVerifyError(t *testing.T, err error, code int) (*libssl.VerifyError, *tls.CertificateVerificationError) {
	t.Helper()
	var v *libssl.VerifyError
	require.ErrorAs(t, err, &v)
	require.Equal(t, code, v.Code)
	var e *libssl.Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.Queue)
	var theirs *tls.CertificateVerificationError
	require.ErrorAs(t, err, &theirs)
	require.NotEmpty(t, theirs.UnverifiedCertificates)
	return v, theirs
}

func TestVerifyError_OnClients(t *testing.T) {
	const host = "host.test"
	for name, c := range map[string]struct {
		edit     func(*x509.Certificate)
		strange  bool // another CA
		name     string
		code     int
		reason   x509.InvalidReason // of an x509.CertificateInvalidError
		hostname bool
	}{
		"another CA":      {strange: true, name: host, code: verifyNoIssuer},
		"expired":         {edit: expired, name: host, code: verifyExpired, reason: x509.Expired},
		"not yet":         {edit: notYet, name: host, code: verifyNotYet, reason: x509.Expired},
		"for clients":     {edit: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, name: host, code: verifyPurpose, reason: x509.IncompatibleUsage},
		"another name":    {name: "other.test", code: verifyHostname, hostname: true},
		"another address": {name: "127.0.0.9", code: verifyAddress, hostname: true},
	} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				ca := f.ca
				if c.strange {
					ca = tlstest.NewCA(t, "strangers")
				}
				server := f.server(t)
				cert, key := ca.LeafWith(t, c.edit, host)
				require.NoError(t, server.UseCertificatePEM(cert, key))
				cn, sn := tcpPipe(t)
				cl, s := wrapNamed(t, cn, sn, f.client, server, c.name)
				served := make(chan error, 1)
				go func() { served <- run(s) }()
				v, theirs := requireVerifyError(t, cl.Handshake(), c.code)
				require.ErrorContains(t, <-served, "alert")
				require.Zero(t, v.Depth)
				require.Equal(t, parseCert(t, cert), v.Certificate)
				require.Equal(t, parseCert(t, cert), theirs.UnverifiedCertificates[0])
				switch {
				case c.hostname:
					var e x509.HostnameError
					require.ErrorAs(t, v, &e)
					require.Equal(t, c.name, e.Host)
					require.Contains(t, e.Error(), c.name)
				case c.strange:
					var e x509.UnknownAuthorityError
					require.ErrorAs(t, v, &e)
					require.Contains(t, v.Error(), verifyNoIssuerName)
				default:
					var e x509.CertificateInvalidError
					require.ErrorAs(t, v, &e)
					require.Equal(t, c.reason, e.Reason)
				}
			})
		})
	}
}

// The certificate is the one that was refused, not always the leaf.
func TestVerifyError_HasTheDepth(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		middle := f.ca.Intermediate(t, "middle ca")
		strangers := tlstest.NewCA(t, "strangers")
		server, client := f.server(t), newClient(t, strangers)
		cert, key := middle.Leaf(t, serverName)
		require.NoError(t, server.UseCertificatePEM(append(cert, middle.PEM...), key))
		cn, sn := tcpPipe(t)
		cl, s := wrap(t, cn, sn, client, server)
		served := make(chan error, 1)
		go func() { served <- run(s) }()
		v, theirs := requireVerifyError(t, cl.Handshake(), verifyNoIssuer)
		require.Error(t, <-served)
		require.Equal(t, 1, v.Depth)
		require.Equal(t, parseCert(t, middle.PEM), v.Certificate)
		require.Equal(t, []*x509.Certificate{parseCert(t, cert), parseCert(t, middle.PEM)}, theirs.UnverifiedCertificates)
	})
}

func TestVerifyError_OnServers(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		strangers := tlstest.NewCA(t, "strangers")
		for name, c := range map[string]struct {
			ca   *tlstest.CA
			edit func(*x509.Certificate)
			code int
		}{
			"another CA": {ca: strangers, code: verifyNoIssuer},
			"expired":    {ca: f.ca, edit: expired, code: verifyExpired},
		} {
			t.Run(name, func(t *testing.T) {
				plain, chosen := f.server(t), f.server(t)
				require.NoError(t, chosen.AddClientCAsPEM(f.ca.PEM))
				require.NoError(t, chosen.SetVerify(libssl.VerifyRequirePeer))
				plain.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return chosen })
				for _, server := range []*libssl.Context{chosen, plain} {
					client := newClient(t, f.ca)
					cert, key := c.ca.LeafWith(t, c.edit, "client")
					require.NoError(t, client.UseCertificatePEM(cert, key))
					cn, sn := tcpPipe(t)
					cl, s := wrap(t, cn, sn, client, server)
					served := make(chan error, 1)
					go func() { served <- s.Handshake() }()
					err := cl.Handshake()
					if err == nil {
						_, err = cl.Read(make([]byte, 1))
					}
					require.ErrorContains(t, err, "alert")
					v, _ := requireVerifyError(t, <-served, c.code)
					require.Equal(t, parseCert(t, cert), v.Certificate)
				}
			})
		}
		// A missing certificate is no certificate that failed.
		server := f.server(t)
		require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
		cn, sn := tcpPipe(t)
		cl, s := wrap(t, cn, sn, newClient(t, f.ca), server)
		served := make(chan error, 1)
		go func() { served <- s.Handshake() }()
		if cl.Handshake() == nil {
			_, err := io.ReadFull(cl, make([]byte, 1))
			require.Error(t, err)
		}
		var v *libssl.VerifyError
		require.NotErrorAs(t, <-served, &v)
	})
}

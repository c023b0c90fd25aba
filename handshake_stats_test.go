package libssl_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// failedFor requires that exactly one handshake failed on ctx, for that reason.
func failedFor(t *testing.T, ctx *libssl.Context, why libssl.HandshakeFailure) {
	t.Helper()
	var want libssl.HandshakeFailureCounts
	want[why] = 1
	require.Equal(t, want, ctx.Stats().HandshakesFailed)
	require.Zero(t, ctx.Stats().HandshakesUnderWay)
}

func TestStats_FailedHandshakes(t *testing.T) {
	for name, test := range map[string]struct {
		prepare        func(t *testing.T, f *fleet, server *libssl.Context)
		client, server libssl.HandshakeFailure
	}{
		"the client does not trust the server": {func(t *testing.T, f *fleet, _ *libssl.Context) {
			f.client = newClient(t, tlstest.NewCA(t, "other"))
		}, libssl.FailedCertificate, libssl.FailedPeerAlert},
		"the server does not trust the client": {func(t *testing.T, f *fleet, server *libssl.Context) {
			require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
			require.NoError(t, f.client.UseCertificatePEM(f.ca.Leaf(t, "client")))
		}, libssl.FailedPeerAlert, libssl.FailedCertificate},
		"SetVerifyConnection": {func(t *testing.T, _ *fleet, server *libssl.Context) {
			require.NoError(t, server.SetVerifyConnection(func(tls.ConnectionState) error { return errors.New("no") }))
		}, libssl.FailedPeerAlert, libssl.FailedHandler},
		"a server-name handler": {func(_ *testing.T, _ *fleet, server *libssl.Context) {
			server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { panic("no") })
			server.OnCallbackError(func(*libssl.CallbackError) {})
		}, libssl.FailedPeerAlert, libssl.FailedHandler},
		"no common cipher": {func(t *testing.T, f *fleet, server *libssl.Context) {
			require.NoError(t, f.client.SetCiphers("ECDHE-ECDSA-AES128-GCM-SHA256"))
			require.NoError(t, server.SetCiphers("ECDHE-ECDSA-AES256-GCM-SHA384"))
		}, libssl.FailedPeerAlert, libssl.FailedProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, tls.VersionTLS12)
			server := f.server(t)
			test.prepare(t, f, server)
			cn, sn := tcpPipe(t)
			c, s := f.ends(t, cn, sn, server, nil)
			require.Error(t, bothHandshake(c, s))
			require.Error(t, c.Handshake(), "and is not counted again")
			require.Error(t, s.Handshake())
			failedFor(t, f.client, test.client)
			failedFor(t, server, test.server)
		})
	}
}

func TestStats_ClientsThatDoNotHandshake(t *testing.T) {
	for name, test := range map[string]struct {
		act    func(l *libssl.Listener, nc net.Conn)
		reason libssl.HandshakeFailure
	}{
		"silent":        {func(*libssl.Listener, net.Conn) {}, libssl.FailedTimeout},
		"gone":          {func(_ *libssl.Listener, nc net.Conn) { nc.Close() }, libssl.FailedDisconnected},
		"plain HTTP":    {func(_ *libssl.Listener, nc net.Conn) { io.WriteString(nc, "GET / HTTP/1.1\r\n\r\n") }, libssl.FailedNotTLS},
		"half a record": {func(_ *libssl.Listener, nc net.Conn) { io.WriteString(nc, "\x16\x03\x01\x02\x00\x01") }, libssl.FailedTimeout},
		"the Listener's end": {func(l *libssl.Listener, nc net.Conn) {
			l.Close()
		}, libssl.FailedClosed},
	} {
		t.Run(name, func(t *testing.T) {
			server := newFleet(t, tls.VersionTLS13).server(t)
			l := listen(t, "tcp", "127.0.0.1:0", server)
			if l.HandshakeTimeout = time.Minute; test.reason == libssl.FailedTimeout {
				l.HandshakeTimeout = 500 * time.Millisecond
			}
			go l.Accept()
			nc := dial(t, l)
			wait(t, "the handshake to begin", func() bool { return server.Stats().HandshakesUnderWay == 1 })
			test.act(l, nc)
			wait(t, "the handshake to end", func() bool { return server.Stats().HandshakesUnderWay == 0 })
			failedFor(t, server, test.reason)
		})
	}
}

func TestStats_InterruptedHandshakesHaveNotFailed(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.server(t)
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, cn, sn, server, nil)
	s.SetReadDeadline(time.Unix(1, 0))
	require.Error(t, s.Handshake())
	require.Equal(t, libssl.HandshakeFailureCounts{}, server.Stats().HandshakesFailed)
	s.SetReadDeadline(time.Time{})
	require.NoError(t, exchange(c, s))

	cn, sn = tcpPipe(t)
	_, s = f.ends(t, cn, sn, server, nil)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.HandshakeContext(over), context.Canceled, "before it began")
	require.Equal(t, libssl.HandshakeFailureCounts{}, server.Stats().HandshakesFailed)
}

func TestHandshakeFailureCounts_JSON(t *testing.T) {
	var c, read libssl.HandshakeFailureCounts
	c[libssl.FailedNotTLS] = 3
	text, err := json.Marshal(c)
	require.NoError(t, err)
	var named map[string]int
	require.NoError(t, json.Unmarshal(text, &named))
	require.Len(t, named, len(libssl.HandshakeFailures()))
	require.Equal(t, 3, named[libssl.FailedNotTLS.String()])
	require.NoError(t, json.Unmarshal([]byte(`{"not TLS":3,"a later version's":1}`), &read))
	require.Equal(t, c, read)
	require.Error(t, json.Unmarshal([]byte(`[1]`), &read))
}

func TestContext_CertificateExpires(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	end := time.Now().Add(24 * time.Hour).Truncate(time.Second)
	until := func(end time.Time) *libssl.Certificate {
		cert, key := ca.LeafWith(t, func(c *x509.Certificate) { c.NotAfter = end }, serverName)
		return parsed(t, cert, key)
	}
	server, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	require.Zero(t, server.CertificateExpires())

	cert, key := ca.LeafWith(t, func(c *x509.Certificate) { c.NotAfter = end }, serverName)
	require.NoError(t, server.UseCertificatePEM(cert, key))
	require.WithinDuration(t, end, server.CertificateExpires(), 0)
	require.NoError(t, server.UseCertificate(until(end.Add(time.Hour))))
	require.WithinDuration(t, end.Add(time.Hour), server.CertificateExpires(), 0)
	require.NoError(t, server.UseCertificate(until(end.Add(-48*time.Hour))))
	require.WithinDuration(t, end.Add(-48*time.Hour), server.CertificateExpires(), 0, "it has expired")
	require.NoError(t, server.Close())
	require.Zero(t, server.CertificateExpires())
}

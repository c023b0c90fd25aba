package libssl_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

func expired(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }

func notYet(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }

func TestClient_VerifiesTheServer(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	other := tlstest.NewCA(t, "other ca")
	middle := ca.Intermediate(t, "middle ca")
	type test struct {
		ca    *tlstest.CA // nil: ca
		edit  func(*x509.Certificate)
		extra []byte
		hosts []string
		name  string
		mode  libssl.VerifyMode
		says  string // "" where the handshake succeeds
	}
	const host = "host.test"
	verify := libssl.VerifyPeer
	for name, c := range map[string]test{
		"right":                          {hosts: []string{host}, name: host, mode: verify},
		"with a dot":                     {hosts: []string{host}, name: host + ".", mode: verify},
		"another case":                   {hosts: []string{host}, name: "HOST.test", mode: verify},
		"wildcard":                       {hosts: []string{"*.host.test"}, name: "a." + host, mode: verify},
		"wildcard of a top-level domain": {hosts: []string{"*.test"}, name: host, mode: verify, says: "hostname mismatch"}, // crypto/tls would accept it
		"wildcard, two labels":           {hosts: []string{"*.host.test"}, name: "a.b." + host, mode: verify, says: "hostname mismatch"},
		"partial wildcard":               {hosts: []string{"a*.host.test"}, name: "ab." + host, mode: verify, says: "hostname mismatch"},
		"another name":                   {hosts: []string{host}, name: "other.test", mode: verify, says: "hostname mismatch"},
		"common name only":               {hosts: []string{host, "127.0.0.1"}, edit: func(c *x509.Certificate) { c.DNSNames = nil }, name: host, mode: verify, says: "hostname mismatch"},
		"address":                        {hosts: []string{host, "127.0.0.1"}, name: "127.0.0.1", mode: verify},
		"address, IPv6":                  {hosts: []string{host, "::1"}, name: "::1", mode: verify},
		"address in brackets":            {hosts: []string{host, "::1"}, name: "[::1]", mode: verify},
		"another address":                {hosts: []string{host, "127.0.0.1"}, name: "127.0.0.2", mode: verify, says: "IP address mismatch"},
		"address as a name":              {hosts: []string{host}, edit: func(c *x509.Certificate) { c.DNSNames = []string{"127.0.0.1"} }, name: "127.0.0.1", mode: verify, says: "IP address mismatch"},
		"another CA":                     {ca: other, hosts: []string{host}, name: host, mode: verify, says: "unable to get local issuer certificate"},
		"intermediate":                   {ca: middle, extra: middle.PEM, hosts: []string{host}, name: host, mode: verify},
		"intermediate not sent":          {ca: middle, hosts: []string{host}, name: host, mode: verify, says: "unable to get local issuer certificate"},
		"expired":                        {hosts: []string{host}, edit: expired, name: host, mode: verify, says: "certificate has expired"},
		"not yet":                        {hosts: []string{host}, edit: notYet, name: host, mode: verify, says: "certificate is not yet valid"},
		"none, all wrong":                {ca: other, hosts: []string{host}, edit: expired, name: "other.test", mode: libssl.VerifyNone},
		"none, right":                    {hosts: []string{host}, name: host, mode: libssl.VerifyNone},
		"none, no name":                  {hosts: []string{host}, mode: libssl.VerifyNone},
		"for clients only":               {hosts: []string{host}, edit: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, name: host, mode: verify, says: "purpose"},
		"require, on the client":         {hosts: []string{host}, name: host, mode: libssl.VerifyRequirePeer},
		"a name in UTF-8 is refused":     {hosts: []string{host}, name: "höst.test", mode: verify, says: "hostname mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			for versionName, v := range versions {
				issuer := ca
				if c.ca != nil {
					issuer = c.ca
				}
				server := newServer(t, ca)
				cert, key := issuer.LeafWith(t, c.edit, c.hosts...)
				require.NoError(t, server.UseCertificatePEM(append(cert, c.extra...), key))
				require.NoError(t, server.SetVersions(v, v))
				client := newClient(t, ca)
				require.NoError(t, client.SetVerify(c.mode))

				cn, sn := tcpPipe(t)
				s, err := libssl.Server(sn, server)
				require.NoError(t, err)
				defer s.Close()
				cl, err := libssl.Client(cn, client, c.name)
				if err != nil && strings.Contains(name, "UTF-8") { // OpenSSL 4.0 refuses it at once
					require.ErrorContains(t, err, "a host name?")
					cn.Close()
					continue
				}
				require.NoError(t, err)
				defer cl.Close()
				served := make(chan error, 1)
				go func() {
					err := s.Handshake()
					if err == nil {
						_, err = s.Read(make([]byte, 1))
					}
					served <- err
				}()
				err = cl.Handshake()
				if c.says == "" {
					require.NoError(t, err, versionName)
					state := cl.ConnectionState()
					require.NotEmpty(t, state.PeerCertificates)
					if c.mode == libssl.VerifyNone {
						require.Empty(t, state.VerifiedChains, "nothing was verified")
					} else {
						require.NoError(t, state.VerifiedChains[0][len(state.VerifiedChains[0])-1].CheckSignatureFrom(parseCert(t, ca.PEM)))
					}
					cl.Close()
					require.Equal(t, io.EOF, receive(t, "the server", served))
					continue
				}
				var e *libssl.Error
				require.ErrorAs(t, err, &e, versionName)
				require.Contains(t, err.Error(), "certificate verify failed")
				require.Contains(t, strings.ToLower(err.Error()), strings.ToLower(c.says))
				err = receive(t, "the server", served)
				require.ErrorAs(t, err, &e)
				require.Contains(t, err.Error(), "alert")
			}
		})
	}
}

func TestServer_VerifiesTheClient(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		other := tlstest.NewCA(t, "other ca")
		for name, c := range map[string]struct {
			mode   libssl.VerifyMode
			client func(ctx *libssl.Context) error
			says   string // the server
		}{
			"none asked":        {mode: libssl.VerifyNone, client: func(ctx *libssl.Context) error { return ctx.UseCertificatePEM(f.ca.Leaf(t, "c")) }},
			"none sent":         {mode: libssl.VerifyPeer},
			"sent":              {mode: libssl.VerifyPeer, client: func(ctx *libssl.Context) error { return ctx.UseCertificatePEM(f.ca.Leaf(t, "c")) }},
			"wrong":             {mode: libssl.VerifyPeer, client: func(ctx *libssl.Context) error { return ctx.UseCertificatePEM(other.Leaf(t, "c")) }, says: "unable to get local issuer certificate"},
			"required, sent":    {mode: libssl.VerifyRequirePeer, client: func(ctx *libssl.Context) error { return ctx.UseCertificatePEM(f.ca.Leaf(t, "c")) }},
			"required, missing": {mode: libssl.VerifyRequirePeer, says: "peer did not return a certificate"},
			"required, expired": {mode: libssl.VerifyRequirePeer, client: func(ctx *libssl.Context) error { return ctx.UseCertificatePEM(f.ca.LeafWith(t, expired, "c")) }, says: "certificate has expired"},
		} {
			t.Run(name, func(t *testing.T) {
				server := f.server(t)
				require.NoError(t, server.AddClientCAsPEM(f.ca.PEM))
				require.NoError(t, server.SetVerify(c.mode))
				client := newClient(t, f.ca)
				if c.client != nil {
					require.NoError(t, c.client(client))
				}
				cn, sn := tcpPipe(t)
				cl, s := wrap(t, cn, sn, client, server)
				served := make(chan error, 1)
				go func() { served <- run(s) }()
				err := cl.Handshake()
				serr := receive(t, "the server", served)
				if c.says == "" {
					require.NoError(t, err)
					require.NoError(t, serr)
					state := s.ConnectionState()
					if c.client == nil || c.mode == libssl.VerifyNone {
						require.Empty(t, state.PeerCertificates)
						require.Empty(t, state.VerifiedChains)
					} else {
						require.Equal(t, "c", state.PeerCertificates[0].Subject.CommonName)
						require.Equal(t, "ca", state.VerifiedChains[0][1].Subject.CommonName)
					}
					return
				}
				var e *libssl.Error
				require.ErrorAs(t, serr, &e)
				require.Contains(t, serr.Error(), c.says)
				if err == nil { // TLS 1.3: the client hears of it when it reads
					_, err = cl.Read(make([]byte, 1))
				}
				require.ErrorContains(t, err, "alert")
			})
		}
	})
}

// Values out of range are errors, and so is a change once a connection was made, and names on a client's Context.
func TestVerifySettings_SayWhatIsWrong(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	client := newClient(t, ca)
	server, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	defer server.Close()
	require.ErrorIs(t, client.SetVerifyNames("a.test"), libssl.ErrUnsupported)
	require.ErrorContains(t, server.SetVerifyDepth(-1), "-1 intermediate certificates")
	require.ErrorContains(t, server.SetVerifyPurpose(0), "no purpose 0")
	for name, says := range map[string]string{"": "not a DNS name", "a\x00b": "not a DNS name", "::1": "is an address", "192.0.2.1": "is an address"} {
		require.ErrorContains(t, server.SetVerifyNames("a.test", name), says)
	}
	require.NoError(t, server.UseCertificatePEM(ca.Leaf(t, serverName)))
	require.NoError(t, server.AddClientCAsPEM(ca.PEM))
	require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
	require.NoError(t, client.UseCertificatePEM(ca.Leaf(t, "b.test")))
	require.NoError(t, server.SetVerifyNames("a.test"))
	require.NoError(t, server.SetVerifyNames())
	require.NoError(t, client.SetVerifyDepth(0))
	failed, _ := handshakeOrNot(t, client, server)
	require.NoError(t, failed)
	for _, err := range []error{server.SetVerifyDepth(1), server.SetVerifyPurpose(libssl.PurposeAny), server.SetVerifyNames("b.test")} {
		require.ErrorContains(t, err, "once a connection was made")
	}
}

// ---- ALPN ----------------------------------------------------------------------------

// Each case is tried with crypto/tls too.
func TestALPN_AsCryptoTLS(t *testing.T) {
	for name, c := range map[string]struct{ client, server []string }{
		"one":                   {[]string{"h2"}, []string{"h2"}},
		"the server prefers":    {[]string{"a", "b", "c"}, []string{"c", "b"}},
		"the client only":       {[]string{"h2"}, nil},
		"the server only":       {nil, []string{"h2"}},
		"neither":               {nil, nil},
		"nothing in common":     {[]string{"a"}, []string{"b"}},
		"HTTP/1.1 to h2":        {[]string{"http/1.1"}, []string{"h2"}},
		"HTTP/1.1 and a to h2":  {[]string{"http/1.1", "a"}, []string{"h2"}},
		"HTTP/1.1 to h2 and b":  {[]string{"http/1.1"}, []string{"h2", "b"}},
		"a to h2":               {[]string{"a"}, []string{"h2"}},
		"a prefix is no match":  {[]string{"h"}, []string{"h2"}},
		"the longest name":      {[]string{strings.Repeat("x", 255)}, []string{strings.Repeat("x", 255)}},
		"the client twice":      {[]string{"a", "a"}, []string{"a"}},
		"server, longer prefix": {[]string{"h2"}, []string{"h2c", "h2"}},
	} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				cert, err := tls.X509KeyPair(f.cert, f.key)
				require.NoError(t, err)
				cn, sn := tcpPipe(t)
				defer cn.Close()
				defer sn.Close()
				goClient := tls.Client(cn, &tls.Config{RootCAs: f.ca.Pool(), ServerName: serverName, NextProtos: c.client, MinVersion: f.version, MaxVersion: f.version})
				goServer := tls.Server(sn, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: c.server})
				wantErr := agree(goClient, goServer)
				want := goServer.ConnectionState()

				server := f.server(t)
				require.NoError(t, server.SetALPN(c.server...))
				require.NoError(t, f.client.SetALPN(c.client...))
				cn, sn = tcpPipe(t)
				cl, s := f.ends(t, cn, sn, server, nil)
				err = agree(cl, s)
				require.Equal(t, wantErr == nil, err == nil, "%v, but crypto/tls: %v", err, wantErr)
				if err != nil {
					require.ErrorContains(t, err, "application protocol")
					return
				}
				for _, state := range []tls.ConnectionState{cl.ConnectionState(), s.ConnectionState()} {
					require.Equal(t, want.NegotiatedProtocol, state.NegotiatedProtocol)
					require.Equal(t, want.NegotiatedProtocolIsMutual, state.NegotiatedProtocolIsMutual)
				}
			})
		})
	}
}

// agree runs the handshake from both ends and closes both transports where
// either fails. It returns the errors of both.
func agree(client, server interface {
	Handshake() error
	NetConn() net.Conn
}) error {
	served := make(chan error, 1)
	go func() {
		err := server.Handshake()
		if err != nil {
			_ = server.NetConn().(*net.TCPConn).CloseWrite()
		}
		served <- err
	}()
	err := client.Handshake()
	if err != nil {
		_ = client.NetConn().(*net.TCPConn).CloseWrite()
	}
	return errors.Join(err, <-served)
}

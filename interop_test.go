package libssl_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

func parseCert(t testing.TB, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	require.NotNil(t, block)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	return cert
}

// tlsConn is what both libraries' connections can do.
type tlsConn interface {
	net.Conn
	HandshakeContext(ctx context.Context) error
	Handshake() error
	CloseWrite() error
	NetConn() net.Conn
	ConnectionState() tls.ConnectionState
}

var (
	_ tlsConn = (*libssl.Conn)(nil)
	_ tlsConn = (*tls.Conn)(nil)
)

// interop is a connection between the two libraries.
type interop struct {
	*fleet
	server, client *libssl.Context
	goServer       *tls.Config
	goClient       *tls.Config
	ours           string // "client" or "server"
	wire           *tap   // records the client's bytes
}

// eachInterop runs test with our client and crypto/tls's server, and the other
// way round, in both versions.
func eachInterop(t *testing.T, test func(t *testing.T, i *interop), only ...uint16) {
	for _, ours := range []string{"client", "server"} {
		t.Run("our "+ours, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				cert, err := tls.X509KeyPair(f.cert, f.key)
				require.NoError(t, err)
				i := &interop{fleet: f, ours: ours, server: f.server(t), client: f.client}
				i.goServer = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: f.version, MaxVersion: f.version, ClientCAs: f.ca.Pool()}
				i.goClient = &tls.Config{RootCAs: f.ca.Pool(), ServerName: serverName, MinVersion: f.version, MaxVersion: f.version}
				require.NoError(t, i.server.AddClientCAsPEM(f.ca.PEM))
				test(t, i)
			}, only...)
		})
	}
}

// connect makes both ends, closed with the test at the latest.
func (i *interop) connect(t *testing.T, sess *libssl.Session) (client, server tlsConn) {
	t.Helper()
	cn, sn := tcpPipe(t)
	i.wire = &tap{Conn: cn}
	if i.ours == "client" {
		c, err := libssl.Client(i.wire, i.client, serverName)
		require.NoError(t, err)
		if sess != nil {
			require.NoError(t, c.SetSession(sess))
		}
		client, server = c, tls.Server(sn, i.goServer)
	} else {
		s, err := libssl.Server(sn, i.server)
		require.NoError(t, err)
		client, server = tls.Client(i.wire, i.goClient), s
	}
	t.Cleanup(func() { closeBoth(client, server) })
	return client, server
}

// requireSameState compares the states of the two ends of one connection.
func requireSameState(t *testing.T, a, b tlsConn) {
	t.Helper()
	x, y := a.ConnectionState(), b.ConnectionState()
	require.Equal(t, x.Version, y.Version)
	require.True(t, x.HandshakeComplete && y.HandshakeComplete)
	require.Equal(t, x.DidResume, y.DidResume)
	require.Equal(t, x.CipherSuite, y.CipherSuite)
	require.Equal(t, x.NegotiatedProtocol, y.NegotiatedProtocol)
	require.Equal(t, x.NegotiatedProtocolIsMutual, y.NegotiatedProtocolIsMutual)
	require.Equal(t, x.ServerName, y.ServerName)
	if !strings.HasPrefix(libssl.Version(), "OpenSSL 1.1.1") { // which does not tell
		require.Equal(t, x.CurveID, y.CurveID)
	}
}

func TestInterop_FullHandshake(t *testing.T) {
	eachInterop(t, func(t *testing.T, i *interop) {
		require.NoError(t, i.client.SetALPN("b", "a"))
		require.NoError(t, i.server.SetALPN("a", "b"))
		i.goClient.NextProtos, i.goServer.NextProtos = []string{"b", "a"}, []string{"a", "b"}
		c, s := i.connect(t, nil)
		require.NoError(t, exchange(c, s))
		requireSameState(t, c, s)
		state := c.ConnectionState()
		require.Equal(t, "a", state.NegotiatedProtocol)
		require.Equal(t, serverName, state.ServerName)
		require.False(t, state.DidResume)
		// The client sees the chain as crypto/tls does.
		leaf, ca := parseCert(t, i.cert), parseCert(t, i.ca.PEM)
		require.Equal(t, []*x509.Certificate{leaf}, state.PeerCertificates)
		require.Equal(t, [][]*x509.Certificate{{leaf, ca}}, state.VerifiedChains)
		state = s.ConnectionState()
		require.Empty(t, state.PeerCertificates)
		require.Empty(t, state.VerifiedChains)
	})
}

func TestInterop_ClientCertificates(t *testing.T) {
	eachInterop(t, func(t *testing.T, i *interop) {
		middle := i.ca.Intermediate(t, "middle ca")
		cert, key := middle.Leaf(t, "client")
		leaf, chain := parseCert(t, cert), append(cert, middle.PEM...)
		require.NoError(t, i.client.UseCertificatePEM(chain, key))
		pair, err := tls.X509KeyPair(chain, key)
		require.NoError(t, err)
		i.goClient.Certificates = []tls.Certificate{pair}
		require.NoError(t, i.server.SetVerify(libssl.VerifyRequirePeer))
		require.NoError(t, i.server.SetSessionIDContext([]byte("interop")))
		i.goServer.ClientAuth = tls.RequireAndVerifyClientCert
		c, s := i.connect(t, nil)
		require.NoError(t, exchange(c, s))
		requireSameState(t, c, s)
		state := s.ConnectionState()
		between, ca := parseCert(t, middle.PEM), parseCert(t, i.ca.PEM)
		require.Equal(t, []*x509.Certificate{leaf, between}, state.PeerCertificates)
		require.Equal(t, [][]*x509.Certificate{{leaf, between, ca}}, state.VerifiedChains)
	})
}

func TestInterop_Resumption(t *testing.T) {
	eachInterop(t, func(t *testing.T, i *interop) {
		i.goClient.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		var sess *libssl.Session
		for visit := range 3 {
			c, s := i.connect(t, sess)
			require.NoError(t, exchange(c, s))
			requireSameState(t, c, s)
			require.Equal(t, visit > 0, c.ConnectionState().DidResume)
			require.Equal(t, parseCert(t, i.cert), c.ConnectionState().PeerCertificates[0])
			if ours, ok := c.(*libssl.Conn); ok {
				sess = sessionOf(t, ours)
			}
			closeBoth(c, s)
		}
	})
}

func TestInterop_HelloRetryRequest(t *testing.T) {
	eachInterop(t, func(t *testing.T, i *interop) {
		// The client guesses X25519, the server wants P-256.
		require.NoError(t, i.client.SetGroups("X25519:P-256"))
		i.goServer.CurvePreferences = []tls.CurveID{tls.CurveP256}
		require.NoError(t, i.server.SetGroups("P-256"))
		i.goClient.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
		c, s := i.connect(t, nil)
		require.NoError(t, exchange(c, s))
		requireSameState(t, c, s)
		require.Equal(t, 2, i.wire.hellos())
	}, tls.VersionTLS13)
}

func TestInterop_BothWays(t *testing.T) {
	eachInterop(t, func(t *testing.T, i *interop) {
		c, s := i.connect(t, nil)
		bothWays(t, c, s, random(4<<20), writeOddly)
		// And the end, one direction at a time.
		require.NoError(t, c.CloseWrite())
		_, err := s.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		_, err = s.Write([]byte("bye"))
		require.NoError(t, err)
		require.NoError(t, s.CloseWrite())
		got, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "bye", string(got))
	})
}

func TestInterop_KeyLog(t *testing.T) {
	eachInterop(t, func(t *testing.T, i *interop) {
		var ours, theirs bytes.Buffer
		i.client.SetKeyLogWriter(&ours)
		i.server.SetKeyLogWriter(&ours)
		i.goClient.KeyLogWriter, i.goServer.KeyLogWriter = &theirs, &theirs
		c, s := i.connect(t, nil)
		require.NoError(t, exchange(c, s))
		lines := strings.Split(strings.TrimSpace(theirs.String()), "\n")
		if i.version == tls.VersionTLS13 {
			require.Len(t, lines, 4)
		} else {
			require.Len(t, lines, 1)
		}
		logged := strings.Split(strings.ToLower(strings.TrimSpace(ours.String())), "\n")
		for _, line := range lines {
			require.Contains(t, logged, strings.ToLower(line))
		}
		for _, line := range logged { // OpenSSL adds the exporter's
			require.Len(t, strings.Fields(line), 3)
		}
		i.client.SetKeyLogWriter(nil)
		i.server.SetKeyLogWriter(nil)
		ours.Reset()
		c, s = i.connect(t, nil)
		require.NoError(t, exchange(c, s))
		require.Zero(t, ours.Len())
	})
}

func TestInterop_CloseNotify(t *testing.T) {
	eachInterop(t, func(t *testing.T, i *interop) {
		for _, clientCloses := range []bool{true, false} {
			c, s := i.connect(t, nil)
			require.NoError(t, exchange(c, s))
			closer, reader := c, s
			if !clientCloses {
				closer, reader = s, c
			}
			go closer.Close()
			_, err := reader.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)

			c, s = i.connect(t, nil)
			require.NoError(t, exchange(c, s))
			closer, reader = c, s
			if !clientCloses {
				closer, reader = s, c
			}
			closer.NetConn().Close()
			_, err = reader.Read(make([]byte, 1))
			if _, ok := reader.(*libssl.Conn); ok {
				require.Equal(t, io.ErrUnexpectedEOF, err)
			}
		}
	})
}

// ---- KeyUpdate ---------------------------------------------------------------------------

// expand is HKDF-Expand-Label of RFC 8446 without a context.
func expand(t *testing.T, secret []byte, label string, n int) []byte {
	t.Helper()
	label = "tls13 " + label
	info := append([]byte{byte(n >> 8), byte(n), byte(len(label))}, label...)
	out, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
	require.NoError(t, err)
	return out
}

// seal makes the first record under a traffic secret of TLS_AES_128_GCM_SHA256.
func seal(t *testing.T, secret []byte, kind byte, content []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(expand(t, secret, "key", 16))
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	content = append(bytes.Clone(content), kind)
	n := len(content) + aead.Overhead()
	header := []byte{23, 3, 3, byte(n >> 8), byte(n)}
	return aead.Seal(header, expand(t, secret, "iv", 12), content, header)
}

// Neither library updates keys by itself, so the client's records are written
// by hand, with the secrets of its key log; crypto/tls reads the answers.
func TestInterop_KeyUpdate(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.server(t)
	require.NoError(t, server.SetCipherSuites("TLS_AES_128_GCM_SHA256"))
	cn, sn := tcpPipe(t)
	var log bytes.Buffer
	c := tls.Client(cn, &tls.Config{RootCAs: f.ca.Pool(), ServerName: serverName, KeyLogWriter: &log})
	s, err := libssl.Server(sn, server)
	require.NoError(t, err)
	t.Cleanup(func() { closeBoth(c, s) })
	require.NoError(t, bothHandshake(c, s))
	go echo(s)
	updates, secret := keyUpdates(t, clientSecret(t, log.String()), 1)
	_, err = cn.Write(updates)
	require.NoError(t, err)
	_, err = cn.Write(seal(t, secret, 23, []byte("still there?")))
	require.NoError(t, err)
	got := make([]byte, 12)
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, "still there?", string(got))
}

// clientSecret is the client's first traffic secret in a key log.
func clientSecret(t *testing.T, log string) (secret []byte) {
	t.Helper()
	for line := range strings.Lines(log) {
		if fields := strings.Fields(line); fields[0] == "CLIENT_TRAFFIC_SECRET_0" {
			var err error
			secret, err = hex.DecodeString(fields[2])
			require.NoError(t, err)
		}
	}
	require.Len(t, secret, 32)
	return secret
}

// keyUpdates makes n records that each ask for an answer, and the secret after them.
func keyUpdates(t *testing.T, secret []byte, n int) (records, next []byte) {
	t.Helper()
	for range n {
		records = append(records, seal(t, secret, 22, []byte{24, 0, 0, 1, 1})...)
		secret = expand(t, secret, "traffic upd", 32)
	}
	return records, secret
}

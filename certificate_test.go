package libssl_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func parsed(t testing.TB, cert, key []byte) *libssl.Certificate {
	t.Helper()
	c, err := libssl.ParseCertificate(cert, key, nil)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// served is the leaf that a server sends.
func served(t testing.TB, client, server *libssl.Context) *x509.Certificate {
	t.Helper()
	c, s := handshake(t, client, server, nil)
	defer closeBoth(c, s)
	return c.ConnectionState().PeerCertificates[0]
}

func write(t testing.TB, name string, content []byte) string {
	t.Helper()
	require.NoError(t, os.WriteFile(name, content, 0o600))
	return name
}

// openssl runs openssl(1) in a folder of its own, with the two files, and returns the file out.
func openssl(t *testing.T, cert, key []byte, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("the openssl command is not installed")
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = t.TempDir()
	write(t, filepath.Join(cmd.Dir, "cert.pem"), cert)
	write(t, filepath.Join(cmd.Dir, "key.pem"), key)
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", text)
	out, err := os.ReadFile(filepath.Join(cmd.Dir, "out"))
	require.NoError(t, err)
	return out
}

func derOfPEM(text []byte) []byte {
	b, _ := pem.Decode(text)
	return b.Bytes
}

func secret() ([]byte, error) { return []byte("secret"), nil }

func TestLoadCertificate_Forms(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	mid := ca.Intermediate(t, "intermediate")
	cert, key := mid.Leaf(t, serverName)
	chain := append(append([]byte{}, cert...), mid.PEM...)
	words := []string{"-passout", "pass:secret", "-out", "out"}
	for name, c := range map[string]struct {
		cert, key []byte
		opt       *libssl.KeyOptions
	}{
		"PEM":              {chain, key, nil},
		"one PEM":          {append(append([]byte{}, key...), chain...), nil, nil},
		"DER":              {derOfPEM(cert), derOfPEM(key), nil},
		"PKCS#8":           {chain, openssl(t, cert, key, append([]string{"pkcs8", "-topk8", "-in", "key.pem"}, words...)...), &libssl.KeyOptions{Passphrase: secret}},
		"PKCS#8 in DER":    {chain, openssl(t, cert, key, append([]string{"pkcs8", "-topk8", "-in", "key.pem", "-outform", "DER"}, words...)...), &libssl.KeyOptions{Passphrase: secret}},
		"traditional":      {chain, openssl(t, cert, key, append([]string{"ec", "-in", "key.pem", "-aes128"}, words...)...), &libssl.KeyOptions{Passphrase: secret}},
		"PKCS#12":          {openssl(t, chain, key, append([]string{"pkcs12", "-export", "-in", "cert.pem", "-inkey", "key.pem"}, words...)...), nil, &libssl.KeyOptions{Passphrase: secret}},
		"PKCS#12, no word": {openssl(t, chain, key, "pkcs12", "-export", "-in", "cert.pem", "-inkey", "key.pem", "-passout", "pass:", "-out", "out"), nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			certFile, keyFile := write(t, filepath.Join(dir, "c"), c.cert), ""
			if c.key != nil {
				keyFile = write(t, filepath.Join(dir, "k"), c.key)
			}
			loaded, err := libssl.LoadCertificate(certFile, keyFile, c.opt)
			require.NoError(t, err)
			defer loaded.Close()
			leaf, err := loaded.Leaf()
			require.NoError(t, err)
			require.Equal(t, []string{serverName}, leaf.DNSNames)
			client, server := newClient(t, ca), newServer(t, ca)
			require.NoError(t, server.UseCertificate(loaded))
			require.NoError(t, loaded.Close(), "the Context keeps what it needs")
			conn, s := handshakeOrNot(t, client, server)
			if name == "DER" {
				require.Error(t, conn, "without its chain")
				return
			}
			require.NoError(t, conn)
			require.Equal(t, leaf.SerialNumber, s.PeerCertificates[0].SerialNumber)
			require.Len(t, s.PeerCertificates, 2)
		})
	}
}

// handshakeOrNot returns the state of the client after a handshake.
func handshakeOrNot(t testing.TB, client, server *libssl.Context) (error, tls.ConnectionState) {
	t.Helper()
	cn, sn := tcpPipe(t)
	c, s := wrap(t, cn, sn, client, server)
	defer closeBoth(c, s)
	if err := bothHandshake(c, s); err != nil {
		return err, tls.ConnectionState{}
	}
	return nil, c.ConnectionState()
}

func TestLoadCertificate_SaysWhatIsWrong(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	cert, key := ca.Leaf(t, serverName)
	_, otherKey := ca.Leaf(t, serverName)
	encrypted := openssl(t, cert, key, "pkcs8", "-topk8", "-in", "key.pem", "-passout", "pass:secret", "-out", "out")
	p12 := openssl(t, cert, key, "pkcs12", "-export", "-in", "cert.pem", "-inkey", "key.pem", "-passout", "pass:secret", "-out", "out")
	wrong := &libssl.KeyOptions{Passphrase: func() ([]byte, error) { return []byte("wrong"), nil }}
	errAsk := errors.New("no terminal")
	refused := &libssl.KeyOptions{Passphrase: func() ([]byte, error) { return nil, errAsk }}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, c := range map[string]struct {
		cert, key []byte
		opt       *libssl.KeyOptions
		file      string
		says      string
	}{
		"swapped":             {key, cert, nil, certFile, "swapped"},
		"certificate as key":  {cert, cert, nil, keyFile, "no key"},
		"no passphrase":       {cert, encrypted, nil, keyFile, "encrypted"},
		"wrong passphrase":    {cert, encrypted, wrong, keyFile, "wrong passphrase"},
		"passphrase refused":  {cert, encrypted, refused, keyFile, "no terminal"},
		"another key":         {cert, otherKey, nil, keyFile, "does not belong"},
		"empty certificate":   {[]byte{}, key, nil, certFile, "is empty"},
		"empty key":           {cert, []byte{}, nil, keyFile, "is empty"},
		"garbage":             {[]byte("garbage"), key, nil, certFile, "no certificate"},
		"garbage as key":      {cert, []byte("garbage"), nil, keyFile, "no private key"},
		"half a certificate":  {cert[:len(cert)/2], key, nil, certFile, "no certificate"},
		"half a key":          {cert, key[:len(key)/2], nil, keyFile, "no private key"},
		"bytes after DER":     {append(derOfPEM(cert), 0), key, nil, certFile, "no certificate"},
		"PKCS#12, no word":    {p12, nil, nil, certFile, "encrypted"},
		"PKCS#12, wrong word": {p12, nil, wrong, certFile, "wrong passphrase"},
		"no PKCS#12":          {derOfPEM(cert), nil, nil, certFile, ""},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, certFile, c.cert)
			name := keyFile
			if c.key == nil {
				name = ""
			} else {
				write(t, keyFile, c.key)
			}
			_, err := libssl.LoadCertificate(certFile, name, c.opt)
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, c.file)
		})
	}
	_, err := libssl.LoadCertificate(dir, keyFile, nil)
	require.ErrorContains(t, err, dir)
	write(t, certFile, cert)
	_, err = libssl.LoadCertificate(certFile, dir, nil)
	require.ErrorContains(t, err, dir)
	_, err = libssl.LoadCertificate(certFile, filepath.Join(dir, "none"), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Zero(t, libssl.LiveResources().Certificates)
}

func parsedLeaf(t testing.TB, ca *tlstest.CA, hosts ...string) *libssl.Certificate {
	t.Helper()
	cert, key := ca.Leaf(t, hosts...)
	return parsed(t, cert, key)
}

func parsedRSA(t testing.TB, ca *tlstest.CA) *libssl.Certificate {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	cert, key := ca.LeafWithKey(t, k, serverName)
	return parsed(t, cert, key)
}

// Suites that a certificate with one type of key can serve.
const (
	suiteRSA   = tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
	suiteECDSA = tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
)

// servedFor is the leaf that a server sends to a client with one suite.
func servedFor(t testing.TB, server *libssl.Context, suite uint16) (*x509.Certificate, error) {
	t.Helper()
	cn, sn := tcpPipe(t)
	s, err := libssl.Server(sn, server)
	require.NoError(t, err)
	c := tls.Client(cn, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
	defer closeBoth(c, s)
	if err := bothHandshake(c, s); err != nil {
		return nil, err
	}
	return c.ConnectionState().PeerCertificates[0], nil
}

func TestUseCertificate_ReplacesTheWholeSet(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	server := newServer(t, ca)
	r := parsedRSA(t, ca)
	require.NoError(t, server.UseCertificate(parsedLeaf(t, ca, serverName), r))
	for want, suite := range map[x509.PublicKeyAlgorithm]uint16{x509.RSA: suiteRSA, x509.ECDSA: suiteECDSA} {
		got, err := servedFor(t, server, suite)
		require.NoError(t, err)
		require.Equal(t, want, got.PublicKeyAlgorithm)
	}
	require.NoError(t, server.UseCertificate(r))
	_, err := servedFor(t, server, suiteECDSA)
	require.Error(t, err, "no stale certificate stays, nor that of UseCertificatePEM")
}

func TestUseCertificate_Refuses(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	server, client := newServer(t, ca), newClient(t, ca)
	before := served(t, client, server)
	one, two := parsedLeaf(t, ca, serverName), parsedLeaf(t, ca, serverName)
	require.ErrorContains(t, server.UseCertificate(one, two), "same type of key")
	require.Error(t, server.UseCertificate())
	require.Error(t, server.UseCertificate(nil))
	two.Close()
	require.ErrorIs(t, server.UseCertificate(one, two), libssl.ErrClosed)
	_, err := two.Leaf()
	require.ErrorIs(t, err, libssl.ErrClosed)
	require.Equal(t, before.SerialNumber, served(t, client, server).SerialNumber, "the old one stays")
}

func TestUseCertificate_ThenPEM(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	server := newServer(t, ca)
	require.NoError(t, server.UseCertificate(parsedRSA(t, ca), parsedLeaf(t, ca, serverName)))
	cert, key := ca.Leaf(t, serverName)
	require.NoError(t, server.UseCertificatePEM(cert, key))
	got, err := servedFor(t, server, suiteECDSA)
	require.NoError(t, err)
	require.Equal(t, derOfPEM(cert), got.Raw)
	_, err = servedFor(t, server, suiteRSA)
	require.NoError(t, err, "of another type of key: it stays")
}

func TestUseCertificate_WhileServing(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	server, client := newServer(t, ca), newClient(t, ca)
	l := listen(t, "tcp", "127.0.0.1:0", server)
	serveEcho(t, l)
	var certs [2]*libssl.Certificate
	for i := range certs {
		certs[i] = parsedLeaf(t, ca, serverName, "127.0.0.1")
	}
	over := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				c, err := libssl.Dial("tcp", l.Addr().String(), client)
				if !assert.NoError(t, err) {
					return
				}
				c.Close()
			}
		})
	}
	for i := range 500 {
		assert.NoError(t, server.UseCertificate(certs[i%2]))
	}
	close(over)
	clients.Wait()
}

func TestCertificate_ClientAndServerName(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	server, other, client := newServer(t, ca), newServer(t, ca), newClient(t, ca)
	chosen := parsedLeaf(t, ca, serverName)
	require.NoError(t, other.UseCertificate(chosen))
	server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return other })
	leaf, err := chosen.Leaf()
	require.NoError(t, err)
	require.Equal(t, leaf.SerialNumber, served(t, client, server).SerialNumber)

	for _, c := range []*libssl.Context{server, other} {
		require.NoError(t, c.AddClientCAsPEM(ca.PEM))
		require.NoError(t, c.SetVerify(libssl.VerifyRequirePeer))
		require.NoError(t, c.SetSessionIDContext([]byte("x")))
	}
	mine := parsedLeaf(t, ca, "client")
	require.NoError(t, client.UseCertificate(mine))
	c, s := handshake(t, client, server, nil)
	defer closeBoth(c, s)
	require.Equal(t, "client", s.ConnectionState().PeerCertificates[0].DNSNames[0])
}

func TestCertificate_Staple(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		cert := parsed(t, f.cert, f.key)
		require.NoError(t, server.UseCertificate(cert))
		staple := func() []byte {
			err, state := handshakeOrNot(t, f.client, server)
			require.NoError(t, err)
			return state.OCSPResponse
		}
		require.Empty(t, staple())
		for status := range byte(2) { // responses without a body; newer releases of OpenSSL decode them
			response := []byte{0x30, 3, 0x0a, 1, 1 + status}
			cert.SetOCSPStaple(response)
			require.Equal(t, response, staple())
		}
		cert.SetOCSPStaple(nil)
		require.Empty(t, staple())
		cert.Close()
		cert.SetOCSPStaple([]byte("too late"))
		require.Empty(t, staple())
	})
}

func TestWatchCertificate_FollowsFiles(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	server, client := newServer(t, ca), newClient(t, ca)
	root := t.TempDir()
	place := func(version string) (cert []byte) {
		cert, key := ca.Leaf(t, serverName)
		require.NoError(t, os.Mkdir(filepath.Join(root, version), 0o700))
		write(t, filepath.Join(root, version, "tls.crt"), cert)
		write(t, filepath.Join(root, version, "tls.key"), key)
		require.NoError(t, os.Symlink(version, filepath.Join(root, "new")))
		require.NoError(t, os.Rename(filepath.Join(root, "new"), filepath.Join(root, "current"))) // as Kubernetes does
		return cert
	}
	serves := func(cert []byte) func() bool {
		leaf, err := x509.ParseCertificate(derOfPEM(cert))
		require.NoError(t, err)
		return func() bool { return served(t, client, server).SerialNumber.Cmp(leaf.SerialNumber) == 0 }
	}
	first := place("1")
	failed := make(chan error, 16)
	certFile, keyFile := filepath.Join(root, "current", "tls.crt"), filepath.Join(root, "current", "tls.key")
	stop, err := server.WatchCertificate(certFile, keyFile, time.Millisecond, func(err error) { failed <- err })
	require.NoError(t, err)
	defer stop()
	require.True(t, serves(first)())
	second := place("2")
	wait(t, "the second certificate", serves(second))

	cert, key := ca.Leaf(t, serverName)
	write(t, certFile, cert)
	receive(t, "the key that does not fit", failed)
	require.True(t, serves(second)(), "the old pair stays")
	write(t, keyFile, key)
	wait(t, "the third certificate", serves(cert))
	require.NoError(t, os.Remove(certFile))
	wait(t, "the missing file to be told", func() bool { return errors.Is(receive(t, "an error", failed), os.ErrNotExist) })
	stop()
	stop()
	_, err = server.WatchCertificate(certFile, keyFile, time.Second, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = server.WatchCertificate(certFile, keyFile, 0, nil)
	require.Error(t, err)
}

// The id context is made of the names: a renewal keeps the sessions, and other names do not.
func TestUseCertificate_RenewalKeepsSessions(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		require.NoError(t, server.UseCertificate(parsedLeaf(t, f.ca, serverName)))
		useStore(t, server, memstore.New(memstore.Options{}), nil)
		sess := f.visit(t, server, nil).next
		require.NoError(t, server.UseCertificate(parsedLeaf(t, f.ca, serverName)))
		v := f.visit(t, server, sess)
		require.True(t, v.resumed)
		require.NoError(t, server.UseCertificate(parsedLeaf(t, f.ca, serverName, "other.test")))
		require.False(t, f.visit(t, server, v.next).resumed)
	})
}

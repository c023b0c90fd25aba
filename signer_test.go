package libssl_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/cgo"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// spySigner records the options that it signs with. before may fail instead; answer replaces the signature.
type spySigner struct {
	crypto.Signer
	before func() error
	answer []byte

	mu   sync.Mutex
	opts []crypto.SignerOpts
}

func (s *spySigner) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.mu.Lock()
	s.opts = append(s.opts, opts)
	s.mu.Unlock()
	if s.before != nil {
		if err := s.before(); err != nil {
			return nil, err
		}
	}
	if s.answer != nil {
		return s.answer, nil
	}
	return s.Signer.Sign(r, digest, opts)
}

func newECKey(t testing.TB, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(t, err)
	return k
}

func newRSAKey(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return k
}

// signerChain issues a certificate for a key. It ends the test where this OpenSSL has no signers.
func signerChain(t testing.TB, ca *tlstest.CA, key crypto.Signer) [][]byte {
	t.Helper()
	if cgo.VersionNumber() < 0x30000000 {
		_, err := libssl.SignerCertificate(nil, key)
		require.ErrorIs(t, err, libssl.ErrUnsupported)
		t.Skip("OpenSSL 1.1.1 has no providers")
	}
	between := ca.Intermediate(t, "intermediate")
	cert, _ := between.LeafWithKey(t, key, serverName)
	leaf, _ := pem.Decode(cert)
	issuer, _ := pem.Decode(between.PEM)
	return [][]byte{leaf.Bytes, issuer.Bytes}
}

// useSigner gives the Context a certificate of ca whose signer is key.
func useSigner(t testing.TB, ctx *libssl.Context, ca *tlstest.CA, key *spySigner) {
	t.Helper()
	cert, err := libssl.SignerCertificate(signerChain(t, ca, key.Signer), key)
	require.NoError(t, err)
	require.NoError(t, ctx.UseCertificate(cert))
	require.NoError(t, cert.Close()) // the Context keeps what it needs
}

func signerServer(t testing.TB, ca *tlstest.CA, key *spySigner) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	useSigner(t, ctx, ca, key)
	return ctx
}

func eachSigner(t *testing.T, test func(t *testing.T, version uint16, key *spySigner)) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	for name, key := range map[string]crypto.Signer{
		"P-256": newECKey(t, elliptic.P256()), "P-384": newECKey(t, elliptic.P384()), "RSA": newRSAKey(t), "Ed25519": ed,
	} {
		for v, version := range versions {
			t.Run(name+" "+v, func(t *testing.T) { test(t, version, &spySigner{Signer: key}) })
		}
	}
}

// requireOpts fails unless the signer was asked once, for what TLS demands of its key.
func requireOpts(t *testing.T, key *spySigner) {
	t.Helper()
	require.Len(t, key.opts, 1)
	switch key.Signer.(type) {
	case *rsa.PrivateKey:
		require.Equal(t, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}, key.opts[0])
	case ed25519.PrivateKey:
		require.Equal(t, crypto.Hash(0), key.opts[0])
	default:
		require.NotZero(t, key.opts[0].HashFunc())
	}
}

func TestSigner_Servers(t *testing.T) {
	ca := tlstest.NewCA(t, "signers")
	eachSigner(t, func(t *testing.T, version uint16, key *spySigner) {
		ctx := signerServer(t, ca, key)
		cn, sn := tcpPipe(t)
		server, err := libssl.Server(sn, ctx)
		require.NoError(t, err)
		client := tls.Client(cn, &tls.Config{RootCAs: ca.Pool(), ServerName: serverName, MinVersion: version, MaxVersion: version})
		defer closeBoth(client, server)
		require.NoError(t, exchange(client, server))
		requireOpts(t, key)
		assert.Equal(t, key.Public(), client.ConnectionState().PeerCertificates[0].PublicKey)
	})
}

func TestSigner_Clients(t *testing.T) {
	ca := tlstest.NewCA(t, "signers")
	cert, certKey := ca.Leaf(t, serverName)
	own, err := tls.X509KeyPair(cert, certKey)
	require.NoError(t, err)
	eachSigner(t, func(t *testing.T, version uint16, key *spySigner) {
		ctx := newClient(t, ca)
		useSigner(t, ctx, ca, key)
		cn, sn := tcpPipe(t)
		server := tls.Server(sn, &tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: ca.Pool(),
			ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: version, MaxVersion: version})
		client, err := libssl.Client(cn, ctx, serverName)
		require.NoError(t, err)
		defer closeBoth(client, server)
		require.NoError(t, exchange(client, server))
		requireOpts(t, key)
		assert.Equal(t, key.Public(), server.ConnectionState().PeerCertificates[0].PublicKey)
	})
}

// crypto/tls prefers PSS in TLS 1.2 too; s_client offers only what it is told.
func TestSigner_PKCS1(t *testing.T) {
	ca := tlstest.NewCA(t, "signers")
	roots := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(roots, ca.PEM, 0o600))
	key := &spySigner{Signer: newRSAKey(t)}
	ctx := signerServer(t, ca, key)
	l, err := libssl.Listen("tcp", "127.0.0.1:0", ctx)
	require.NoError(t, err)
	defer l.Close()
	cmd := exec.Command("openssl", "s_client", "-connect", l.Addr().String(), "-servername", serverName, "-tls1_2",
		"-sigalgs", "RSA+SHA384", "-CAfile", roots, "-verify_return_error")
	stdin, err := cmd.StdinPipe() // open: s_client ends with its input
	require.NoError(t, err)
	defer stdin.Close()
	require.NoError(t, cmd.Start())
	conn, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.NoError(t, cmd.Wait(), "s_client has verified the signature")
	require.Equal(t, []crypto.SignerOpts{crypto.SHA384}, key.opts)
}

// OpenSSL must not decrypt with the public part that it has.
func TestSigner_CannotDecrypt(t *testing.T) {
	ca := tlstest.NewCA(t, "signers")
	key := &spySigner{Signer: newRSAKey(t)}
	ctx := signerServer(t, ca, key)
	client := newClient(t, ca)
	require.NoError(t, client.SetVersions(0, tls.VersionTLS12))
	require.NoError(t, client.SetCiphers("AES128-GCM-SHA256")) // RSA key exchange
	cn, sn := tcpPipe(t)
	c, s := wrap(t, cn, sn, client, ctx)
	require.Error(t, bothHandshake(c, s))
	require.Empty(t, key.opts)
}

func TestSigner_OtherKey(t *testing.T) {
	ca := tlstest.NewCA(t, "signers")
	chain := signerChain(t, ca, newECKey(t, elliptic.P256()))
	before := libssl.LiveResources().Signers
	for name, key := range map[string]crypto.Signer{"type": newRSAKey(t), "curve": newECKey(t, elliptic.P384()), "key": newECKey(t, elliptic.P256())} {
		_, err := libssl.SignerCertificate(chain, key)
		require.ErrorContains(t, err, "public key is not the certificate's", name)
	}
	require.Equal(t, before, libssl.LiveResources().Signers)
}

var errKMS = errors.New("the KMS is away")

func TestSigner_Failures(t *testing.T) {
	ca := tlstest.NewCA(t, "signers")
	for name, c := range map[string]struct {
		before   func() error
		is       error
		text     string
		reported int
	}{
		"error": {func() error { return errKMS }, errKMS, "the KMS is away", 0},
		"panic": {func() error { panic("no KMS") }, nil, "the signer panicked", 1},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := signerServer(t, ca, &spySigner{Signer: newECKey(t, elliptic.P256()), before: c.before})
			var reported []*libssl.CallbackError
			ctx.OnCallbackError(func(e *libssl.CallbackError) { reported = append(reported, e) })
			for v, version := range versions {
				cn, sn := tcpPipe(t)
				server, err := libssl.Server(sn, ctx)
				require.NoError(t, err)
				client := tls.Client(cn, &tls.Config{RootCAs: ca.Pool(), ServerName: serverName, MaxVersion: version})
				failed := make(chan error, 1)
				go func() { failed <- server.Handshake() }()
				require.ErrorContains(t, client.Handshake(), "internal error", v)
				err = <-failed
				require.ErrorContains(t, err, c.text, v)
				if c.is != nil {
					require.ErrorIs(t, err, c.is, v)
				}
				var e *libssl.Error
				require.ErrorAs(t, err, &e, v)
				closeBoth(client, server)
			}
			require.Len(t, reported, c.reported*len(versions))
			for _, e := range reported {
				assert.Equal(t, "signer", e.Callback)
				assert.Equal(t, "no KMS", e.Value)
			}
		})
	}
}

func TestSigner_SignatureTooLong(t *testing.T) {
	ca := tlstest.NewCA(t, "signers")
	ctx := signerServer(t, ca, &spySigner{Signer: newECKey(t, elliptic.P256()), answer: make([]byte, 1000)})
	cn, sn := tcpPipe(t)
	client, server := wrap(t, cn, sn, newClient(t, ca), ctx)
	require.ErrorContains(t, bothHandshake(client, server), "the signer's signature has 1000 bytes")
}

// Signers that do not answer hold so many threads and no more; other Contexts, which a signer may need, go on.
func TestSigner_Slow(t *testing.T) {
	ca := tlstest.NewCA(t, "signers")
	release := make(chan struct{})
	ctx := signerServer(t, ca, &spySigner{Signer: newECKey(t, elliptic.P256()), before: func() error { <-release; return nil }})
	most := 4*runtime.GOMAXPROCS(0) + 24
	failed := make(chan error)
	for range most + 10 {
		cn, sn := tcpPipe(t)
		go func() {
			server, err := libssl.Server(sn, ctx)
			if err == nil {
				client := tls.Client(cn, &tls.Config{RootCAs: ca.Pool(), ServerName: serverName})
				err = exchange(client, server)
				closeBoth(client, server)
			}
			failed <- err
		}()
	}
	wait(t, "the signers", func() bool { return libssl.LiveResources().Signing == most })
	handshake(t, newClient(t, ca), newServer(t, ca), nil)
	require.Equal(t, most, libssl.LiveResources().Signing)
	close(release)
	for range most + 10 {
		require.NoError(t, receive(t, "a handshake", failed))
	}
}

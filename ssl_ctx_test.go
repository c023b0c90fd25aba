package libssl_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
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

func TestNewContext_RefusesAnUnknownRole(t *testing.T) {
	_, err := libssl.NewContext(libssl.Role(7))
	require.Error(t, err)
}

// encryptedKey returns a key under a password that the test does not give.
func encryptedKey(t *testing.T) []byte {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	//lint:ignore SA1019 the form that old tools still write
	block, err := x509.EncryptPEMBlock(rand.Reader, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k), []byte("password"), x509.PEMCipherAES128) //nolint:staticcheck
	require.NoError(t, err)
	return pem.EncodeToMemory(block)
}

func TestUseCertificatePEM_FailureLeavesTheOldPair(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	client, server := newClient(t, ca), newServer(t, ca)
	cert, key := ca.Leaf(t, serverName)
	_, otherKey := ca.Leaf(t, serverName)
	garbage := []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	for name, bad := range map[string][2][]byte{
		"nothing":               {nil, nil},
		"no key":                {cert, nil},
		"no certificate":        {nil, key},
		"not PEM":               {[]byte("certificate"), key},
		"key not PEM":           {cert, []byte("key")},
		"keys don't match":      {cert, otherKey},
		"garbage":               {garbage, key},
		"garbage in the chain":  {append(append([]byte{}, cert...), garbage...), key},
		"swapped":               {key, cert},
		"encrypted":             {cert, encryptedKey(t)},
		"encrypted, no cert":    {nil, encryptedKey(t)},
		"truncated certificate": {cert[:len(cert)/2], key},
		"truncated key":         {cert, key[:len(key)/2]},
	} {
		err := server.UseCertificatePEM(bad[0], bad[1])
		var e *libssl.Error
		require.ErrorAs(t, err, &e, name)
		require.NotEmpty(t, e.Queue, name)
		c, s := handshake(t, client, server, nil)
		require.NotEmpty(t, c.ConnectionState().PeerCertificates, name)
		closeBoth(c, s)
	}
	require.NoError(t, server.UseCertificatePEM(append(cert, ca.PEM...), key), "with a chain")
	c, s := handshake(t, client, server, nil)
	require.Len(t, c.ConnectionState().PeerCertificates, 2)
	closeBoth(c, s)
}

func TestNewServerContext_NamesTheFile(t *testing.T) {
	before := libssl.LiveResources().Contexts
	ca := tlstest.NewCA(t, "ca")
	certFile, keyFile := ca.LeafFiles(t, serverName)
	missing := filepath.Join(t.TempDir(), "missing.pem")
	_, err := libssl.NewServerContext(missing, keyFile)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, missing)
	_, err = libssl.NewServerContext(certFile, missing)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, missing)
	_, err = libssl.NewServerContext(certFile, t.TempDir())
	require.Error(t, err, "a folder")
	bad := filepath.Join(t.TempDir(), "bad.pem")
	require.NoError(t, os.WriteFile(bad, []byte("bad"), 0o600))
	_, err = libssl.NewServerContext(bad, keyFile)
	require.ErrorContains(t, err, bad)
	var e *libssl.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, before, libssl.LiveResources().Contexts)
	ctx, err := libssl.NewServerContext(certFile, keyFile)
	require.NoError(t, err)
	require.NoError(t, ctx.Close())
}

func TestContext_RefusesBadSettings(t *testing.T) {
	_, server := modes[0].pair(t, false)
	var e *libssl.Error
	for _, list := range []string{"", "nonsense", "AES256-SHA!", ":::"} {
		require.Error(t, server.SetCipherSuites("TLS_"+list), list)
		require.ErrorAs(t, server.SetGroups("none"+list), &e, list)
	}
	for _, list := range []string{"", "nonsense"} {
		require.ErrorAs(t, server.SetCiphers(list), &e, list)
	}
	for _, set := range []func(string) error{server.SetCiphers, server.SetCipherSuites, server.SetGroups} {
		require.Error(t, set("ECDHE-ECDSA-AES128-GCM-SHA256\x00:nonsense"), "C would see half of it")
	}
	require.NoError(t, server.SetCiphers("ECDHE-ECDSA-AES128-GCM-SHA256"))
	require.NoError(t, server.SetCipherSuites("TLS_AES_128_GCM_SHA256"))
	require.NoError(t, server.SetGroups("P-256:X25519"))

	for _, v := range [][2]uint16{{tls.VersionTLS10 - 1, 0}, {0x0305, 0}, {0, 1}} {
		require.ErrorIs(t, server.SetVersions(v[0], v[1]), libssl.ErrUnsupported, v)
	}
	require.Error(t, server.SetVersions(tls.VersionTLS13, tls.VersionTLS12))
	require.NoError(t, server.SetVersions(0, 0))
	require.NoError(t, server.SetVersions(tls.VersionTLS13, 0))
	require.NoError(t, server.SetVersions(0, tls.VersionTLS12))

	require.Error(t, server.SetSessionIDContext(make([]byte, 33)))
	require.NoError(t, server.SetSessionIDContext(make([]byte, 32)))
	require.NoError(t, server.SetSessionIDContext(nil))
	require.Error(t, server.SetVerify(8))
	require.Error(t, server.SetNumTickets(-1))
	require.Error(t, server.SetALPN(""))
	require.Error(t, server.SetALPN(string(make([]byte, 256))))
	require.ErrorAs(t, server.AddClientCAsPEM(nil), &e)
	require.ErrorAs(t, server.AddRootCAsPEM([]byte("roots")), &e)
}

func TestContext_SettingsSayWhatWasBefore(t *testing.T) {
	_, server := modes[0].pair(t, true)
	require.Equal(t, libssl.CacheServer, server.SetSessionCacheMode(libssl.CacheOff))
	require.Equal(t, libssl.CacheOff, server.SetSessionCacheMode(libssl.CacheServer|libssl.CacheNoInternal))
	require.Equal(t, libssl.CacheServer|libssl.CacheNoInternalLookup|libssl.CacheNoInternalStore, server.SetSessionCacheMode(libssl.CacheServer))
	require.Equal(t, 1024*20, server.SetSessionCacheSize(5))
	require.Equal(t, 5, server.SetSessionCacheSize(0))
	server.SetSessionTimeout(90 * time.Second)
	require.Equal(t, 90*time.Second, server.SetSessionTimeout(time.Hour))
	require.NotZero(t, server.SetOptions(libssl.OpCipherServerPreference)&libssl.OpCipherServerPreference)
	require.NotZero(t, server.SetOptions(0)&libssl.OpCipherServerPreference)
	require.Zero(t, server.ClearOptions(libssl.OpCipherServerPreference)&libssl.OpCipherServerPreference)
	require.NotZero(t, server.SetOptions(0)&libssl.OpNoTicket, "the others stay")
	const cookieExchange = 1 << 13 // of DTLS
	require.Zero(t, server.SetOptions(cookieExchange)&cookieExchange, "it cannot work on a Conn")
}

func TestContext_AddAndRemoveSession(t *testing.T) {
	for _, m := range askingModes() {
		t.Run(m.name, func(t *testing.T) {
			client, server := m.pair(t, true)
			var removed int
			server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { removed++ })
			var der []byte
			server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool { der = derOf(t, s); return false })
			sess, _ := offer(t, client, server, nil)
			require.NoError(t, server.FlushSessions(time.Time{}))
			require.Equal(t, m.news, removed)

			held := parse(t, der)
			ok, err := server.AddSession(held)
			require.NoError(t, err)
			require.True(t, ok)
			ok, err = server.AddSession(held)
			require.NoError(t, err)
			require.False(t, ok, "it is there")
			require.Equal(t, 1, server.Stats().Number)
			_, reused := offer(t, client, server, sess)
			require.True(t, reused)

			removed = 0
			ok, err = server.RemoveSession(held)
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, 1, removed)
			require.False(t, held.Resumable())
			ok, err = server.RemoveSession(held)
			require.NoError(t, err)
			require.False(t, ok, "gone, and told of again (F3.1)")
			require.Equal(t, 2, removed)
			_, reused = offer(t, client, server, sess)
			require.False(t, reused)
		})
	}
}

func TestFlushSessions_RemovesWhatHasExpiredByThen(t *testing.T) {
	_, server := modes[0].pair(t, true)
	s := makeSession(t, modes[0])
	ok, err := server.AddSession(s)
	require.NoError(t, err)
	require.True(t, ok)
	for _, at := range []time.Time{
		time.Unix(0, 0), time.Unix(-5, 0), time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Now(), s.Expires(),
	} {
		require.NoError(t, server.FlushSessions(at))
		require.Equal(t, 1, server.Stats().Number, at)
	}
	require.NoError(t, server.FlushSessions(s.Expires().Add(2*time.Second)))
	require.Zero(t, server.Stats().Number)
}

func TestContext_Stats(t *testing.T) {
	client, server := modes[0].pair(t, true)
	sess, _ := offer(t, client, server, nil)
	_, reused := offer(t, client, server, sess)
	require.True(t, reused)
	s := server.Stats()
	require.Equal(t, libssl.Stats{Number: 1, Accept: 2, AcceptGood: 2, Hits: 1}, s)
	require.Equal(t, 2, client.Stats().Connect)
	require.Equal(t, 2, client.Stats().ConnectGood)
	require.NoError(t, server.FlushSessions(time.Time{}))
	server.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) { return nil, libssl.Copy })
	offer(t, client, server, sess)
	require.Equal(t, 1, server.Stats().Misses)
}

func TestUseCertificateFiles_RefusesAPlantedKey(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	certFile, keyFile := ca.LeafFiles(t, serverName)
	_, server := modes[0].pair(t, true)
	require.NoError(t, server.UseCertificateFiles(certFile, keyFile))
	dir := filepath.Dir(keyFile)
	require.NoError(t, os.Chmod(keyFile, 0o640))
	require.NoError(t, server.UseCertificateFiles(certFile, keyFile), "a group may read it")
	require.NoError(t, os.Chmod(dir, 0o777|fs.ModeSticky))
	require.ErrorContains(t, server.UseCertificateFiles(certFile, keyFile), dir+": mode 0777 lets other users change it")
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Chmod(keyFile, 0o660))
	require.ErrorContains(t, server.UseCertificateFiles(certFile, keyFile), "lets other users change it")
}

// Each method of a closed Context says so.
func TestContext_ClosedAnswersErrClosed(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	cert, key := ca.Leaf(t, serverName)
	certFile, keyFile := ca.LeafFiles(t, serverName)
	_, server := modes[0].pair(t, true)
	s := makeSession(t, modes[0])
	server.OnCallbackError(nil)
	require.NoError(t, server.Close())
	require.NoError(t, server.Close())
	calls := map[string]func() error{
		"UseCertificateFiles": func() error { return server.UseCertificateFiles(certFile, keyFile) },
		"UseCertificatePEM":   func() error { return server.UseCertificatePEM(cert, key) },
		"AddClientCAsPEM":     func() error { return server.AddClientCAsPEM(ca.PEM) },
		"AddRootCAsPEM":       func() error { return server.AddRootCAsPEM(ca.PEM) },
		"SetVerify":           func() error { return server.SetVerify(libssl.VerifyPeer) },
		"SetVersions":         func() error { return server.SetVersions(0, 0) },
		"SetCiphers":          func() error { return server.SetCiphers("ALL") },
		"SetCipherSuites":     func() error { return server.SetCipherSuites("TLS_AES_128_GCM_SHA256") },
		"SetGroups":           func() error { return server.SetGroups("P-256") },
		"SetALPN":             func() error { return server.SetALPN("h2") },
		"SetNumTickets":       func() error { return server.SetNumTickets(1) },
		"SetSessionIDContext": func() error { return server.SetSessionIDContext([]byte("x")) },
		"AddSession":          func() error { _, err := server.AddSession(s); return err },
		"RemoveSession":       func() error { _, err := server.RemoveSession(s); return err },
		"FlushSessions":       func() error { return server.FlushSessions(time.Time{}) },
		"UseStore": func() error {
			_, err := server.UseStore(memstore.New(memstore.Options{}), nil)
			return err
		},
		"Server": func() error { _, err := libssl.Server(&net.TCPConn{}, server); return err },
	}
	for name, call := range calls {
		err := call()
		require.ErrorIs(t, err, libssl.ErrClosed, name)
		require.ErrorIs(t, err, net.ErrClosed, name)
	}
	require.Zero(t, server.SetOptions(libssl.OpNoTicket))
	require.Zero(t, server.SetSessionCacheMode(libssl.CacheOff))
	require.Zero(t, server.SetSessionCacheSize(1))
	require.Zero(t, server.SetSessionTimeout(1))
	require.Equal(t, libssl.Stats{}, server.Stats())
	require.Nil(t, server.Pointer())
	require.Nil(t, server.SessNewCallback())
	require.NotPanics(t, func() {
		server.SetKeyLogWriter(nil)
		server.SetServerNameCallback(nil)
		server.SetSessNewCallback(nil)
	})
	var none *libssl.Context
	require.NoError(t, none.Close())
}

func TestContext_CloseReportsItsSessionsAndConnectionsKeepIt(t *testing.T) {
	client, server := modes[0].pair(t, true)
	var removed []error
	server.SetSessRemoveCallback(func(ctx *libssl.Context, s *libssl.Session) {
		removed = append(removed, ctx.FlushSessions(time.Time{}))
	})
	offer(t, client, server, nil)
	c, s := handshake(t, client, server, nil)
	require.NoError(t, server.Close())
	require.Empty(t, removed)
	require.NoError(t, exchange(c, s), "lives on")
	closeBoth(c, s)
	require.Len(t, removed, 2, "with the last connection")
	for _, err := range removed {
		require.ErrorIs(t, err, net.ErrClosed)
	}
}

func TestContext_CloseAndUseTogether(t *testing.T) {
	for range 50 {
		_, server := modes[0].pair(t, true)
		s := makeSessionOnce(t)
		server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) {})
		ok := func(err error) {
			if err != nil {
				assert.True(t, errors.Is(err, libssl.ErrClosed), "%v", err)
			}
		}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { ok(server.Close()) })
			wg.Go(func() { ok(server.FlushSessions(time.Time{})) })
			wg.Go(func() { _, err := server.AddSession(s); ok(err) })
			wg.Go(func() { server.Stats(); server.SetSessionCacheSize(3); server.SessRemoveCallback() })
		}
		wg.Wait()
	}
}

var onceDER = struct {
	sync.Once
	der []byte
}{}

func makeSessionOnce(t *testing.T) *libssl.Session {
	t.Helper()
	onceDER.Do(func() { onceDER.der = derOf(t, makeSession(t, modes[0])) })
	return parse(t, onceDER.der)
}

// No handler runs for a Context that is collected.
func TestContext_ForgottenIsCollectedAndCounted(t *testing.T) {
	s := makeSession(t, modes[0])
	before := libssl.LiveResources()
	func() {
		ctx, err := libssl.NewContext(libssl.ServerRole)
		require.NoError(t, err)
		ctx.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) {
			ctx.Stats() // a handler that knows its context is no reason to keep either
			t.Error("remove called for a forgotten Context")
		})
		ok, err := ctx.AddSession(s)
		require.NoError(t, err)
		require.True(t, ok)
	}()
	forgotten.ForgottenContexts++
	collect(t, func() bool {
		live := libssl.LiveResources()
		return live.ForgottenContexts == before.ForgottenContexts+1 && live.Contexts == before.Contexts
	})
}

func TestContext_TenThousandLeaveNothing(t *testing.T) {
	before := libssl.LiveResources()
	n := 10_000
	if testing.Short() {
		n = 100
	}
	for range n {
		ctx, err := libssl.NewContext(libssl.ServerRole)
		require.NoError(t, err)
		ctx.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { return false })
		ctx.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) {})
		require.NoError(t, ctx.Close())
	}
	require.Equal(t, before, libssl.LiveResources())
}

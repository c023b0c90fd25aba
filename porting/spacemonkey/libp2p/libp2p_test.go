// Package libp2p_test shows that a program on github.com/libp2p/go-openssl can use the handlers and stores of libssl with
// its Ctx, while Listener and Conn stay those of go-openssl.
package libp2p_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-openssl"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/porting/spacemonkey"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
)

type fixture struct {
	t                 *testing.T
	ca                *tlstest.CA
	certFile, keyFile string
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, ca: tlstest.NewCA(t, "ca")}
	f.certFile, f.keyFile = f.ca.LeafFiles(t, "127.0.0.1", "other.example")
	return f
}

// ctx returns a go-openssl Ctx and the Context attached to it.
func (f *fixture) ctx() (*openssl.Ctx, *libssl.Context) {
	f.t.Helper()
	theirs, err := openssl.NewCtxFromFiles(f.certFile, f.keyFile)
	require.NoError(f.t, err)
	return theirs, f.attach(theirs)
}

func (f *fixture) attach(theirs *openssl.Ctx) *libssl.Context {
	f.t.Helper()
	c, err := spacemonkey.Attach(theirs)
	require.NoError(f.t, err)
	f.t.Cleanup(func() { assert.NoError(f.t, c.Close()) })
	c.OnCallbackError(func(e *libssl.CallbackError) { f.t.Error(e) })
	return c
}

// serve answers each line with whether the connection resumed, as go-openssl reports it.
func (f *fixture) serve(ctx *openssl.Ctx) (addr string) {
	f.t.Helper()
	l, err := openssl.Listen("tcp", "127.0.0.1:0", ctx)
	require.NoError(f.t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					reply := "full\n"
					if c.(*openssl.Conn).SessionReused() {
						reply = "resumed\n"
					}
					if _, err := c.Write([]byte(reply)); err != nil {
						return
					}
				}
			})
		}
	})
	f.t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

// client returns a libssl client that speaks one TLS version and has a certificate.
func (f *fixture) client(version uint16) *libssl.Context {
	f.t.Helper()
	ctx, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(f.t, err)
	f.t.Cleanup(func() { ctx.Close() })
	require.NoError(f.t, ctx.AddRootCAsPEM(f.ca.PEM))
	require.NoError(f.t, ctx.UseCertificatePEM(f.ca.Leaf(f.t, "client")))
	require.NoError(f.t, ctx.SetVersions(version, version))
	return ctx
}

// visit makes a connection. It returns whether it resumed, on which both ends must agree, and the session for the next visit.
func (f *fixture) visit(client *libssl.Context, addr, name string, offer *libssl.Session) (resumed bool, session *libssl.Session) {
	f.t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(f.t, err)
	require.NoError(f.t, nc.SetDeadline(time.Now().Add(time.Minute)))
	conn, err := libssl.Client(nc, client, name)
	require.NoError(f.t, err)
	defer conn.Close()
	if offer != nil {
		require.NoError(f.t, conn.SetSession(offer))
	}
	_, err = conn.Write([]byte("\n"))
	require.NoError(f.t, err)
	reply, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(f.t, err)
	require.Equal(f.t, conn.SessionReused(), reply == "resumed\n")
	session, err = conn.Session()
	require.NoError(f.t, err)
	f.t.Cleanup(session.Release)
	return conn.SessionReused(), session
}

var versions = map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13}

func TestAttach_TheirListenersShareAStore(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			st := memstore.New(memstore.Options{})
			theirA, a := f.ctx()
			cacheA, err := a.UseStore(st, nil)
			require.NoError(t, err)
			theirB, b := f.ctx()
			cacheB, err := b.UseStore(st, nil)
			require.NoError(t, err)

			addrA, addrB, client := f.serve(theirA), f.serve(theirB), f.client(version)
			resumed, session := f.visit(client, addrA, "127.0.0.1", nil)
			require.False(t, resumed)
			resumed, _ = f.visit(client, addrB, "127.0.0.1", session)
			require.True(t, resumed)
			require.EqualValues(t, 1, cacheB.Stats().Hits)
			require.NoError(t, cacheA.Close(context.Background()))
			require.NoError(t, cacheB.Close(context.Background()))
		})
	}
}

func TestAttach_HandlersAreCalledForTheirConns(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			theirs, c := f.ctx()
			c.SetOptions(libssl.OpNoTicket)
			c.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
			var mu sync.Mutex
			kept := map[libssl.SessionID]*libssl.Session{}
			var removed atomic.Int32
			look := func(ssl *libssl.SSL) {
				assert.Nil(t, ssl.Conn())
				assert.Same(t, c, ssl.Context())
			}
			c.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
				look(ssl)
				mu.Lock()
				defer mu.Unlock()
				kept[s.ID()] = s
				return true
			})
			c.SetSessGetCallback(func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				look(ssl)
				mu.Lock()
				defer mu.Unlock()
				return kept[id], libssl.Copy
			})
			c.SetSessRemoveCallback(func(ctx *libssl.Context, s *libssl.Session) { removed.Add(1) })
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				for _, s := range kept {
					s.Release()
				}
			}()

			addr, client := f.serve(theirs), f.client(version)
			_, session := f.visit(client, addr, "127.0.0.1", nil)
			resumed, _ := f.visit(client, addr, "127.0.0.1", session)
			require.True(t, resumed)
			require.NotEmpty(t, kept)
			require.Zero(t, removed.Load(), "Close of go-openssl sends close_notify")
			for _, s := range kept {
				found, err := c.RemoveSession(s)
				require.NoError(t, err)
				require.False(t, found, "it was not in the internal cache")
			}
			require.EqualValues(t, len(kept), removed.Load())
		})
	}
}

// Callbacks and ex_data that go-openssl sets on the SSL_CTX and its SSLs keep working beside those of libssl.
func TestAttach_TheirOwnCallbacksGoOn(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			caFile := filepath.Join(t.TempDir(), "ca.pem")
			require.NoError(t, os.WriteFile(caFile, f.ca.PEM, 0o600))
			theirs, err := openssl.NewCtxFromFiles(f.certFile, f.keyFile)
			require.NoError(t, err)
			other, err := openssl.NewCtxFromFiles(f.certFile, f.keyFile)
			require.NoError(t, err)
			var verified, switched atomic.Int32
			verify := func(ok bool, _ *openssl.CertificateStoreCtx) bool {
				verified.Add(1)
				return ok
			}
			for _, ctx := range []*openssl.Ctx{theirs, other} {
				require.NoError(t, ctx.LoadVerifyLocations(caFile, ""))
				ctx.SetVerify(openssl.VerifyPeer|openssl.VerifyFailIfNoPeerCert, verify)
			}
			theirs.SetTLSExtServernameCallback(func(ssl *openssl.SSL) openssl.SSLTLSExtErr {
				if ssl.GetServername() == "other.example" {
					switched.Add(1)
					ssl.SetSSLCtx(other)
				}
				return openssl.SSLTLSExtErrOK
			})
			c := f.attach(theirs)
			_, err = c.UseStore(memstore.New(memstore.Options{}), nil)
			require.ErrorContains(t, err, "verify callback", "which decides, and cannot be compared")
			require.NoError(t, c.SetSessionIDContext([]byte("libp2p")))
			cache, err := c.UseStore(memstore.New(memstore.Options{}), nil)
			require.NoError(t, err)

			addr, client := f.serve(theirs), f.client(version)
			_, session := f.visit(client, addr, "other.example", nil)
			require.Positive(t, verified.Load())
			before := verified.Load()
			resumed, _ := f.visit(client, addr, "other.example", session)
			require.True(t, resumed)
			require.Greater(t, verified.Load(), before, "a client that resumes is verified again")
			require.EqualValues(t, 2, switched.Load())
			require.EqualValues(t, 1, cache.Stats().Hits)
			require.NoError(t, cache.Close(context.Background()))
		})
	}
}

func TestAttach_TheirServerOutlivesOurs(t *testing.T) {
	f := newFixture(t)
	theirs, err := openssl.NewCtxFromFiles(f.certFile, f.keyFile)
	require.NoError(t, err)
	c, err := spacemonkey.Attach(theirs)
	require.NoError(t, err)
	_, err = spacemonkey.Attach(theirs)
	require.Error(t, err, "it has a Context")
	cache, err := c.UseStore(memstore.New(memstore.Options{}), nil)
	require.NoError(t, err)
	addr, client := f.serve(theirs), f.client(tls.VersionTLS12)
	_, session := f.visit(client, addr, "127.0.0.1", nil)

	require.NoError(t, cache.Close(context.Background()))
	require.NoError(t, c.Close())
	resumed, _ := f.visit(client, addr, "127.0.0.1", session)
	require.False(t, resumed, "the server goes on without the store")
	again, err := spacemonkey.Attach(theirs)
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

// A Ctx that go-openssl uses for clients reports its sessions to a handler.
func TestAttach_ClientsToo(t *testing.T) {
	f := newFixture(t)
	serverCtx, server := f.ctx()
	server.SetOptions(libssl.OpNoTicket)
	addr := f.serve(serverCtx)
	theirs, err := openssl.NewCtx()
	require.NoError(t, err)
	require.True(t, theirs.SetMaxProtoVersion(openssl.TLS1_2_VERSION))
	c := f.attach(theirs)
	c.SetSessionCacheMode(libssl.CacheClient | libssl.CacheNoInternal)
	var seen []byte
	c.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
		var err error
		seen, err = s.MarshalBinary()
		assert.NoError(t, err)
		return false
	})
	conn, err := openssl.Dial("tcp", addr, theirs, openssl.InsecureSkipHostVerification)
	require.NoError(t, err)
	der, err := conn.GetSession()
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.True(t, bytes.Equal(der, seen))
}

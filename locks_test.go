package libssl

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lockedServer is a TLS 1.2 server with the internal cache, and a client for it.
func lockedServer(t *testing.T) (client, server *Context) {
	t.Helper()
	ca := tlstest.NewCA(t, "ca")
	cert, key := ca.Leaf(t, "server.test")
	server, err := NewContext(ServerRole)
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	require.NoError(t, server.UseCertificatePEM(cert, key))
	require.NoError(t, server.SetVersions(tls.VersionTLS12, tls.VersionTLS12))
	require.NoError(t, server.SetSessionIDContext([]byte("locks")))
	server.SetOptions(OpNoTicket)
	client, err = NewContext(ClientRole)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	require.NoError(t, client.SetVerify(VerifyNone))
	return client, server
}

// shakeHands returns both ends of a connection, and the result of the server handshake, which begins after the functions in
// before have run.
func shakeHands(t *testing.T, client, server *Context, before ...func()) (c, s *Conn, result chan error) {
	t.Helper()
	a, b := net.Pipe()
	c, err := Client(a, client, "")
	require.NoError(t, err)
	s, err = Server(b, server)
	require.NoError(t, err)
	for _, f := range before {
		f()
	}
	result = make(chan error, 1)
	go func() { result <- s.Handshake() }()
	return c, s, result
}

// serverSession is the session of a connection that has ended.
func serverSession(t *testing.T, client, server *Context) *Session {
	t.Helper()
	c, s, result := shakeHands(t, client, server)
	require.NoError(t, c.Handshake())
	require.NoError(t, <-result)
	sess, err := s.Session()
	require.NoError(t, err)
	go c.Read(make([]byte, 1))
	s.Close()
	c.Close()
	return sess
}

// inTime ends the process where f does not end: the locks that it waits for would also block every cleanup.
func inTime(f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		panic("deadlock")
	}
}

// The last use of a closed Context frees the SSL_CTX and calls remove handlers. No lock of the Context may be held then.
func TestContext_FreesWithoutALock(t *testing.T) {
	client, server := lockedServer(t)
	serverSession(t, client, server).Release()
	var calls int
	server.SetSessRemoveCallback(func(ctx *Context, _ *Session) {
		calls++
		ctx.SetSessNewCallback(nil)
		assert.ErrorIs(t, ctx.SetSessionIDContext([]byte("other")), ErrReentrant)
		assert.ErrorIs(t, ctx.SetMaxEarlyData(0), ErrReentrant)
	})
	inTime(func() { server.trySetHandler(0, false, func() { server.Close() }) })
	require.Equal(t, 1, calls)
}

// The setters of a Session take the lock of the SSL_CTX whose cache has it, under which a remove handler may use the Session.
func TestSession_SettersHoldNoLockOfItsOwn(t *testing.T) {
	client, server := lockedServer(t)
	server.SetSessionCacheSize(3)
	serverSession(t, client, server).Release()
	sess := serverSession(t, client, server)
	defer sess.Release()
	require.NoError(t, sess.SetTimeout(9*time.Hour)) // neither the oldest nor the first to expire: another is evicted
	setting, set := make(chan struct{}), make(chan error, 1)
	told := false
	server.SetSessRemoveCallback(func(_ *Context, evicted *Session) {
		told = true
		assert.NotEqual(t, sess.ID(), evicted.ID())
		go func() {
			close(setting)
			set <- sess.SetTimeout(3 * time.Hour)
		}()
		<-setting
		time.Sleep(50 * time.Millisecond) // if that is too short the fault goes unnoticed
		sess.ID()
	})
	inTime(func() {
		for range 2 { // SEMANTICS F3.10: before 3.0 the cache has room for one more
			if !told {
				serverSession(t, client, server).Release()
			}
		}
	})
	require.True(t, told)
	server.SetSessRemoveCallback(nil)
	require.NoError(t, <-set)
}

// Abort frees the SSL while its goroutine holds the locks of Handshake and Read, and that calls the remove handler.
func TestConn_IsClosedInTheRemoveHandlerOfItsAbort(t *testing.T) {
	client, server := lockedServer(t)
	var conn *Conn
	server.SetSessNewCallback(func(ssl *SSL, _ *Session) bool {
		conn = ssl.Conn()
		assert.NoError(t, conn.Abort())
		return false
	})
	results := make(chan error, 5)
	server.SetSessRemoveCallback(func(*Context, *Session) {
		_, err := conn.Read(make([]byte, 1))
		results <- err
		_, err = conn.Write([]byte("x"))
		results <- err
		results <- conn.Handshake()
		results <- conn.CloseWrite()
		results <- conn.Close()
	})
	c, _, result := shakeHands(t, client, server)
	go c.Handshake()
	inTime(func() { <-result })
	c.Close()
	require.Len(t, results, cap(results))
	for range cap(results) {
		require.Error(t, <-results)
	}
}

// A connection outlives its Context. If the cache is closed after the Context, the connection's handshake must no longer
// store its session.
func TestSessionCache_ClosesAfterItsContext(t *testing.T) {
	client, server := lockedServer(t)
	st := memstore.New(memstore.Options{})
	sc, err := server.UseStore(st, nil)
	require.NoError(t, err)
	c, s, result := shakeHands(t, client, server, func() {
		require.NoError(t, server.Close())
		require.NoError(t, sc.Close(t.Context()))
	})
	require.NoError(t, c.Handshake())
	require.NoError(t, <-result)
	require.False(t, s.SessionReused())
	go c.Read(make([]byte, 1))
	s.Close()
	c.Close()
	require.Zero(t, sc.Stats().Stored)
	require.Zero(t, st.Len())
}

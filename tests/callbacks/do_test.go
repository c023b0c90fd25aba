package callbacks_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// counted counts what is written.
type counted struct {
	*net.TCPConn
	bytes atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

// trickling reads little at once.
type trickling struct{ net.Conn }

func (c trickling) Read(p []byte) (int, error) { return c.Conn.Read(p[:min(len(p), 100)]) }

// ends are the ends of a connection over TCP. Their handshake has not run.
type ends struct {
	client, server *libssl.Conn
	sent           *counted // what the server writes
}

func newEnds(t testing.TB, version uint16) *ends {
	t.Helper()
	return newEndsOver(t, version, func(nc net.Conn) net.Conn { return nc })
}

// newEndsOver is newEnds with the client over what under makes of its socket.
func newEndsOver(t testing.TB, version uint16, under func(net.Conn) net.Conn) *ends {
	t.Helper()
	ca := tlstest.NewCA(t, "ca")
	serverCtx, err := libssl.NewServerContext(ca.LeafFiles(t, name))
	require.NoError(t, err)
	defer serverCtx.Close()
	require.NoError(t, serverCtx.AddClientCAsPEM(ca.PEM))
	require.NoError(t, serverCtx.SetVersions(version, version))
	clientCtx, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(t, err)
	defer clientCtx.Close()
	require.NoError(t, clientCtx.AddRootCAsPEM(ca.PEM))
	require.NoError(t, clientCtx.UseCertificatePEM(ca.Leaf(t, "client")))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	cn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	sn, err := l.Accept()
	require.NoError(t, err)
	b := &ends{sent: &counted{TCPConn: sn.(*net.TCPConn)}}
	b.client, err = libssl.Client(under(cn), clientCtx, name)
	require.NoError(t, err)
	b.server, err = libssl.Server(b.sent, serverCtx)
	require.NoError(t, err)
	t.Cleanup(func() {
		b.server.Close()
		b.client.Close()
	})
	return b
}

// exchange sends a byte each way.
func (b *ends) exchange(t testing.TB) {
	t.Helper()
	served := make(chan error, 1)
	go func() {
		p := make([]byte, 1)
		_, err := io.ReadFull(b.server, p)
		if err == nil {
			_, err = b.server.Write(p)
		}
		served <- err
	}()
	_, err := b.client.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(b.client, make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, <-served)
}

func eachTLS(t *testing.T, test func(t *testing.T, b *ends)) {
	t.Run("1.2", func(t *testing.T) { test(t, newEnds(t, tls.VersionTLS12)) })
	t.Run("1.3", func(t *testing.T) { test(t, newEnds(t, tls.VersionTLS13)) })
}

// A write that begins another handshake reads the peer's part of it, however many reads that takes.
func TestWrite_Renegotiates(t *testing.T) {
	b := newEndsOver(t, tls.VersionTLS12, func(nc net.Conn) net.Conn { return trickling{nc} })
	b.exchange(t)
	require.NoError(t, b.server.Do(cref.LetRenegotiate))
	require.NoError(t, b.client.Do(func(ssl unsafe.Pointer) {
		cref.LetRenegotiate(ssl)
		assert.True(t, cref.Renegotiate(ssl))
	}))
	before := b.sent.bytes.Load()
	b.exchange(t)
	require.Greater(t, b.sent.bytes.Load()-before, int64(500), "the server's part of a handshake")
	b.exchange(t)
}

func TestDo_WritesAndReads(t *testing.T) {
	eachTLS(t, func(t *testing.T, b *ends) {
		b.exchange(t)
		require.NoError(t, b.client.Do(func(ssl unsafe.Pointer) { assert.Equal(t, 5, cref.Write(ssl, []byte("hello"))) }))
		got := make([]byte, 5)
		_, err := io.ReadFull(b.server, got)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))

		// More than is sent at once, and behind it what Write sends.
		big := make([]byte, 300_000)
		wrote := make(chan error, 1)
		go func() {
			err := b.client.Do(func(ssl unsafe.Pointer) { assert.Equal(t, len(big), cref.Write(ssl, big)) })
			if err == nil {
				_, err = b.client.Write([]byte("behind"))
			}
			wrote <- err
		}()
		all := make([]byte, len(big)+6)
		_, err = io.ReadFull(b.server, all)
		require.NoError(t, err)
		require.NoError(t, <-wrote)
		require.Equal(t, "behind", string(all[len(big):]))

		// The first byte is read by Read, the rest by f.
		_, err = b.server.Write([]byte("abcd"))
		require.NoError(t, err)
		_, err = io.ReadFull(b.client, got[:1])
		require.NoError(t, err)
		require.NoError(t, b.client.Do(func(ssl unsafe.Pointer) {
			assert.Equal(t, 2, cref.Read(ssl, got[1:3]))
			assert.Equal(t, "abc", string(got[:3]))
		}))
		_, err = io.ReadFull(b.client, got[:1])
		require.NoError(t, err)
		require.Equal(t, "d", string(got[:1]), "and what f has left by Read")

		// f can read bytes that have just arrived. It does not wait for any.
		require.NoError(t, b.client.Do(func(ssl unsafe.Pointer) { assert.Equal(t, cref.WantRead, cref.Read(ssl, got)) }))
		_, err = b.server.Write([]byte("later"))
		require.NoError(t, err)
		n := cref.WantRead
		for n == cref.WantRead {
			require.NoError(t, b.client.Do(func(ssl unsafe.Pointer) { n = cref.Read(ssl, got) }))
		}
		require.Equal(t, "later", string(got[:n]))
		b.exchange(t)
	})
}

func TestDo_UpdatesKeys(t *testing.T) {
	b := newEnds(t, tls.VersionTLS13)
	b.exchange(t)
	before := b.sent.bytes.Load()
	require.NoError(t, b.server.Do(func(ssl unsafe.Pointer) { assert.True(t, cref.UpdateKey(ssl)) }))
	require.Greater(t, b.sent.bytes.Load(), before, "it is on the wire when Do returns")
	b.exchange(t)
	b.exchange(t)
}

// The server asks for a certificate while its Read waits.
func TestDo_AsksForACertificateLater(t *testing.T) {
	b := newEnds(t, tls.VersionTLS13)
	require.NoError(t, b.client.Do(func(ssl unsafe.Pointer) { cref.LetAsk(ssl) }))
	b.exchange(t)
	require.Empty(t, b.server.ConnectionState().PeerCertificates)
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(b.server, make([]byte, 1))
		read <- err
	}()
	require.NoError(t, b.server.Do(func(ssl unsafe.Pointer) { assert.True(t, cref.AskForCertificate(ssl)) }))
	go func() { // the client answers when it reads
		_, _ = io.ReadFull(b.client, make([]byte, 1))
		b.client.Write([]byte("x"))
	}()
	_, err := b.server.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, <-read)
	require.Equal(t, "client", b.server.ConnectionState().PeerCertificates[0].Subject.CommonName)
}

func TestDo_RefusesIOInsideAndItself(t *testing.T) {
	eachTLS(t, func(t *testing.T, b *ends) {
		b.exchange(t)
		c := b.client
		require.NoError(t, c.Do(func(unsafe.Pointer) {
			p := make([]byte, 1)
			_, err := c.Read(p)
			assert.ErrorIs(t, err, libssl.ErrReentrant)
			_, err = c.Write(p)
			assert.ErrorIs(t, err, libssl.ErrReentrant)
			assert.ErrorIs(t, c.CloseWrite(), libssl.ErrReentrant)
			assert.ErrorIs(t, c.Do(func(unsafe.Pointer) { assert.Fail(t, "f ran") }), libssl.ErrReentrant)
			assert.True(t, c.ConnectionState().HandshakeComplete, "what only looks works")
		}))
		b.exchange(t)
		require.NoError(t, c.Do(func(unsafe.Pointer) { assert.NoError(t, c.Close()) }))
		require.ErrorIs(t, c.Do(func(unsafe.Pointer) { assert.Fail(t, "f ran") }), libssl.ErrClosed)
		_, err := b.server.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err, "Close waited for f and then said goodbye")
	})
}

func TestDo_BeforeTheHandshake(t *testing.T) {
	eachTLS(t, func(t *testing.T, b *ends) {
		require.NoError(t, b.client.Do(func(unsafe.Pointer) {
			assert.ErrorIs(t, b.client.Handshake(), libssl.ErrReentrant)
			assert.ErrorIs(t, b.client.SetSession(nil), libssl.ErrReentrant)
		}))
		b.exchange(t)
	})
}

func TestDo_LeavesNoErrors(t *testing.T) {
	b := newEnds(t, tls.VersionTLS13)
	b.exchange(t)
	require.NoError(t, b.client.Do(func(unsafe.Pointer) { assert.False(t, cref.Errors(true)) }))
	for range 2 {
		require.NoError(t, b.client.Do(func(unsafe.Pointer) { assert.False(t, cref.Errors(true)) }))
	}
	b.exchange(t)
}

func TestDo_LetsAPanicOut(t *testing.T) {
	b := newEnds(t, tls.VersionTLS13)
	b.exchange(t)
	why := errors.New("why")
	require.PanicsWithError(t, "why", func() {
		b.client.Do(func(ssl unsafe.Pointer) {
			cref.Write(ssl, []byte("p"))
			panic(why)
		})
	})
	p := make([]byte, 1)
	_, err := io.ReadFull(b.server, p)
	require.NoError(t, err)
	require.Equal(t, "p", string(p), "what f had written is sent")
	b.exchange(t)

	done := make(chan struct{})
	go func() {
		defer close(done)
		b.client.Do(func(unsafe.Pointer) { runtime.Goexit() })
	}()
	<-done
	b.exchange(t)
}

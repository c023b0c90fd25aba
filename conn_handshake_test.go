package libssl_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

func TestHandshake_IsLazy(t *testing.T) {
	triggers := map[string]func(c *libssl.Conn) error{
		"Read":  func(c *libssl.Conn) error { _, err := c.Read(nil); return err },
		"Write": func(c *libssl.Conn) error { _, err := c.Write(nil); return err },
		"ConnectionState": func(c *libssl.Conn) error {
			if !c.ConnectionState().HandshakeComplete {
				return errors.New("not complete")
			}
			return nil
		},
		"Handshake":        func(c *libssl.Conn) error { return c.Handshake() },
		"HandshakeContext": func(c *libssl.Conn) error { return c.HandshakeContext(context.Background()) },
	}
	for name, trigger := range triggers {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, tls.VersionTLS13)
			cn, sn := tcpPipe(t)
			client := &tap{Conn: cn}
			c, s := f.ends(t, client, sn, f.server(t), nil)
			require.False(t, c.SessionReused())
			require.Error(t, c.CloseWrite())
			require.Zero(t, client.count())
			served := make(chan error, 1)
			go func() { served <- trigger(s) }()
			require.NoError(t, trigger(c))
			require.NoError(t, <-served)
			sent := client.count()
			require.NoError(t, c.Handshake())
			require.Equal(t, sent, client.count(), "a second handshake")
		})
	}
}

func TestHandshake_IsRunOnce(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	cn, sn := tcpPipe(t)
	client := &tap{Conn: cn}
	c, s := f.ends(t, client, sn, f.server(t), nil)
	var callers sync.WaitGroup
	errs := make(chan error, 16)
	for range cap(errs) / 2 {
		callers.Go(func() { errs <- c.Handshake() })
		callers.Go(func() { errs <- s.Handshake() })
	}
	callers.Wait()
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
	require.Equal(t, 1, client.hellos())
}

func TestHandshakeContext_CancelledClosesTheTransport(t *testing.T) {
	for name, pipe := range transports {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, tls.VersionTLS13)
			cn, sn := pipe(t)
			defer sn.Close()
			c, err := libssl.Client(cn, f.client, serverName)
			require.NoError(t, err)
			defer c.Close()

			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- c.HandshakeContext(ctx) }()
			hello := make([]byte, 5)
			_, err = io.ReadFull(sn, hello)
			require.NoError(t, err)
			cancel()
			require.ErrorIs(t, receive(t, "the handshake to end", ended), context.Canceled)
			_, err = io.Copy(io.Discard, sn)
			if err != nil { // a reset, where the peer had not read everything
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
			}
			require.ErrorIs(t, c.Handshake(), context.Canceled)
			_, err = c.Write([]byte("x"))
			require.ErrorIs(t, err, context.Canceled)
		})
	}
}

// lastRead calls f after the nth Read, before that returns.
type lastRead struct {
	net.Conn
	n int
	f func()
}

func (l *lastRead) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if l.n--; l.n == 0 {
		l.f()
	}
	return n, err
}

func (l *lastRead) Close() error { return nil } // a cancellation that comes too late for it

func TestHandshakeContext_CancelledAtItsEndIsFinal(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.server(t)
	require.NoError(t, server.SetNumTickets(0))
	cn, sn := tcpPipe(t)
	defer sn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, s := f.ends(t, cn, &lastRead{sn, 2, cancel}, server, nil) // the hello, and what ends the handshake
	answered := make(chan error, 1)
	go func() { answered <- c.Handshake() }()
	require.ErrorIs(t, s.HandshakeContext(ctx), context.Canceled)
	require.NoError(t, receive(t, "the client", answered), "it was complete")
	require.ErrorIs(t, s.Handshake(), context.Canceled)
	_, err := s.Read(make([]byte, 1))
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, s.ConnectionState())
}

func TestHandshakeContext_CancelledWhileParkedMakesNoSession(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		server, _ := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t)})
		sess := f.visit(t, server, nil).next
		st.OnGet = func(context.Context, store.ID) (store.Record, error) {
			cancel()
			return store.Record{}, store.ErrNotFound
		}
		cn, sn := tcpPipe(t)
		defer sn.Close()
		c, s := f.ends(t, cn, &lastRead{Conn: sn}, server, sess)
		answered := make(chan error, 1)
		go func() { answered <- c.Handshake() }()
		require.ErrorIs(t, s.HandshakeContext(ctx), context.Canceled)
		sn.Close()
		require.Error(t, receive(t, "the client", answered))
		require.Len(t, st.asked(&st.puts), f.tickets, "those of the first visit")
	})
}

func TestHandshakeContext_CancelledBeforehandDoesNothing(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	cn, sn := tcpPipe(t)
	client := &tap{Conn: cn}
	c, s := f.ends(t, client, sn, f.server(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, c.HandshakeContext(ctx), context.Canceled)
	require.Zero(t, client.count())
	require.NoError(t, exchange(c, s))
}

func TestHandshakeContext_DoneLaterChangesNothing(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, cn, sn, f.server(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.HandshakeContext(ctx) }()
	require.NoError(t, c.HandshakeContext(ctx))
	require.NoError(t, <-served)
	cancel()
	require.NoError(t, exchange(c, s))
}

func TestHandshake_TimeoutIsNotSticky(t *testing.T) {
	for name, pipe := range transports {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				cn, sn := pipe(t)
				defer cn.Close()
				c, s := f.ends(t, cn, sn, f.server(t), nil)
				for _, end := range []*libssl.Conn{c, s} {
					for _, set := range []func(time.Time) error{end.SetDeadline, end.SetWriteDeadline, end.SetReadDeadline} {
						require.NoError(t, set(longAgo))
						end.SetReadDeadline(longAgo) // what a server waits for in any case
						err := end.Handshake()
						require.ErrorIs(t, err, os.ErrDeadlineExceeded)
						require.True(t, err.(net.Error).Timeout())
					}
					require.Zero(t, end.ConnectionState())
				}
				c.SetDeadline(time.Time{})
				s.SetDeadline(time.Time{})
				require.NoError(t, exchange(c, s))
			})
		})
	}
}

func TestHandshake_PeerThatNeverSpeaks(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	for _, client := range []bool{true, false} {
		cn, sn := tcpPipe(t)
		defer cn.Close()
		defer sn.Close()
		c, s := f.ends(t, cn, sn, f.server(t), nil)
		end := s
		if client {
			end = c
		}
		end.SetDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := end.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
}

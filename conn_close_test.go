package libssl_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stuck is a transport whose Read or Write waits for its Close.
type stuck struct {
	net.Conn
	reading, writing chan struct{} // receives each time; nil: not stuck
	closed           chan struct{}
	once             sync.Once
}

func newStuck(nc net.Conn) *stuck { return &stuck{Conn: nc, closed: make(chan struct{})} }

func (s *stuck) Read(p []byte) (int, error) {
	if s.reading != nil {
		s.reading <- struct{}{}
		<-s.closed
		return 0, net.ErrClosed
	}
	return s.Conn.Read(p)
}

func (s *stuck) Write(p []byte) (int, error) {
	if s.writing != nil {
		s.writing <- struct{}{}
		<-s.closed
		return 0, net.ErrClosed
	}
	return s.Conn.Write(p)
}

func (s *stuck) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}

func TestClose_EndsABlockedWrite(t *testing.T) {
	for _, abort := range []bool{false, true} {
		eachVersion(t, func(t *testing.T, f *fleet) {
			cn, sn := tcpPipe(t)
			transport := newStuck(cn)
			c, _ := f.handshaken(t, transport, sn)
			transport.writing = make(chan struct{}) // a second Write would be stuck for good
			failed := make(chan error, 1)
			go func() { _, err := c.Write([]byte("x")); failed <- err }()
			<-transport.writing
			if abort {
				require.NoError(t, c.Abort())
			} else {
				require.NoError(t, c.Close())
			}
			err := receive(t, "Write to end", failed)
			require.ErrorIs(t, err, libssl.ErrClosed)
			require.ErrorIs(t, err, net.ErrClosed)
		})
	}
}

func TestClose_EndsABlockedRead(t *testing.T) {
	for _, abort := range []bool{false, true} {
		eachVersion(t, func(t *testing.T, f *fleet) {
			cn, sn := tcpPipe(t)
			transport := newStuck(cn)
			c, s := f.handshaken(t, transport, sn)
			transport.reading = make(chan struct{})
			failed := make(chan error, 1)
			go func() { _, err := c.Read(make([]byte, 1)); failed <- err }()
			<-transport.reading
			if abort {
				require.NoError(t, c.Abort())
			} else {
				require.NoError(t, c.Close())
			}
			require.ErrorIs(t, receive(t, "Read to end", failed), libssl.ErrClosed)
			_, err := s.Read(make([]byte, 1))
			require.Error(t, err)
			require.Equal(t, !abort, err == io.EOF)
		})
	}
}

func TestClose_EndsAHandshake(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	cn, sn := tcpPipe(t)
	defer sn.Close()
	transport := newStuck(cn)
	transport.reading = make(chan struct{})
	c, err := libssl.Client(transport, f.client, serverName)
	require.NoError(t, err)
	failed := make(chan error, 1)
	go func() { failed <- c.Handshake() }()
	<-transport.reading
	require.NoError(t, c.Close())
	require.ErrorIs(t, receive(t, "the handshake to end", failed), libssl.ErrClosed)
}

func TestClose_Twice(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	for _, complete := range []bool{true, false} {
		cn, sn := tcpPipe(t)
		c, s := f.ends(t, cn, sn, f.server(t), nil)
		if complete {
			require.NoError(t, exchange(c, s))
		}
		s.Close()
		require.NoError(t, c.Close())
		_, readErr := c.Read(make([]byte, 1))
		_, writeErr := c.Write([]byte("x"))
		_, sessErr := c.Session()
		for _, err := range []error{c.Close(), c.Abort(), readErr, writeErr, sessErr} {
			require.ErrorIs(t, err, net.ErrClosed)
		}
		require.Error(t, c.CloseWrite())
		require.Zero(t, c.ConnectionState())
		require.False(t, c.SessionReused())
		require.Zero(t, c.ResumedFrom())
	}
}

// fillFrom makes b the bytes of an endless stream from the place at on.
func fillFrom(b []byte, at int) {
	for i := range b {
		b[i] = byte((at + i) % 251)
	}
}

// writeOn writes the endless stream until it fails.
func writeOn(c net.Conn) error {
	for b, at := make([]byte, 30_000), 0; ; at += len(b) {
		fillFrom(b, at)
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
}

// readOn reads until it fails, and checks that the endless stream comes. arrived
// hears of it.
func readOn(t *testing.T, c net.Conn, arrived chan<- struct{}) error {
	want, right := make([]byte, 10_000), true
	for b, at := make([]byte, len(want)), 0; ; {
		n, err := c.Read(b)
		fillFrom(want[:n], at)
		right = right && assert.True(t, bytes.Equal(want[:n], b[:n]), "%d bytes after %d", n, at)
		at += n
		if err != nil {
			return err
		}
		select {
		case arrived <- struct{}{}:
		default:
		}
	}
}

func TestClose_DuringReadsAndWrites(t *testing.T) {
	for name, pipe := range transports {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				server := f.server(t)
				for round := range 8 {
					cn, sn := pipe(t)
					c, s := f.ends(t, cn, sn, server, nil)
					ends := [2]*libssl.Conn{c, s} // the first is closed, the other hears of it
					if round%2 == 1 {
						ends = [2]*libssl.Conn{s, c}
					}
					var busy sync.WaitGroup
					var reads, writes [2]error
					arrived := [2]chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}
					for i, end := range ends {
						busy.Go(func() { reads[i] = readOn(t, end, arrived[i]) })
						busy.Go(func() { writes[i] = writeOn(end) })
					}
					receive(t, "data", arrived[0])
					receive(t, "data", arrived[1])
					abort := round%4 >= 2
					if abort {
						ends[0].Abort()
					} else {
						ends[0].Close()
					}
					busy.Wait()
					ends[1].Close()
					for _, err := range []error{reads[0], writes[0]} {
						if name != "pipe" || !errors.Is(err, io.ErrClosedPipe) { // a pipe's own error
							require.ErrorIs(t, err, libssl.ErrClosed)
						}
					}
					require.Error(t, writes[1])
					if abort {
						require.NotEqual(t, io.EOF, reads[1], "cut off, not ended")
					}
					for _, end := range ends {
						_, err := end.Write([]byte{1})
						require.Error(t, err)
						_, err = end.Read(make([]byte, 1))
						require.Error(t, err)
					}
				}
			})
		})
	}
}

func TestCloseWrite_LeavesTheOtherDirectionOpen(t *testing.T) {
	for name, pipe := range map[string]func(testing.TB) (net.Conn, net.Conn){"tcp": tcpPipe, "unix": unixPipe} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				for _, clientFirst := range []bool{true, false} {
					cn, sn := pipe(t)
					first, second := f.handshaken(t, cn, sn)
					if !clientFirst {
						first, second = second, first
					}
					request, answer := random(100_000), random(200_000)
					half := func(c *libssl.Conn, data []byte) {
						_, err := c.Write(data)
						require.NoError(t, err)
						require.NoError(t, c.CloseWrite())
						require.NoError(t, c.CloseWrite(), "twice is once")
						_, err = c.Write([]byte("more"))
						require.Error(t, err)
						require.NotErrorIs(t, err, net.ErrClosed)
					}
					got := make(chan []byte, 1)
					read := func(c *libssl.Conn) {
						b, err := io.ReadAll(c)
						if err != nil {
							b = []byte(err.Error())
						}
						got <- b
					}
					go read(second)
					half(first, request)
					require.Equal(t, request, <-got)
					go read(first)
					half(second, answer)
					require.Equal(t, answer, <-got)
					closeBoth(first, second)
					require.ErrorIs(t, first.CloseWrite(), libssl.ErrClosed)
				}
			})
		})
	}
}

func TestRead_EndWithoutCloseNotifyIsUnexpected(t *testing.T) {
	for name, pipe := range transports {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				cn, sn := pipe(t)
				c, s := f.ends(t, cn, sn, f.server(t), nil)
				require.NoError(t, exchange(c, s))
				sn.Close()
				for range 2 {
					_, err := c.Read(make([]byte, 1))
					require.Equal(t, io.ErrUnexpectedEOF, err)
				}
			})
		})
	}
}

func TestRead_EndWithoutCloseNotifyMayBeIgnored(t *testing.T) {
	want := io.EOF
	if libssl.OpIgnoreUnexpectedEOF == 0 {
		want = io.ErrUnexpectedEOF // this OpenSSL has no such option
	}
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		f.client.SetOptions(libssl.OpIgnoreUnexpectedEOF)
		for _, optioned := range []string{"client", "server"} {
			if optioned == "server" {
				server.SetOptions(libssl.OpIgnoreUnexpectedEOF)
			}
			cn, sn := tcpPipe(t)
			c, s := f.ends(t, cn, sn, server, nil)
			require.NoError(t, exchange(c, s))
			reader, end := c, sn
			if optioned == "server" {
				reader, end = s, cn
			}
			require.NoError(t, end.(*net.TCPConn).CloseWrite())
			for range 2 {
				_, err := reader.Read(make([]byte, 1))
				require.Equal(t, want, err, optioned)
			}
		}
		cn, sn := tcpPipe(t)
		c, _ := f.ends(t, cn, sn, server, nil)
		require.NoError(t, sn.(*net.TCPConn).CloseWrite())
		require.ErrorIs(t, c.Handshake(), io.ErrUnexpectedEOF, "but not in a handshake")
	})
}

// A transport that fails says so as a socket of package net does.
func TestRead_SaysWhatTheSocketSaid(t *testing.T) {
	f := newFleet(t, tls.VersionTLS12)
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, cn, sn, f.server(t), nil)
	require.NoError(t, exchange(c, s))
	require.NoError(t, sn.(*net.TCPConn).SetLinger(0))
	sn.Close() // resets
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, cn.RemoteAddr(), op.Addr)
}

// leaving reports when a socket begins to be closed.
type leaving struct {
	*net.TCPConn
	begun chan struct{}
	once  sync.Once
}

func (l *leaving) CloseWrite() error {
	defer l.once.Do(func() { close(l.begun) })
	return l.TCPConn.CloseWrite()
}

func (l *leaving) Close() error {
	defer l.once.Do(func() { close(l.begun) })
	return l.TCPConn.Close()
}

// A socket that is closed with unread tickets in it sends a reset, which discards
// data that the peer has not received yet.
func TestClose_DeliversWhatWasWritten(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	cn, sn := tcpPipe(t)
	client := &leaving{TCPConn: cn.(*net.TCPConn), begun: make(chan struct{})}
	require.NoError(t, client.SetWriteBuffer(4<<20))
	c, s := f.handshaken(t, client, sn)
	want := random(200_000) // more than the kernel buffers
	_, err := c.Write(want)
	require.NoError(t, err)
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	<-client.begun
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "%d bytes of %d", len(got), len(want))
	require.NoError(t, <-closed)
}

func TestAbort_DropsTheSessionThatCloseKeeps(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for name, abort := range map[string]bool{"Close": false, "Abort": true} {
			t.Run(name, func(t *testing.T) {
				server := f.server(t)
				server.SetOptions(libssl.OpNoTicket) // stateful: the cache holds the sessions
				server.SetSessionCacheMode(libssl.CacheServer)
				removed := 0
				server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { removed++ })
				defer server.SetSessRemoveCallback(nil)

				cn, sn := tcpPipe(t)
				c, s := f.ends(t, cn, sn, server, nil)
				require.NoError(t, exchange(c, s))
				sess, cached := sessionOf(t, c), server.Stats().Number
				require.NotZero(t, cached)
				end, closed := io.EOF, make(chan error, 1)
				if abort {
					closed <- s.Abort()
					end = io.ErrUnexpectedEOF
				} else {
					go func() { closed <- s.Close() }()
				}
				_, err := c.Read(make([]byte, 1))
				require.Equal(t, end, err)
				c.Close()
				require.NoError(t, receive(t, "the server's end", closed))

				if !abort {
					require.Zero(t, removed)
					require.Equal(t, cached, server.Stats().Number)
					require.True(t, f.visit(t, server, sess).resumed)
				} else {
					require.Equal(t, 1, removed)
					require.Equal(t, cached-1, server.Stats().Number)
				}
			})
		}
	})
}

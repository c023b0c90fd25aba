package libssl_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// instrumented is true where the race detector or AddressSanitizer allocates
// too: see race_test.go.
var instrumented bool

var longAgo = time.Unix(1, 0)

// handshaken are both ends of a connection that is complete.
func (f *fleet) handshaken(t testing.TB, cn, sn net.Conn) (c, s *libssl.Conn) {
	t.Helper()
	c, s = f.ends(t, cn, sn, f.server(t), nil)
	require.NoError(t, bothHandshake(c, s))
	return c, s
}

func random(n int) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = src.Read(b)
	return b
}

// bothWays sends data from each end to the other at once, in writes of odd
// sizes, and checks every byte.
func bothWays(t testing.TB, a, b net.Conn, data []byte, write func(net.Conn, []byte) error) {
	t.Helper()
	errs := make(chan error, 4)
	send := func(c net.Conn) { errs <- write(c, data) }
	receive := func(c net.Conn) {
		got := make([]byte, len(data))
		_, err := io.ReadFull(c, got)
		if err == nil && !bytes.Equal(got, data) {
			err = errors.New("other bytes came than were sent")
		}
		errs <- err
	}
	for _, c := range []net.Conn{a, b} {
		go send(c)
		go receive(c)
	}
	for range 4 {
		require.NoError(t, <-errs)
	}
}

func writeOddly(c net.Conn, data []byte) error {
	for size := 1; len(data) > 0; size = (size*7 + 3) % 200_000 {
		n := min(len(data), size)
		if m, err := c.Write(data[:n]); err != nil || m != n {
			return errors.Join(err, io.ErrShortWrite)
		}
		data = data[n:]
	}
	return nil
}

// ---- transports -----------------------------------------------------------------

// scrambled is a socket whose bytes mean something only through its own methods.
type scrambled struct{ *net.TCPConn }

func (s scrambled) Read(p []byte) (int, error) {
	n, err := s.TCPConn.Read(p)
	for i := range p[:n] {
		p[i] ^= 0x55
	}
	return n, err
}

func (s scrambled) Write(p []byte) (int, error) {
	q := bytes.Clone(p)
	for i := range q {
		q[i] ^= 0x55
	}
	return s.TCPConn.Write(q)
}

// one moves one byte at a time.
type one struct{ net.Conn }

func (o one) Read(p []byte) (int, error) { return o.Conn.Read(p[:1]) }

func (o one) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := o.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// idle reads nothing, without an error, every other time.
type idle struct {
	net.Conn
	turn bool
}

func (i *idle) Read(p []byte) (int, error) {
	if i.turn = !i.turn; i.turn {
		return 0, nil
	}
	return i.Conn.Read(p)
}

func TestConn_WorksOverEveryTransport(t *testing.T) {
	over := map[string]func(t testing.TB, f *fleet) (client, server net.Conn){
		"scrambled": func(t testing.TB, _ *fleet) (net.Conn, net.Conn) {
			c, s := tcpPipe(t)
			return scrambled{c.(*net.TCPConn)}, scrambled{s.(*net.TCPConn)}
		},
		"one byte": func(t testing.TB, _ *fleet) (net.Conn, net.Conn) {
			c, s := tcpPipe(t)
			return one{c}, one{s}
		},
		"idle": func(t testing.TB, _ *fleet) (net.Conn, net.Conn) {
			c, s := net.Pipe()
			return &idle{Conn: c}, &idle{Conn: s}
		},
		"tls in tls": func(t testing.TB, f *fleet) (net.Conn, net.Conn) {
			cn, sn := tcpPipe(t)
			c, s := f.ends(t, cn, sn, f.server(t), nil)
			return c, s
		},
		"crypto/tls": func(t testing.TB, f *fleet) (net.Conn, net.Conn) {
			cert, err := tls.X509KeyPair(f.cert, f.key)
			require.NoError(t, err)
			cn, sn := tcpPipe(t)
			return tls.Client(cn, &tls.Config{RootCAs: f.ca.Pool(), ServerName: serverName}),
				tls.Server(sn, &tls.Config{Certificates: []tls.Certificate{cert}})
		},
	}
	for name, pipe := range transports {
		over[name] = func(t testing.TB, _ *fleet) (net.Conn, net.Conn) { return pipe(t) }
	}
	for name, pipe := range over {
		t.Run(name, func(t *testing.T) {
			size := 1 << 20
			if name == "one byte" {
				size = 10_000
			}
			eachVersion(t, func(t *testing.T, f *fleet) {
				cn, sn := pipe(t, f)
				defer cn.Close() // nobody reads the close_notify from a net.Pipe
				c, s := f.ends(t, cn, sn, f.server(t), nil)
				require.Equal(t, cn, c.NetConn())
				require.Equal(t, cn.RemoteAddr(), c.RemoteAddr())
				require.Equal(t, sn.LocalAddr(), s.LocalAddr())
				bothWays(t, c, s, random(size), writeOddly)
			})
		})
	}
}

// ahead tells of the end together with the last bytes.
type ahead struct {
	net.Conn
	data []byte
	err  error
}

func (a *ahead) Read(p []byte) (int, error) {
	if len(a.data) == 0 && a.err == nil {
		a.data, a.err = io.ReadAll(a.Conn)
		if a.err == nil {
			a.err = io.EOF
		}
	}
	n := copy(p, a.data)
	a.data = a.data[n:]
	if len(a.data) == 0 {
		return n, a.err
	}
	return n, nil
}

func TestConn_ReadsWhatComesWithAnError(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		cn, sn := tcpPipe(t)
		last := &swap{Conn: sn}
		c, s := f.handshaken(t, cn, last)
		want := random(5000)
		_, err := c.Write(want)
		require.NoError(t, err)
		require.NoError(t, cn.(*net.TCPConn).CloseWrite())
		last.reader = &ahead{Conn: sn}
		got, err := io.ReadAll(s)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Equal(t, want, got)
	})
}

// swap reads from elsewhere once reader is set.
type swap struct {
	net.Conn
	reader io.Reader
}

func (s *swap) Read(p []byte) (int, error) {
	if s.reader != nil {
		return s.reader.Read(p)
	}
	return s.Conn.Read(p)
}

// ---- the handshake -----------------------------------------------------------------

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

// lastRead calls f when it has the nth read, before anybody sees that.
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

// ---- timeouts ----------------------------------------------------------------------

// stutter is a transport that times out now and then, in the middle of what it
// is asked to do: a deadline that always passes at the worst moment.
type stutter struct {
	net.Conn
	reads, writes *rand.Rand
}

func newStutter(nc net.Conn, seed uint64) *stutter {
	return &stutter{nc, rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))}
}

func (s *stutter) Read(p []byte) (int, error) {
	switch s.reads.IntN(4) {
	case 0:
		return 0, os.ErrDeadlineExceeded
	case 1:
		n, err := s.Conn.Read(p[:min(len(p), 1+s.reads.IntN(100))])
		if err == nil {
			err = os.ErrDeadlineExceeded
		}
		return n, err
	}
	return s.Conn.Read(p)
}

func (s *stutter) Write(p []byte) (int, error) {
	n := s.writes.IntN(len(p) + 1)
	switch s.writes.IntN(4) {
	case 0:
		n = 0
	case 1:
		n = len(p) // all of it, and yet too late
	case 2:
		return s.Conn.Write(p)
	}
	if n > 0 {
		if m, err := s.Conn.Write(p[:n]); err != nil {
			return m, err
		}
	}
	return n, os.ErrDeadlineExceeded
}

// patient repeats what timed out, as a caller who knows the contract does.
type patient struct{ *libssl.Conn }

func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

func (p patient) Handshake() error { return retry(p.Conn.Handshake) }

func (p patient) Read(b []byte) (n int, err error) {
	err = retry(func() error { n, err = p.Conn.Read(b); return err })
	return n, err
}

func (p patient) Write(b []byte) (int, error) {
	total := 0
	err := retry(func() error {
		n, err := p.Conn.Write(b[total:])
		total += n
		return err
	})
	return total, err
}

func TestConn_TimeoutsLoseAndRepeatNothing(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for seed := range uint64(20) {
			cn, sn := tcpPipe(t)
			c, s := f.ends(t, newStutter(cn, 2*seed), newStutter(sn, 2*seed+1), f.server(t), nil)
			require.NoError(t, bothHandshake(patient{c}, patient{s}), "seed %d", seed)
			bothWays(t, patient{c}, patient{s}, random(300_000), writeOddly)
			closeBoth(c, s)
		}
	})
}

func TestWrite_PastDeadlineSendsNothing(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		cn, sn := tcpPipe(t)
		client := &tap{Conn: cn}
		c, s := f.handshaken(t, client, sn)
		for _, set := range []func(time.Time) error{c.SetDeadline, c.SetWriteDeadline} {
			require.NoError(t, set(longAgo))
			sent := client.count()
			n, err := c.Write([]byte("late"))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.True(t, err.(net.Error).Timeout())
			require.Zero(t, n)
			require.Equal(t, sent, client.count())
			require.NoError(t, set(time.Time{}))
		}
		require.NoError(t, exchange(c, s))
	})
}

// ---- closing ----------------------------------------------------------------------

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

func TestClose_DuringReadsAndWrites(t *testing.T) {
	for name, pipe := range transports {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				server := f.server(t)
				for round := range 8 {
					cn, sn := pipe(t)
					c, s := f.ends(t, cn, sn, server, nil)
					var busy sync.WaitGroup
					arrived := make(chan struct{}, 1)
					for _, end := range []*libssl.Conn{c, s} {
						busy.Go(func() {
							for b := make([]byte, 10_000); ; {
								if _, err := end.Read(b); err != nil {
									return
								}
								select {
								case arrived <- struct{}{}:
								default:
								}
							}
						})
						busy.Go(func() {
							for b := make([]byte, 30_000); ; {
								if _, err := end.Write(b); err != nil {
									return
								}
							}
						})
					}
					receive(t, "data", arrived)
					switch round % 4 {
					case 0:
						c.Close()
					case 1:
						s.Close()
					case 2:
						c.Abort()
					case 3:
						s.Abort()
					}
					// Whoever is left hears of it, or is closed in the middle of things.
					closeBoth(c, s)
					busy.Wait()
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

// leaving tells when the end of a socket begins.
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

// Tickets that nobody reads turn a plain close of the socket into a reset, which
// throws away what the peer has not received yet.
func TestClose_DeliversWhatWasWritten(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	cn, sn := tcpPipe(t)
	client := &leaving{TCPConn: cn.(*net.TCPConn), begun: make(chan struct{})}
	require.NoError(t, client.SetWriteBuffer(4<<20))
	c, s := f.handshaken(t, client, sn)
	want := random(200_000) // more than the server's kernel takes unasked
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

// ---- what a connection holds ----------------------------------------------------------

func TestContext_ClosedLeavesItsConnectionsAlone(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		cn, sn := tcpPipe(t)
		c, s := f.ends(t, cn, sn, server, nil)
		require.NoError(t, server.Close())
		require.NoError(t, f.client.Close())
		require.NoError(t, exchange(c, s))
		_, err := libssl.Server(sn, server)
		require.ErrorIs(t, err, libssl.ErrClosed)
		_, err = libssl.Client(cn, f.client, serverName)
		require.ErrorIs(t, err, libssl.ErrClosed)
	})
}

func TestConn_ForgottenIsCollectedAndCounted(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.server(t)
	before := libssl.LiveResources()
	for name, pipe := range transports {
		func() {
			cn, sn := pipe(t)
			s, err := libssl.Server(sn, server)
			require.NoError(t, err)
			c, err := libssl.Client(cn, f.client, serverName)
			require.NoError(t, err)
			require.NoError(t, exchange(c, s), name)
		}()
	}
	forgotten.ForgottenConns += int64(2 * len(transports))
	wait(t, "the collector", func() bool {
		runtime.GC()
		now := libssl.LiveResources()
		return now.ForgottenConns == before.ForgottenConns+int64(2*len(transports)) && now.Conns == before.Conns
	})
}

func TestConn_RefusesWhatItCannotBe(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	server, client := newServer(t, ca), newClient(t, ca)
	cn, sn := net.Pipe()
	defer cn.Close()
	defer sn.Close()
	live := libssl.LiveResources().Conns
	for name, make := range map[string]func() (*libssl.Conn, error){
		"no transport":      func() (*libssl.Conn, error) { return libssl.Server(nil, server) },
		"no Context":        func() (*libssl.Conn, error) { return libssl.Client(cn, nil, serverName) },
		"a server's client": func() (*libssl.Conn, error) { return libssl.Client(cn, server, serverName) },
		"a client's server": func() (*libssl.Conn, error) { return libssl.Server(sn, client) },
		"no name":           func() (*libssl.Conn, error) { return libssl.Client(cn, client, "") },
		"a name with a NUL": func() (*libssl.Conn, error) { return libssl.Client(cn, client, "server.test\x00.evil") },
		"a name too long": func() (*libssl.Conn, error) {
			return libssl.Client(cn, client, string(bytes.Repeat([]byte("a"), 300)))
		},
	} {
		c, err := make()
		require.Error(t, err, name)
		require.Nil(t, c, name)
	}
	require.Equal(t, live, libssl.LiveResources().Conns)
}

// ---- cost ------------------------------------------------------------------------------

func TestConn_RoundTripAllocatesNothing(t *testing.T) {
	if instrumented {
		t.Skip("the race detector and AddressSanitizer allocate")
	}
	for name, pipe := range transports {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				cn, sn := pipe(t)
				c, s := f.handshaken(t, cn, sn)
				go echo(s)
				b := make([]byte, 64)
				roundTrip := func() {
					if _, err := c.Write(b); err != nil {
						t.Error(err)
					}
					if _, err := io.ReadFull(c, b); err != nil {
						t.Error(err)
					}
				}
				for range 100 { // tickets, pools
					roundTrip()
				}
				require.Zero(t, testing.AllocsPerRun(1000, roundTrip))
			})
		})
	}
}

func echo(c net.Conn) {
	b := make([]byte, 32<<10)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// BenchmarkHandshake_Pair is a full handshake, both ends, in memory; -benchmem
// says what a pair allocates.
func BenchmarkHandshake_Pair(b *testing.B) {
	for name, v := range versions {
		b.Run(name, func(b *testing.B) {
			f := newFleet(b, v)
			server := f.server(b)
			b.ReportAllocs()
			for b.Loop() {
				cn, sn := net.Pipe()
				c, err := libssl.Client(cn, f.client, serverName)
				if err != nil {
					b.Fatal(err)
				}
				s, err := libssl.Server(sn, server)
				if err != nil {
					b.Fatal(err)
				}
				served := make(chan error, 1)
				go func() { served <- s.Handshake() }()
				if err := c.Handshake(); err != nil {
					b.Fatal(err)
				}
				if err := <-served; err != nil {
					b.Fatal(err)
				}
				cn.Close()
				sn.Close()
				c.Abort()
				s.Abort()
			}
		})
	}
}

package libssl_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

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
				defer cn.Close() // a close_notify has no reader on a net.Pipe
				c, s := f.ends(t, cn, sn, f.server(t), nil)
				require.Equal(t, cn, c.NetConn())
				require.Equal(t, cn.RemoteAddr(), c.RemoteAddr())
				require.Equal(t, sn.LocalAddr(), s.LocalAddr())
				bothWays(t, c, s, random(size), writeOddly)
			})
		})
	}
}

// ahead returns the last bytes together with io.EOF.
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

// ---- timeouts ----------------------------------------------------------------------

// stutter is a transport that times out at random, also in the middle of a Read
// or Write.
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

// patient repeats calls that time out, as the contract of Conn allows.
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

// held is a transport whose Writes wait for release, once hold is set.
type held struct {
	net.Conn
	read    atomic.Int64
	hold    atomic.Bool
	waiting chan struct{} // one for each Write that waits
	release chan struct{}
}

func (s *held) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.read.Add(int64(n))
	return n, err
}

func (s *held) Write(p []byte) (int, error) {
	if s.hold.Load() {
		s.waiting <- struct{}{}
		<-s.release
	}
	return s.Conn.Write(p)
}

// A peer that asks for more answers than it reads stops being read.
func TestConn_AnswersThatNobodyReadsAreBounded(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.server(t)
	require.NoError(t, server.SetCipherSuites("TLS_AES_128_GCM_SHA256"))
	cn, sn := tcpPipe(t)
	transport := &held{Conn: sn, waiting: make(chan struct{}, 1000), release: make(chan struct{})}
	var log bytes.Buffer
	c := tls.Client(cn, &tls.Config{RootCAs: f.ca.Pool(), ServerName: serverName, KeyLogWriter: &log})
	s, err := libssl.Server(transport, server)
	require.NoError(t, err)
	t.Cleanup(func() { closeBoth(cn, s) })
	require.NoError(t, bothHandshake(c, s))

	transport.hold.Store(true)
	wrote := make(chan error, 1)
	go func() { _, err := s.Write([]byte("x")); wrote <- err }()
	receive(t, "the Write to wait", transport.waiting)
	updates, secret := keyUpdates(t, clientSecret(t, log.String()), 20_000)
	go cn.Write(append(updates, seal(t, secret, 23, []byte("the end"))...))
	before := transport.read.Load()
	answer := make(chan string, 1)
	go func() {
		b := make([]byte, 100)
		n, _ := s.Read(b)
		answer <- string(b[:n])
	}()
	stacks := make([]byte, 1<<20)
	wait(t, "the reader to wait, or to read all", func() bool {
		all := transport.read.Load()-before > int64(len(updates))
		return all || regexp.MustCompile(`(?s)wire\.\(\*Writer\)\.Flush\([^\n]*\n[^\n]*\n[^\n]*flush[^\n]*\n[^\n]*\n[^\n]*\(\*Conn\)\.Read\(`).Match(stacks[:runtime.Stack(stacks, true)])
	})
	require.Less(t, transport.read.Load()-before, int64(250_000))
	close(transport.release)
	got := make(chan int64)
	go func() {
		n, _ := io.Copy(io.Discard, cn)
		got <- n
	}()
	require.NoError(t, receive(t, "the Write", wrote))
	require.Equal(t, "the end", receive(t, "the Read", answer))
	require.NoError(t, s.Close())
	require.Greater(t, receive(t, "the answers", got), int64(len(updates)), "each update was answered")
}

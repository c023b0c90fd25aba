package libssl_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
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

// ---- lifetime --------------------------------------------------------------------------

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
	collect(t, func() bool {
		now := libssl.LiveResources()
		return now.ForgottenConns == before.ForgottenConns+int64(2*len(transports)) && now.Conns == before.Conns
	})
}

// The remove handlers of an SSL_CTX that ends with a forgotten Conn may wait for another cleanup of the collector.
func TestConn_ForgottenFreesOffTheCollectorsGoroutine(t *testing.T) {
	f := newFleet(t, tls.VersionTLS12)
	collected := make(chan bool, 1)
	func() {
		server := f.server(t)
		server.SetOptions(libssl.OpNoTicket)
		server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) {
			other := make(chan struct{})
			runtime.AddCleanup(new([64]byte), func(ch chan struct{}) { close(ch) }, other)
			for range 10_000 {
				runtime.GC()
				select {
				case <-other:
					collected <- true
					return
				case <-time.After(time.Millisecond):
				}
			}
			collected <- false
		})
		cn, sn := tcpPipe(t)
		s, err := libssl.Server(sn, server)
		require.NoError(t, err)
		c, err := libssl.Client(cn, f.client, serverName)
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, exchange(c, s))
		require.NoError(t, server.Close())
	}()
	forgotten.ForgottenConns++
	var ok bool
	collect(t, func() bool {
		select {
		case ok = <-collected:
			return true
		default:
			return false
		}
	})
	require.True(t, ok)
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

// BenchmarkHandshake_Pair is a full handshake of both ends, in memory. -benchmem
// reports the allocations of the pair.
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

package libssl_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// echoServer serves connections that accept returns, one byte at a time, until the test ends. It returns its address.
func echoServer(t testing.TB, wrap func(nc net.Conn) (net.Conn, error)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				c, err := wrap(nc)
				if !assert.NoError(t, err) {
					return
				}
				defer c.Close()
				p := make([]byte, 1)
				for {
					if _, err := io.ReadFull(c, p); err != nil {
						return
					}
					c.Write(p)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

func ourEcho(t testing.TB, ctx *libssl.Context) string {
	return echoServer(t, func(nc net.Conn) (net.Conn, error) { return libssl.Server(nc, ctx) })
}

// cachingClient is a client with a cache.
func cachingClient(t testing.TB, ca *tlstest.CA, version uint16, max int) *libssl.Context {
	t.Helper()
	ctx := newClient(t, ca)
	require.NoError(t, ctx.SetVersions(version, version))
	require.NoError(t, ctx.UseClientCache(max))
	return ctx
}

// dialEcho makes a connection and moves a byte each way, which brings a TLS 1.3 client its tickets. It waits for handshook
// before it reads them.
func dialEcho(addr string, ctx *libssl.Context, handshook func()) (resumed bool, err error) {
	defer handshook()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return false, err
	}
	c, err := libssl.Client(nc, ctx, serverName)
	if err != nil {
		return false, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if err := c.Handshake(); err != nil {
		return false, err
	}
	handshook()
	if _, err = c.Write([]byte("x")); err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	return c.SessionReused(), err
}

// requireResumed makes n connections, one after another.
func requireResumed(t *testing.T, addr string, ctx *libssl.Context, n int, want bool) {
	t.Helper()
	for range n {
		resumed, err := dialEcho(addr, ctx, func() {})
		require.NoError(t, err)
		require.Equal(t, want, resumed)
	}
}

// atOnce makes n connections whose handshakes all end before one of them has a ticket.
func atOnce(t *testing.T, addr string, ctx *libssl.Context, n int) (resumed int) {
	t.Helper()
	results := make([]bool, n)
	var clients, handshakes sync.WaitGroup
	handshakes.Add(n)
	for i := range n {
		clients.Go(func() {
			var err error
			results[i], err = dialEcho(addr, ctx, sync.OnceFunc(func() {
				handshakes.Done()
				handshakes.Wait()
			}))
			assert.NoError(t, err)
		})
	}
	clients.Wait()
	for _, r := range results {
		if r {
			resumed++
		}
	}
	return resumed
}

func TestClientCache_ResumesWithOurServer(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for name, prepare := range map[string]func(ctx *libssl.Context){
			"tickets": func(*libssl.Context) {},
			"ids":     func(ctx *libssl.Context) { ctx.SetOptions(libssl.OpNoTicket) },
			"a store": func(ctx *libssl.Context) { useStore(t, ctx, memstore.New(memstore.Options{}), nil) },
			"one use": func(ctx *libssl.Context) {
				useStore(t, ctx, memstore.New(memstore.Options{}), &libssl.StoreOptions{SingleUse: true})
			},
			"a ticket": func(ctx *libssl.Context) { require.NoError(t, ctx.SetNumTickets(1)) },
		} {
			t.Run(name, func(t *testing.T) {
				server := f.server(t)
				prepare(server)
				addr := ourEcho(t, server)
				client := cachingClient(t, f.ca, f.version, 200)
				requireResumed(t, addr, client, 1, false)
				requireResumed(t, addr, client, 4, true)
				atOnce(t, addr, client, 50)
				require.Equal(t, 50, atOnce(t, addr, client, 50), "50 sessions are there for 50 connections")
			})
		}
	})
}

func TestClientCache_ResumesWithCryptoTLS(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		cert, err := tls.X509KeyPair(f.cert, f.key)
		require.NoError(t, err)
		config := &tls.Config{Certificates: []tls.Certificate{cert}}
		addr := echoServer(t, func(nc net.Conn) (net.Conn, error) { return tls.Server(nc, config), nil })
		client := cachingClient(t, f.ca, f.version, 100)
		requireResumed(t, addr, client, 1, false)
		requireResumed(t, addr, client, 4, true)
		atOnce(t, addr, client, 50)
		require.Equal(t, 50, atOnce(t, addr, client, 50))

		// A server that has other keys refuses, once.
		config.SetSessionTicketKeys([][32]byte{{1}})
		other := cachingClient(t, f.ca, f.version, 100)
		requireResumed(t, addr, other, 1, false)
		requireResumed(t, addr, other, 1, true)
		config.SetSessionTicketKeys([][32]byte{{2}})
		resumed := 0
		for range 4 { // crypto/tls gives one ticket
			r, err := dialEcho(addr, other, func() {})
			require.NoError(t, err)
			if r {
				resumed++
			}
		}
		require.Equal(t, 3, resumed)
	})
}

// Dial takes the name and the port from the address.
func TestClientCache_Dial(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		require.NoError(t, server.UseCertificatePEM(f.ca.Leaf(t, "127.0.0.1")))
		addr, elsewhere := ourEcho(t, server), ourEcho(t, server)
		client := cachingClient(t, f.ca, f.version, 10)
		for visit, c := range []struct {
			addr    string
			resumes bool
		}{{addr, false}, {addr, true}, {elsewhere, false}, {addr, true}, {elsewhere, true}} {
			conn, err := libssl.DialContext(context.Background(), "tcp", c.addr, client)
			require.NoError(t, err)
			_, err = conn.Write([]byte("x"))
			require.NoError(t, err)
			_, err = io.ReadFull(conn, make([]byte, 1))
			require.NoError(t, err)
			require.Equal(t, c.resumes, conn.SessionReused(), visit)
			conn.Close()
		}
	})
}

func TestClientCache_OffersNothingThatWasVerifiedLess(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		addr := ourEcho(t, f.server(t))
		client := newClient(t, f.ca)
		require.NoError(t, client.SetVerify(libssl.VerifyNone))
		require.NoError(t, client.UseClientCache(10))
		requireResumed(t, addr, client, 1, false)
		requireResumed(t, addr, client, 1, true)
		require.NoError(t, client.SetVerify(libssl.VerifyPeer))
		requireResumed(t, addr, client, 1, false)
		requireResumed(t, addr, client, 1, true)
		require.NoError(t, client.UseCertificatePEM(f.ca.Leaf(t, "client")))
		requireResumed(t, addr, client, 1, false)
	})
}

func TestClientCache_IsBounded(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		require.NoError(t, server.SetNumTickets(1))
		a, b, c := ourEcho(t, server), ourEcho(t, server), ourEcho(t, server)
		before := libssl.LiveResources().Sessions
		client := cachingClient(t, f.ca, f.version, 2)
		requireResumed(t, a, client, 1, false)
		requireResumed(t, b, client, 1, false)
		requireResumed(t, a, client, 1, true)
		requireResumed(t, c, client, 1, false)
		require.Equal(t, before+2, libssl.LiveResources().Sessions)
		requireResumed(t, a, client, 1, true)
		requireResumed(t, b, client, 1, false) // it was used least recently
		require.NoError(t, client.Close())
		require.Equal(t, before, libssl.LiveResources().Sessions, "Close wipes them")
	})
}

func TestClientCache_DropsWhatHasExpired(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		addr := ourEcho(t, f.server(t))
		client := cachingClient(t, f.ca, f.version, 10)
		requireResumed(t, addr, client, 1, false)
		requireResumed(t, addr, client, 1, true)
		before := libssl.LiveResources().Sessions
		libssl.AgeCachedSessions(client, 3*time.Hour)
		requireResumed(t, addr, client, 1, false)
		require.LessOrEqual(t, libssl.LiveResources().Sessions, max(before, 2))
	})
}

func TestClientCache_WritesEarlyData(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, _ := f.early(t, memstore.New(memstore.Options{}), nil)
	require.NoError(t, f.client.UseClientCache(10))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for visit := range 3 {
		cn, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		sn, err := l.Accept()
		require.NoError(t, err)
		c, s := f.ends(t, cn, sn, server, nil)
		got := make(chan string, 1)
		go func() {
			early, err := readEarly(s)
			assert.NoError(t, err)
			assert.NoError(t, s.Handshake())
			got <- string(early)
		}()
		_, err = c.WriteEarlyData([]byte("early"))
		if visit == 0 {
			require.ErrorIs(t, err, libssl.ErrUnsupported)
		} else {
			require.NoError(t, err)
		}
		require.NoError(t, c.Handshake())
		require.Equal(t, strings.Repeat("early", min(visit, 1)), receive(t, "early data", got))
		require.Equal(t, visit > 0, c.EarlyDataAccepted())
		require.NoError(t, exchange(c, s))
		closeBoth(c, s)
	}
}

func TestClientCache_IsRefused(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, client := f.server(t), newClient(t, f.ca)
	require.ErrorIs(t, server.UseClientCache(10), libssl.ErrUnsupported)
	require.ErrorContains(t, client.UseClientCache(0), "0 sessions")
	require.ErrorContains(t, client.UseClientCache(-1), "-1 sessions")
	client.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { return false })
	require.ErrorContains(t, client.UseClientCache(10), "new callback")
	client.SetSessNewCallback(nil)
	require.NoError(t, client.UseClientCache(10))
	require.ErrorContains(t, client.UseClientCache(10), "has a client cache")
	var told []error
	client.OnCallbackError(func(e *libssl.CallbackError) { told = append(told, e) })
	client.SetSessNewCallback(nil)
	require.Len(t, told, 1)
	require.ErrorContains(t, told[0], "client cache")
	client.Close()
	require.ErrorIs(t, client.UseClientCache(10), libssl.ErrClosed)
}

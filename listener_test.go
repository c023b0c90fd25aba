package libssl_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func listen(t testing.TB, network, addr string, ctx *libssl.Context) *libssl.Listener {
	t.Helper()
	l, err := libssl.Listen(network, addr, ctx)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func TestListener_AcceptWaitsForNoHandshake(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	for transport, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "socket")} {
		l := listen(t, transport, addr, f.server(t))
		silent, err := net.Dial(transport, l.Addr().String())
		require.NoError(t, err)
		defer silent.Close()
		nc, err := net.Dial(transport, l.Addr().String())
		require.NoError(t, err)
		c, err := libssl.Client(nc, f.client, serverName)
		require.NoError(t, err)
		defer c.Close()
		done := make(chan error, 1)
		go func() { done <- c.Handshake() }()
		s, err := l.Accept()
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, receive(t, "the handshake", done))
		require.IsType(t, &libssl.Conn{}, s)
		require.Equal(t, nc.LocalAddr().String(), s.RemoteAddr().String())
		require.NoError(t, exchange(c, s))
		require.NoError(t, l.Close())
		_, err = silent.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err, "Close ends a handshake under way")
	}
}

// listenBelow listens with a plain listener and makes a Listener over wrap of it.
func listenBelow(t *testing.T, ctx *libssl.Context, wrap func(net.Listener) net.Listener) *libssl.Listener {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := libssl.NewListener(wrap(inner), ctx)
	t.Cleanup(func() { l.Close() })
	return l
}

func dial(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	return nc
}

type failedHandshake struct {
	remote net.Addr
	err    error
}

func failures(l *libssl.Listener) chan failedHandshake {
	told := make(chan failedHandshake, 16)
	l.OnHandshakeError = func(remote net.Addr, err error) { told <- failedHandshake{remote, err} }
	return told
}

func TestListener_TimeoutIsFinal(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.server(t)
	l := listen(t, "tcp", "127.0.0.1:0", server)
	l.HandshakeTimeout = 50 * time.Millisecond
	told := failures(l)
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	for _, sent := range []string{"", "\x16", "\x16\x03\x01\x02\x00\x01"} {
		nc := dial(t, l)
		_, err := io.WriteString(nc, sent)
		require.NoError(t, err)
		failed := receive(t, "the timeout", told)
		require.ErrorIs(t, failed.err, context.DeadlineExceeded)
		require.ErrorContains(t, failed.err, "50ms")
		require.Equal(t, nc.LocalAddr().String(), failed.remote.String())
		_, err = nc.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
	}
	require.Empty(t, accepted)
	require.Equal(t, 3, server.Stats().Accept, "a client that sent nothing is counted too")
	require.Zero(t, server.Stats().AcceptGood)
}

// counting counts how many of its connections are open at one time.
type counting struct {
	net.Listener
	open, most atomic.Int64
}

type counted struct {
	net.Conn
	l    *counting
	once sync.Once
}

func (l *counting) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.most.Store(max(l.most.Load(), l.open.Add(1)))
	return &counted{Conn: nc, l: l}, nil
}

func (c *counted) Close() error {
	c.once.Do(func() { c.l.open.Add(-1) })
	return c.Conn.Close()
}

func TestListener_BoundsHandshakes(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	below := &counting{}
	l := listenBelow(t, f.server(t), func(inner net.Listener) net.Listener { below.Listener = inner; return below })
	l.MaxHandshakes = 2
	told := failures(l)
	var silent []net.Conn
	for range 5 {
		silent = append(silent, dial(t, l))
	}
	c, err := libssl.Client(dial(t, l), f.client, serverName)
	require.NoError(t, err)
	defer c.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		s, err := l.Accept()
		assert.NoError(t, err)
		accepted <- s
	}()
	for _, nc := range silent {
		nc.Close()
		require.Error(t, receive(t, "the end of a silent client", told).err)
	}
	require.NoError(t, c.Handshake())
	receive(t, "Accept", accepted).Close()
	require.LessOrEqual(t, below.most.Load(), int64(2))
}

func TestListener_CloseEndsWhatWaitsForAccept(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	l := listen(t, "tcp", "127.0.0.1:0", f.server(t))
	told := failures(l)
	var clients [2]*libssl.Conn
	for i := range clients {
		c, err := libssl.Client(dial(t, l), f.client, serverName)
		require.NoError(t, err)
		defer c.Close()
		clients[i] = c
	}
	accepted := make(chan error, 1)
	go func() {
		s, err := l.Accept()
		if err == nil {
			s.Close()
		}
		accepted <- err
	}()
	for _, c := range clients {
		require.NoError(t, c.Handshake())
	}
	require.NoError(t, receive(t, "the one Accept", accepted))
	require.NoError(t, l.Close())
	for _, c := range clients {
		_, err := c.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err, "closed in order")
	}
	_, err := l.Accept()
	require.ErrorIs(t, err, libssl.ErrClosed)
	require.Empty(t, told)
}

// failing fails before each connection.
type failing struct {
	net.Listener
	calls int
}

var errNoDescriptors = errors.New("no descriptors")

func (l *failing) Accept() (net.Conn, error) {
	if l.calls++; l.calls%2 == 1 {
		return nil, errNoDescriptors
	}
	return l.Listener.Accept()
}

func TestListener_GoesOnAfterAnErrorBelow(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	l := listenBelow(t, f.server(t), func(inner net.Listener) net.Listener { return &failing{Listener: inner} })
	_, err := l.Accept()
	require.Equal(t, errNoDescriptors, err)
	done := make(chan error, 3)
	for range cap(done) {
		c, err := libssl.Client(dial(t, l), f.client, serverName)
		require.NoError(t, err)
		defer c.Close()
		go func() { done <- c.Handshake() }()
	}
	for accepted := 0; accepted < cap(done); {
		if s, err := l.Accept(); err == nil {
			accepted++
			defer s.Close()
			require.NoError(t, receive(t, "a handshake", done))
		} else {
			require.Equal(t, errNoDescriptors, err)
		}
	}
}

func TestListener_ClientWithoutTLS(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	l := listen(t, "tcp", "127.0.0.1:0", f.server(t))
	told := make(chan error, 1)
	l.OnHandshakeError = func(_ net.Addr, err error) {
		var plain tls.RecordHeaderError
		if assert.ErrorAs(t, err, &plain) {
			io.WriteString(plain.Conn, "not "+string(plain.RecordHeader[:]))
		}
		told <- err
	}
	go l.Accept()
	nc := dial(t, l)
	_, err := io.WriteString(nc, "GET / HTTP/1.1\r\n\r\n")
	require.NoError(t, err)
	b, err := io.ReadAll(nc)
	require.NoError(t, err)
	require.Equal(t, "not GET /", string(b), "and no alert")
	err = receive(t, "the error", told)
	var failed *libssl.Error
	require.ErrorAs(t, err, &failed)
	require.ErrorContains(t, err, "http request")
}

func TestListener_Closed(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	l := listen(t, "tcp", "127.0.0.1:0", f.server(t))
	failed := make(chan error, 1)
	go func() { _, err := l.Accept(); failed <- err }()
	require.NoError(t, l.Close())
	require.ErrorIs(t, receive(t, "Accept to end", failed), net.ErrClosed)
	_, err := l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestListener_ClosedContext(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.server(t)
	l := listen(t, "tcp", "127.0.0.1:0", server)
	require.NoError(t, server.Close())
	nc := dial(t, l)
	_, err := l.Accept()
	require.ErrorIs(t, err, libssl.ErrClosed)
	_, err = nc.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err, "the connection is not left open")
}

func TestListen_Refuses(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	_, err := libssl.Listen("tcp", "127.0.0.1:0", nil)
	require.Error(t, err)
	_, err = libssl.Listen("tcp", "no port", newServer(t, ca))
	require.Error(t, err)
	_, err = libssl.Listen("no such network", "127.0.0.1:0", newServer(t, ca))
	require.Error(t, err)
}

// serveEcho echoes on every connection of l until that is closed.
func serveEcho(t testing.TB, l *libssl.Listener) {
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				echo(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
}

func TestDial_NamesTheHost(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	server, client := newServer(t, ca), newClient(t, ca)
	require.NoError(t, server.UseCertificatePEM(ca.Leaf(t, "localhost", "127.0.0.1")))
	l := listen(t, "tcp", "127.0.0.1:0", server)
	serveEcho(t, l)
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)

	c, err := libssl.Dial("tcp", net.JoinHostPort("127.0.0.1", port), client)
	require.NoError(t, err)
	defer c.Close()
	require.True(t, c.ConnectionState().HandshakeComplete)
	require.Empty(t, c.ConnectionState().ServerName, "an address is not sent")
	_, err = c.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 5))
	require.NoError(t, err)

	c, err = libssl.DialContext(t.Context(), "tcp4", net.JoinHostPort("localhost", port), client)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, "localhost", c.ConnectionState().ServerName)

	require.NoError(t, server.UseCertificatePEM(ca.Leaf(t, "elsewhere.test")))
	live := libssl.LiveResources().Conns
	_, err = libssl.Dial("tcp4", net.JoinHostPort("localhost", port), client)
	require.ErrorContains(t, err, "ostname mismatch")
	wait(t, "the server's end", func() bool { return libssl.LiveResources().Conns == live })
}

func TestDial_UnixSocket(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	path := filepath.Join(t.TempDir(), "socket")
	serveEcho(t, listen(t, "unix", path, f.server(t)))
	_, err := libssl.Dial("unix", path, f.client)
	require.Error(t, err)
	require.Regexp(t, "ostname mismatch|a host name\\?", err.Error(), "a path is no name: OpenSSL 4.0 says so at once")
	require.NoError(t, f.client.SetVerify(libssl.VerifyNone))
	c, err := libssl.Dial("unix", path, f.client)
	require.NoError(t, err)
	c.Close()
}

func TestDialContext_Cancelled(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	dialled := make(chan error, 1)
	go func() { _, err := libssl.DialContext(ctx, "tcp", l.Addr().String(), f.client); dialled <- err }()
	nc, err := l.Accept()
	require.NoError(t, err)
	defer nc.Close()
	_, err = nc.Read(make([]byte, 1)) // the ClientHello: the handshake has begun
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, receive(t, "DialContext to end", dialled), context.Canceled)

	_, err = libssl.DialContext(ctx, "tcp", l.Addr().String(), f.client)
	require.ErrorIs(t, err, context.Canceled)
	_, err = libssl.Dial("tcp", "127.0.0.1:no-port", f.client)
	require.Error(t, err)
}

// ---- HTTP/1.1 -------------------------------------------------------------------------

// httpServer serves handler over our Listener.
func httpServer(t testing.TB, ctx *libssl.Context, handler http.HandlerFunc) (addr string) {
	t.Helper()
	l := listen(t, "tcp", "127.0.0.1:0", ctx)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return l.Addr().String()
}

// httpClient fetches over our connections, and offers the last session.
func httpClient(t testing.TB, ctx *libssl.Context) *http.Client {
	var mu sync.Mutex
	var last *libssl.Session
	over := false
	ctx.SetSessionCacheMode(libssl.CacheClient | libssl.CacheNoInternal)
	ctx.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return false
		}
		last.Release()
		last = s
		return true
	})
	transport := &http.Transport{
		DialTLSContext: func(dial context.Context, network, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(dial, network, addr)
			if err != nil {
				return nil, err
			}
			c, err := libssl.Client(nc, ctx, serverName)
			if err != nil {
				return nil, errors.Join(err, nc.Close())
			}
			mu.Lock()
			if last != nil {
				err = c.SetSession(last)
			}
			mu.Unlock()
			if err == nil {
				err = c.HandshakeContext(dial)
			}
			if err != nil {
				return nil, errors.Join(err, c.Close())
			}
			return c, nil
		},
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		mu.Lock()
		defer mu.Unlock()
		over = true
		last.Release()
	})
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

func get(t testing.TB, client *http.Client, url string) (body string, reused bool) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	require.NoError(t, err)
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
	resp, err := client.Do(req.WithContext(httptrace.WithClientTrace(t.Context(), trace)))
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b), reused
}

func TestHTTP_ServesWithTheRequestsState(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		require.NoError(t, server.AddClientCAsPEM(f.ca.PEM))
		require.NoError(t, server.SetVerify(libssl.VerifyPeer))
		require.NoError(t, server.SetSessionIDContext([]byte("http")))
		require.NoError(t, f.client.UseCertificatePEM(f.ca.Leaf(t, "client")))
		addr := httpServer(t, server, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, r.TLS.DidResume, r.TLS.ServerName, tls.VersionName(r.TLS.Version), r.TLS.PeerCertificates[0].Subject.CommonName,
				r.TLS.HandshakeComplete, r.Proto)
		})
		client := httpClient(t, f.client)
		says := serverName + " " + tls.VersionName(f.version) + " client true HTTP/1.1\n"
		body, reused := get(t, client, "https://"+addr+"/")
		require.Equal(t, "false "+says, body)
		require.False(t, reused)
		body, reused = get(t, client, "https://"+addr+"/")
		require.Equal(t, "false "+says, body)
		require.True(t, reused, "keep-alive")
	})
}

func TestHTTP_ResumesOnTheNextConnection(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		addr := httpServer(t, f.server(t), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			fmt.Fprint(w, r.TLS.DidResume)
		})
		client := httpClient(t, f.client)
		for _, want := range []string{"false", "true", "true"} {
			body, reused := get(t, client, "https://"+addr+"/")
			require.False(t, reused)
			require.Equal(t, want, body)
		}
	})
}

func TestHTTP_CryptoTLSClientAndLargeBodies(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		addr := httpServer(t, f.server(t), func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		})
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.ca.Pool(), ServerName: serverName}}
		defer transport.CloseIdleConnections()
		body := string(random(1 << 20))
		resp, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Post("https://"+addr+"/", "", strings.NewReader(body))
		require.NoError(t, err)
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.True(t, body == string(got))
	})
}

func TestHTTP_ShutdownWaitsForTheRequest(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	l := listen(t, "tcp", "127.0.0.1:0", f.server(t))
	entered, proceed := make(chan struct{}), make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-proceed
		fmt.Fprint(w, "done")
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	client := httpClient(t, f.client)
	answer := make(chan string, 1)
	go func() {
		resp, err := client.Get("https://" + l.Addr().String() + "/")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		answer <- string(b)
	}()
	<-entered
	down := make(chan error, 1)
	go func() { down <- server.Shutdown(t.Context()) }()
	require.ErrorIs(t, receive(t, "Serve to end", served), http.ErrServerClosed)
	close(proceed)
	require.Equal(t, "done", receive(t, "the answer", answer))
	require.NoError(t, receive(t, "Shutdown", down))
}

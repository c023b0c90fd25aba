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
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
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
	l := listen(t, "tcp", "127.0.0.1:0", f.server(t))
	silent, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer silent.Close()
	first, err := l.Accept()
	require.NoError(t, err)
	defer first.Close()
	require.IsType(t, &libssl.Conn{}, first)
	require.Equal(t, silent.LocalAddr().String(), first.RemoteAddr().String())

	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	c, err := libssl.Client(nc, f.client, serverName)
	require.NoError(t, err)
	defer c.Close()
	second, err := l.Accept()
	require.NoError(t, err)
	defer second.Close()
	require.NoError(t, exchange(c, second))
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
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer nc.Close()
	_, err = l.Accept()
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

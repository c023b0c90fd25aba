package sslhttp_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/sslhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func local(addr, path string) string {
	_, port, _ := net.SplitHostPort(addr)
	return "https://localhost:" + port + path
}

func TestServe_BothProtocols(t *testing.T) {
	s := newSite(t)
	conns := make(chan net.Conn, 16)
	addr := s.serve(t, &http.Server{
		Handler:     http.HandlerFunc(tellsProto),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { conns <- c; return ctx },
		ConnState: func(c net.Conn, _ http.ConnState) {
			assert.IsType(t, &libssl.Conn{}, c)
		},
	})
	for http2, want := range map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"} {
		client := s.goClient(t, http2)
		for range 2 {
			resp, err := client.Get(local(addr, "/"))
			require.Equal(t, want+" TLS 1.3 localhost", bodyOf(t, resp, err))
		}
		require.IsType(t, &libssl.Conn{}, receive(t, "a connection", conns))
	}
	require.Empty(t, conns, "connections are kept")
}

func TestServe_Curl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	s := newSite(t)
	addr := s.serve(t, &http.Server{Handler: http.HandlerFunc(tellsProto)})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, s.ca.PEM, 0o600))
	for option, want := range map[string]string{"--http2": "HTTP/2.0", "--http1.1": "HTTP/1.1"} {
		out, err := exec.Command(curl, "-sS", "--noproxy", "*", "--cacert", ca, option, local(addr, "/")).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, want+" TLS 1.3 localhost", string(out))
	}
}

func TestServe_PlainHTTPAndFailedHandshakes(t *testing.T) {
	s := newSite(t)
	l := s.listen(t)
	told := make(chan error, 1)
	l.OnHandshakeError = func(_ net.Addr, err error) { told <- err }
	s.serveOn(t, &http.Server{Handler: http.HandlerFunc(tellsProto)}, l)
	resp, err := http.Get("http://" + l.Addr().String() + "/")
	require.Equal(t, "Client sent an HTTP request to an HTTPS server.\n", bodyOf(t, resp, err))
	require.Equal(t, http.StatusBadRequest, resp.StatusCode)
	require.Error(t, receive(t, "OnHandshakeError", told))
	receive(t, "the log", s.log.wrote)
	require.Regexp(t, `^http: TLS handshake error from 127\.0\.0\.1:\d+: client sent an HTTP request to an HTTPS server\n$`, s.log.String())

	_, err = tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: "localhost"}) // which does not know the CA
	require.Error(t, err)
	require.Error(t, receive(t, "OnHandshakeError", told))
	receive(t, "the log", s.log.wrote)
	require.Contains(t, s.log.String(), "bad certificate")
}

func TestServe_OtherProtocolThanNegotiated(t *testing.T) {
	s := newSite(t)
	addr := s.serve(t, &http.Server{Handler: http.HandlerFunc(tellsProto)})
	c := dialTLS(t, s, addr, "h2")
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	b, _ := io.ReadAll(c)
	require.NotContains(t, string(b), "HTTP/1.1 TLS", "no request is served")

	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for _, protos := range [][]string{nil, {"http/1.1"}} {
		c = dialTLS(t, s, addr, protos...)
		_, err = io.WriteString(c, preface)
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		b, _ = io.ReadAll(c)
		require.True(t, strings.HasPrefix(string(b), "HTTP/1.1 "), "%q", b)
	}
}

func TestServe_ShutdownWaitsForBoth(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		s := newSite(t)
		entered, proceed := make(chan struct{}), make(chan struct{})
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-proceed
			tellsProto(w, r)
		})}
		addr := s.serve(t, srv)
		answer := make(chan string, 1)
		go func() {
			resp, err := s.goClient(t, http2).Get(local(addr, "/"))
			if !assert.NoError(t, err) {
				answer <- ""
				return
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			answer <- string(b)
		}()
		receive(t, "the request", entered)
		begun, down := make(chan struct{}), make(chan error, 1)
		srv.RegisterOnShutdown(func() { close(begun) })
		go func() { down <- srv.Shutdown(context.Background()) }()
		receive(t, "Shutdown to begin", begun)
		require.Empty(t, down)
		close(proceed)
		require.Contains(t, receive(t, "the answer", answer), "TLS 1.3")
		require.NoError(t, receive(t, "Shutdown", down))
	}
}

func TestServe_TimeoutsOfTheServerBoundHandshakes(t *testing.T) {
	for name, srv := range map[string]*http.Server{
		"header": {ReadHeaderTimeout: 50 * time.Millisecond}, "read": {ReadTimeout: 50 * time.Millisecond}, "write": {WriteTimeout: 50 * time.Millisecond},
	} {
		s := newSite(t)
		addr := s.serve(t, srv)
		nc, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer nc.Close()
		_, err = nc.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		receive(t, "the log", s.log.wrote)
		require.Contains(t, s.log.String(), "50ms", name)
	}
}

// net/http says goodbye to connections that are served in HTTP/2 when Shutdown begins, and waits for later ones too.
func TestServe_ShutdownMeetsABeginningConnection(t *testing.T) {
	s := newSite(t)
	accepted := make(chan struct{}, 1)
	srv := &http.Server{ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			accepted <- struct{}{}
		}
	}}
	addr := s.serve(t, srv)
	require.NoError(t, s.client.SetALPN("h2"))
	c, err := libssl.Dial("tcp", addr, s.client)
	require.NoError(t, err)
	defer c.Close()
	receive(t, "the connection", accepted)
	begun, down := make(chan struct{}), make(chan error, 1)
	srv.RegisterOnShutdown(func() { close(begun) })
	go func() { down <- srv.Shutdown(context.Background()) }()
	receive(t, "Shutdown to begin", begun)
	_, err = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00") // and SETTINGS
	require.NoError(t, err)
	require.NoError(t, receive(t, "Shutdown", down))
}

func TestServe_Refuses(t *testing.T) {
	s := newSite(t)
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer nl.Close()
	require.ErrorContains(t, sslhttp.Serve(&http.Server{}, nl), "*libssl.Listener")

	require.ErrorContains(t, sslhttp.Serve(&http.Server{Protocols: new(http.Protocols)}, s.listen(t)), "neither")
	require.NoError(t, s.ctx.SetALPN("h2"))
	off := &http.Server{TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	require.ErrorContains(t, sslhttp.Serve(off, s.listen(t)), "h2")
	require.Error(t, sslhttp.ListenAndServe(&http.Server{Addr: "no port"}, s.ctx))
}

func TestServe_WithoutHTTP2(t *testing.T) {
	s := newSite(t)
	addr := s.serve(t, &http.Server{Handler: http.HandlerFunc(tellsProto), TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}})
	resp, err := s.goClient(t, true).Get(local(addr, "/"))
	require.Equal(t, "HTTP/1.1 TLS 1.3 localhost", bodyOf(t, resp, err))
	protos, err := s.ctx.ALPN()
	require.NoError(t, err)
	require.Equal(t, []string{"http/1.1"}, protos)
}

// The same http.Server may serve plain HTTP too: it gets no HTTP/2 there that it was not told to serve.
func TestServe_NoHTTP2WithoutTLS(t *testing.T) {
	s := newSite(t)
	srv := &http.Server{Handler: http.HandlerFunc(tellsProto)}
	addr := s.serve(t, srv)
	resp, err := s.goClient(t, true).Get(local(addr, "/"))
	require.Equal(t, "HTTP/2.0 TLS 1.3 localhost", bodyOf(t, resp, err))
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer plain.Close()
	go srv.Serve(plain)
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	resp, err = (&http.Client{Transport: tr}).Get("http://" + plain.Addr().String())
	bodyOf(t, resp, err)
	require.Equal(t, http.StatusHTTPVersionNotSupported, resp.StatusCode)
	resp, err = http.Get("http://" + plain.Addr().String())
	require.Equal(t, "HTTP/1.1 no TLS", bodyOf(t, resp, err))
	http.DefaultClient.CloseIdleConnections()
}

package sslhttp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/sslhttp"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// site is a server with its certificate, and its clients.
type site struct {
	ca     *tlstest.CA
	ctx    *libssl.Context
	client *libssl.Context
	log    *logBuffer
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{ca: tlstest.NewCA(t, "ca"), log: &logBuffer{wrote: make(chan struct{}, 64)}}
	var err error
	s.ctx, err = libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	t.Cleanup(func() { s.ctx.Close() })
	require.NoError(t, s.ctx.UseCertificatePEM(s.ca.Leaf(t, "localhost", "127.0.0.1")))
	s.client, err = libssl.NewContext(libssl.ClientRole)
	require.NoError(t, err)
	t.Cleanup(func() { s.client.Close() })
	require.NoError(t, s.client.AddRootCAsPEM(s.ca.PEM))
	return s
}

// logBuffer is written by servers.
type logBuffer struct {
	mu    sync.Mutex
	b     bytes.Buffer
	wrote chan struct{}
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrote <- struct{}{}
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (s *site) listen(t testing.TB) *libssl.Listener {
	t.Helper()
	l, err := libssl.Listen("tcp", "127.0.0.1:0", s.ctx)
	require.NoError(t, err)
	return l
}

// serve serves until the test ends.
func (s *site) serve(t testing.TB, srv *http.Server) (addr string) {
	t.Helper()
	l := s.listen(t)
	s.serveOn(t, srv, l)
	return l.Addr().String()
}

func (s *site) serveOn(t testing.TB, srv *http.Server, l *libssl.Listener) {
	t.Helper()
	srv.ErrorLog = log.New(s.log, "", 0)
	served := make(chan error, 1)
	go func() { served <- sslhttp.Serve(srv, l) }()
	t.Cleanup(func() {
		srv.Close()
		assert.ErrorIs(t, receive(t, "Serve to end", served), http.ErrServerClosed)
	})
}

func receive[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		require.FailNow(t, "waited in vain", what)
	}
	return v
}

// goClient is a client of crypto/tls.
func (s *site) goClient(t testing.TB, http2 bool) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.ca.Pool()}, ForceAttemptHTTP2: http2}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func (s *site) sslClient(t testing.TB) *http.Client {
	c := &http.Client{Transport: sslhttp.Transport(s.client), Timeout: time.Minute}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func bodyOf(t testing.TB, resp *http.Response, err error) string {
	t.Helper()
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b)
}

// tellsProto answers with what the handler knows about the connection.
func tellsProto(w http.ResponseWriter, r *http.Request) {
	name := "no TLS"
	if r.TLS != nil {
		name = tls.VersionName(r.TLS.Version) + " " + r.TLS.ServerName
	}
	io.WriteString(w, r.Proto+" "+name)
}

func dialTLS(t testing.TB, s *site, addr string, protos ...string) *tls.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	c := tls.Client(nc, &tls.Config{RootCAs: s.ca.Pool(), ServerName: "localhost", NextProtos: protos})
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.HandshakeContext(context.Background()))
	return c
}

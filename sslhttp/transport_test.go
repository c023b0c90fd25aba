package sslhttp_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func noHTTP2(srv *http.Server) *http.Server {
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	return srv
}

func echoBody(w http.ResponseWriter, r *http.Request) {
	fmt.Fprint(w, r.Proto, " ")
	io.Copy(w, r.Body)
}

func TestTransport_BothProtocols(t *testing.T) {
	for proto, prepare := range map[string]func(*http.Server) *http.Server{
		"HTTP/2.0": func(srv *http.Server) *http.Server { return srv }, "HTTP/1.1": noHTTP2,
	} {
		s := newSite(t)
		addr := s.serve(t, prepare(&http.Server{Handler: http.HandlerFunc(echoBody)}))
		client := s.sslClient(t)
		for i := range 3 {
			req, err := http.NewRequest("POST", local(addr, "/"), io.MultiReader(strings.NewReader("a body that can be read once"))) // no GetBody
			require.NoError(t, err)
			reused := false
			trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
			resp, err := client.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
			require.Equal(t, proto+" a body that can be read once", bodyOf(t, resp, err))
			require.Equal(t, proto, resp.Proto)
			require.Equal(t, i > 0, reused, "%s %d", proto, i)
			require.NotNil(t, resp.TLS)
			require.Equal(t, uint16(tls.VersionTLS13), resp.TLS.Version)
			require.Equal(t, "localhost", resp.TLS.ServerName)
			require.Len(t, resp.TLS.PeerCertificates, 1)
		}
		require.Equal(t, 1, s.ctx.Stats().AcceptGood, proto)
	}
}

// postOnce uses a new connection. One of HTTP/2 that served a request is idle only some time after the body was read, so
// CloseIdleConnections could miss it.
func postOnce(t *testing.T, client *http.Client, addr string) (*http.Response, string) {
	req, err := http.NewRequest("POST", local(addr, "/"), strings.NewReader("x"))
	require.NoError(t, err)
	req.Close = true
	resp, err := client.Do(req)
	body := bodyOf(t, resp, err)
	return resp, body
}

func TestTransport_FollowsAServerThatChanges(t *testing.T) {
	s := newSite(t)
	addr := s.serve(t, &http.Server{Handler: http.HandlerFunc(echoBody)})
	client := s.sslClient(t)
	postOnce(t, client, addr) // Serve has set its ALPN
	for _, protos := range [][]string{{"http/1.1"}, {"h2", "http/1.1"}, {"http/1.1"}, {"h2"}} {
		require.NoError(t, s.ctx.SetALPN(protos...))
		_, body := postOnce(t, client, addr)
		require.Equal(t, map[string]string{"h2": "HTTP/2.0", "http/1.1": "HTTP/1.1"}[protos[0]]+" x", body)
	}
}

func TestTransport_Resumes(t *testing.T) {
	s := newSite(t)
	addr := s.serve(t, &http.Server{Handler: http.HandlerFunc(tellsProto)})
	client := s.sslClient(t)
	for i := range 2 {
		resp, _ := postOnce(t, client, addr)
		require.Equal(t, i > 0, resp.TLS.DidResume)
	}
}

func TestTransport_ManyAtOnce(t *testing.T) {
	for _, prepare := range []func(*http.Server) *http.Server{func(srv *http.Server) *http.Server { return srv }, noHTTP2} {
		s := newSite(t)
		addr := s.serve(t, prepare(&http.Server{Handler: http.HandlerFunc(echoBody)}))
		client := s.sslClient(t)
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				body := fmt.Sprint("body ", i)
				resp, err := client.Post(local(addr, "/"), "", strings.NewReader(body))
				if assert.NoError(t, err) {
					b, err := io.ReadAll(resp.Body)
					assert.NoError(t, err)
					assert.Equal(t, resp.Proto+" "+body, string(b))
					resp.Body.Close()
				}
			})
		}
		all.Wait()
	}
}

func TestTransport_UpgradesInHTTP1(t *testing.T) {
	s := newSite(t)
	addr := s.serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			tellsProto(w, r)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer c.Close()
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		line, _ := rw.ReadString('\n')
		io.WriteString(rw, line)
		rw.Flush()
	})})
	client := s.sslClient(t)
	resp, err := client.Get(local(addr, "/"))
	require.Contains(t, bodyOf(t, resp, err), "HTTP/2.0")
	req, err := http.NewRequest("GET", local(addr, "/"), nil)
	require.NoError(t, err)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err = client.Transport.RoundTrip(req) // Client.Timeout hides the Writer
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	rw := resp.Body.(io.ReadWriteCloser)
	defer rw.Close()
	_, err = io.WriteString(rw, "hello\n")
	require.NoError(t, err)
	line, err := bufio.NewReader(rw).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", line)
}

func TestTransport_TrailersAndContinue(t *testing.T) {
	for _, prepare := range []func(*http.Server) *http.Server{func(srv *http.Server) *http.Server { return srv }, noHTTP2} {
		s := newSite(t)
		addr := s.serve(t, prepare(&http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			n, _ := io.Copy(w, r.Body)
			w.Header().Set("X-Sum", fmt.Sprint(n, r.Trailer.Get("X-Client")))
		})}))
		req, err := http.NewRequest("POST", local(addr, "/"), io.MultiReader(strings.NewReader("12345")))
		require.NoError(t, err)
		req.Header.Set("Expect", "100-continue")
		req.Trailer = http.Header{"X-Client": {"!"}}
		continued := false
		trace := &httptrace.ClientTrace{Got100Continue: func() { continued = true }}
		resp, err := s.sslClient(t).Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
		require.Equal(t, "12345", bodyOf(t, resp, err))
		require.Equal(t, "5!", resp.Trailer.Get("X-Sum"))
		require.True(t, continued)
	}
}

func TestTransport_Fails(t *testing.T) {
	s, other := newSite(t), newSite(t)
	addr := s.serve(t, &http.Server{Handler: http.HandlerFunc(tellsProto)})
	_, err := other.sslClient(t).Get(local(addr, "/"))
	require.ErrorContains(t, err, "certificate verify failed")
	closed := make(chan struct{})
	req, err := http.NewRequest("POST", local(addr, "/"), closing{strings.NewReader("x"), closed})
	require.NoError(t, err)
	_, err = other.sslClient(t).Do(req)
	require.Error(t, err)
	receive(t, "the body to be closed", closed)
}

type closing struct {
	io.Reader
	closed chan struct{}
}

func (c closing) Close() error { close(c.closed); return nil }

// Package sslhttp serves and fetches HTTP/1.1 and HTTP/2 over libssl, with net/http alone.
package sslhttp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl"
)

const (
	h2    = "h2"
	http1 = "http/1.1"
)

// ListenAndServe listens on srv.Addr, ":https" if it is empty, and calls Serve.
func ListenAndServe(srv *http.Server, ctx *libssl.Context) error {
	addr := srv.Addr
	if addr == "" {
		addr = ":https"
	}
	l, err := libssl.Listen("tcp", addr, ctx)
	if err != nil {
		return err
	}
	return Serve(srv, l)
}

// Serve serves the connections of l, a *libssl.Listener, until it fails; after Shutdown or Close of srv the error is
// http.ErrServerClosed. Clients choose between HTTP/2 and HTTP/1.1 by ALPN, among those that srv.Protocols allows. Where no
// ALPN is set on the Context of the Listener, Serve sets it. Where "h2" is set and srv does not serve HTTP/2, it is an
// error.
//
// Everything is as with http.Server.ServeTLS: Request.TLS is filled, all timeouts of srv hold for both protocols, Shutdown
// waits for both, srv.ErrorLog is told of failed handshakes, and plain HTTP gets status 400. The handshake ends within the
// shortest of ReadTimeout, ReadHeaderTimeout, WriteTimeout and l.HandshakeTimeout. An OnHandshakeError of l is called too.
// ConnContext and ConnState of srv see the *libssl.Conn.
//
// Serve sets Protocols, Handler, ConnContext and ConnState of srv, and HandshakeTimeout and OnHandshakeError of l. So call
// it before either is used otherwise. To wrap the listener, wrap the one below: libssl.NewListener(wrapped, ctx).
func Serve(srv *http.Server, l net.Listener) error {
	tl, ok := l.(*libssl.Listener)
	if !ok {
		return fmt.Errorf("sslhttp: serve: a %T is no *libssl.Listener", l)
	}
	if err := prepare(srv, tl); err != nil {
		return errors.Join(err, l.Close())
	}
	return srv.Serve(&listener{Listener: tl})
}

func prepare(srv *http.Server, l *libssl.Listener) error {
	preparing.Lock()
	defer preparing.Unlock()
	p := protocols(srv)
	var offered []string
	if p.HTTP2() {
		offered = append(offered, h2)
	}
	if p.HTTP1() {
		offered = append(offered, http1)
	}
	if offered == nil {
		return errors.New("sslhttp: serve: the Protocols of the Server have neither HTTP1 nor HTTP2")
	}
	set, err := l.Context().ALPN()
	switch {
	case err != nil:
		return err
	case set == nil:
		if err := l.Context().SetALPN(offered...); err != nil {
			return err
		}
	case slices.Contains(set, h2) && !p.HTTP2():
		return errors.New("sslhttp: serve: the Context offers h2, which the Server does not serve")
	}
	if p.HTTP2() {
		serveHTTP2(srv, p)
	}
	for _, d := range []time.Duration{srv.ReadTimeout, srv.ReadHeaderTimeout, srv.WriteTimeout} {
		if d > 0 && (l.HandshakeTimeout > d || l.HandshakeTimeout == 0 && d < libssl.DefaultHandshakeTimeout) {
			l.HandshakeTimeout = d
		}
	}
	told := l.OnHandshakeError
	l.OnHandshakeError = func(remote net.Addr, err error) {
		handshakeFailed(srv, remote, err)
		if told != nil {
			told(remote, err)
		}
	}
	return nil
}

// preparing guards the fields of every Server and Listener while Serve sets them.
var preparing sync.Mutex

// protocols are those that net/http takes for srv.
func protocols(srv *http.Server) (p http.Protocols) {
	if srv.Protocols != nil {
		return *srv.Protocols
	}
	_, has := srv.TLSNextProto[h2]
	p.SetHTTP1(true)
	p.SetHTTP2(srv.TLSNextProto == nil || has)
	return p
}

// serveHTTP2 has net/http serve HTTP/2 on a connection that is no *tls.Conn. It does so where the connection begins with
// the preface of HTTP/2 and does not look like TLS; Request.TLS is then left to the handler.
func serveHTTP2(srv *http.Server, p http.Protocols) {
	if _, done := srv.Handler.(*handler); done {
		return
	}
	srv.Handler = &handler{next: srv.Handler, clear: p.UnencryptedHTTP2()}
	p.SetUnencryptedHTTP2(true)
	srv.Protocols = &p
	connContext, connState := srv.ConnContext, srv.ConnState
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if h, ok := c.(*h2Conn); ok {
			ctx = context.WithValue(ctx, stateKey{}, &h.state)
		}
		if connContext != nil {
			return connContext(ctx, inner(c))
		}
		return ctx
	}
	srv.ConnState = func(c net.Conn, s http.ConnState) {
		if h, ok := c.(*h2Conn); ok && s == http.StateIdle {
			h.ready()
		}
		if connState != nil {
			connState(inner(c), s)
		}
	}
}

type stateKey struct{} // key of the *tls.ConnectionState in a context

// handler fills Request.TLS of requests in HTTP/2.
type handler struct {
	next  http.Handler // nil: http.DefaultServeMux
	clear bool         // the user wants HTTP/2 without TLS on other listeners
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if state, ok := r.Context().Value(stateKey{}).(*tls.ConnectionState); ok {
		r.TLS = state
	} else if r.ProtoMajor == 2 && r.TLS == nil && !h.clear {
		w.WriteHeader(http.StatusHTTPVersionNotSupported)
		return
	}
	next := h.next
	if next == nil {
		next = http.DefaultServeMux
	}
	next.ServeHTTP(w, r)
}

// listener accepts for http.Server.
type listener struct {
	*libssl.Listener
	closed atomic.Bool
}

func (l *listener) Close() error {
	l.closed.Store(true)
	return l.Listener.Close()
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if state := c.(*libssl.Conn).ConnectionState(); state.NegotiatedProtocol == h2 {
		return &h2Conn{Conn: c, state: state, from: l}, nil
	}
	return c, nil
}

var preface = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

// h2Conn is a connection for which h2 was negotiated. It hides ConnectionState. It reads nothing but HTTP/2.
type h2Conn struct {
	net.Conn
	state tls.ConnectionState
	from  *listener
	begun int  // bytes of the preface that were read
	told  bool // that net/http serves it
}

// ready is called when net/http serves the connection and has read no request, and after each request. Shutdown closes the
// listener, and then says goodbye to the connections that are served by then, once. It would wait for the others for ever.
func (c *h2Conn) ready() {
	if !c.told && c.from.closed.Load() {
		c.Close()
	}
	c.told = true
}

func (c *h2Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if rest := preface[c.begun:]; len(rest) > 0 {
		seen := min(n, len(rest))
		if !bytes.Equal(p[:seen], rest[:seen]) {
			return 0, errors.New("sslhttp: h2 was negotiated, and the client speaks another protocol")
		}
		c.begun += seen
	}
	return n, err
}

func inner(c net.Conn) net.Conn {
	if h, ok := c.(*h2Conn); ok {
		return h.Conn
	}
	return c
}

// handshakeFailed answers and reports as net/http does.
func handshakeFailed(srv *http.Server, remote net.Addr, err error) {
	reason := err.Error()
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) && looksLikeHTTP(plain.RecordHeader) {
		plain.Conn.SetWriteDeadline(time.Now().Add(time.Second))
		// A failed write has no one to report to.
		_, _ = io.WriteString(plain.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		reason = "client sent an HTTP request to an HTTPS server"
	}
	logf := log.Printf
	if srv.ErrorLog != nil {
		logf = srv.ErrorLog.Printf
	}
	logf("http: TLS handshake error from %s: %s", remote, reason)
}

func looksLikeHTTP(header [5]byte) bool {
	switch string(header[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH":
		return true
	}
	return false
}

package sslhttp

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
)

// Transport returns an http.RoundTripper that fetches https URLs over connections of ctx, in HTTP/2 where the server
// agrees to it and in HTTP/1.1 otherwise. It calls UseClientCache on ctx, so that sessions are resumed, unless ctx keeps
// sessions already. Response.TLS is filled. A request that asks
// for an upgrade, such as a websocket, is made in HTTP/1.1. http URLs are fetched without TLS, in HTTP/1.1.
//
// It uses no proxy, because net/http would speak TLS with crypto/tls behind one. The ALPN of ctx is not used. It has the
// method CloseIdleConnections, as http.Client expects.
func Transport(ctx *libssl.Context) http.RoundTripper {
	_ = ctx.UseClientCache(maxSessions) // fails where ctx has a cache or a callback, or where RoundTrip will fail
	t := &transport{ctx: ctx, onlyHTTP1: map[string]bool{}}
	t.http1 = newTransport(t.dialHTTP1)
	t.http2 = newTransport(t.dialHTTP2)
	t.http1.Protocols.SetHTTP1(true)
	t.http2.Protocols.SetUnencryptedHTTP2(true) // on whatever connection the dialer returns
	return t
}

// Limits of dialling and of idle connections, as http.DefaultTransport has them.
const (
	dialTimeout = 30 * time.Second
	idleTimeout = 90 * time.Second
	maxIdle     = 100
	maxSessions = 1000
)

func newTransport(dialTLS func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		DialTLSContext: dialTLS, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, Protocols: new(http.Protocols),
		IdleConnTimeout: idleTimeout, MaxIdleConns: maxIdle, ExpectContinueTimeout: time.Second,
	}
}

// transport has one http.Transport for each protocol, because only the connection tells which one the server speaks. A
// connection that turns out to be for the other one is handed over.
type transport struct {
	ctx          *libssl.Context
	http1, http2 *http.Transport

	mu        sync.Mutex
	onlyHTTP1 map[string]bool // by host:port
}

// maxHosts bounds transport.onlyHTTP1. Dialling learns again.
const maxHosts = 10_000

// exchange is one request, as the dialers see it.
type exchange struct {
	upgrade bool

	mu   sync.Mutex
	conn *conn // dialled, for the other protocol
	over bool
}

type exchangeKey struct{}

// conn remembers its state, which Responses refer to.
type conn struct {
	*libssl.Conn
	state tls.ConnectionState
}

func (c *conn) ConnectionState() tls.ConnectionState { return c.state }

var (
	errHTTP1 = errors.New("sslhttp: the server speaks HTTP/1.1")
	errHTTP2 = errors.New("sslhttp: the server speaks HTTP/2")
)

func (t *transport) CloseIdleConnections() {
	t.http1.CloseIdleConnections()
	t.http2.CloseIdleConnections()
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil || req.URL.Scheme != "https" {
		return t.http1.RoundTrip(req)
	}
	e := &exchange{upgrade: isUpgrade(req)}
	defer e.end()
	var used net.Conn // by the last attempt
	ctx := context.WithValue(req.Context(), exchangeKey{}, e)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { used = i.Conn }})
	try := req.WithContext(ctx)
	var body *keptBody
	if req.Body != nil && req.Body != http.NoBody {
		body = &keptBody{ReadCloser: req.Body}
		try.Body = body
	}
	next := t.http2
	if e.upgrade || t.isHTTP1(req) {
		next = t.http1
	}
	resp, err := next.RoundTrip(try)
	for attempt := 0; attempt < 2; attempt++ { // a server that changes its mind is followed once
		if errors.Is(err, errHTTP1) {
			next = t.http1
		} else if errors.Is(err, errHTTP2) {
			next = t.http2
		} else {
			break
		}
		body.reopen()
		resp, err = next.RoundTrip(try)
	}
	body.settle()
	if resp != nil {
		resp.Request = req
		if c, ok := used.(*conn); ok && resp.TLS == nil {
			resp.TLS = &c.state
		}
	}
	return resp, err
}

// isUpgrade is the question that net/http asks too.
func isUpgrade(req *http.Request) bool {
	return req.Header.Get("Upgrade") != "" && strings.Contains(strings.ToLower(strings.Join(req.Header.Values("Connection"), ",")), "upgrade")
}

func hostPort(req *http.Request) string {
	if req.URL.Port() == "" {
		return net.JoinHostPort(req.URL.Hostname(), "443")
	}
	return net.JoinHostPort(req.URL.Hostname(), req.URL.Port())
}

func (t *transport) isHTTP1(req *http.Request) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.onlyHTTP1[hostPort(req)]
}

func (t *transport) learn(addr string, http1 bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !http1 {
		delete(t.onlyHTTP1, addr)
		return
	}
	if len(t.onlyHTTP1) >= maxHosts {
		clear(t.onlyHTTP1)
	}
	t.onlyHTTP1[addr] = true
}

func (t *transport) dialHTTP2(ctx context.Context, network, addr string) (net.Conn, error) {
	e := ctx.Value(exchangeKey{}).(*exchange)
	c, err := e.take(), error(nil)
	if c == nil {
		c, err = t.dial(ctx, network, addr, h2, http1)
	}
	if err != nil || c.state.NegotiatedProtocol == h2 {
		return connOrNil(c), err
	}
	t.learn(addr, true)
	e.give(c)
	return nil, errHTTP1
}

func (t *transport) dialHTTP1(ctx context.Context, network, addr string) (net.Conn, error) {
	e := ctx.Value(exchangeKey{}).(*exchange)
	if e.upgrade {
		c, err := t.dial(ctx, network, addr, http1)
		return connOrNil(c), err
	}
	c, err := e.take(), error(nil)
	if c == nil {
		c, err = t.dial(ctx, network, addr, h2, http1)
	}
	if err != nil || c.state.NegotiatedProtocol != h2 {
		return connOrNil(c), err
	}
	t.learn(addr, false)
	e.give(c)
	return nil, errHTTP2
}

func connOrNil(c *conn) net.Conn {
	if c == nil {
		return nil
	}
	return c
}

func (t *transport) dial(ctx context.Context, network, addr string, protos ...string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c, err := libssl.Client(nc, t.ctx, host)
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	if err = c.SetALPN(protos...); err == nil {
		err = c.HandshakeContext(ctx)
	}
	state := c.ConnectionState()
	if p := state.NegotiatedProtocol; err == nil && p != "" && !slices.Contains(protos, p) {
		err = errors.New("sslhttp: the server chose a protocol that was not offered")
	}
	if err != nil {
		c.Close() // the first error counts
		return nil, err
	}
	return &conn{c, state}, nil
}

// give leaves a connection to the other dialer.
func (e *exchange) give(c *conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over || e.conn != nil {
		go c.Close() // it may wait for the server
		return
	}
	e.conn = c
}

func (e *exchange) take() *conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.conn
	e.conn = nil
	return c
}

// end closes a connection that no dialer took, because the request was given another one.
func (e *exchange) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
	if e.conn != nil {
		go e.conn.Close()
	}
}

// keptBody stays open until it is known which protocol carries it: an http.Transport closes it when dialling fails.
type keptBody struct {
	io.ReadCloser
	mu      sync.Mutex
	closed  bool
	settled bool
}

func (b *keptBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.settled {
		return b.ReadCloser.Close()
	}
	return nil
}

func (b *keptBody) reopen() {
	if b != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.closed = false
	}
}

// settle passes a Close on, also one that comes later.
func (b *keptBody) settle() {
	if b != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.settled = true
		if b.closed {
			b.ReadCloser.Close()
		}
	}
}

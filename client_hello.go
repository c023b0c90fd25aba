package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"errors"
	"unsafe"

	"github.com/libssl-go/libssl/internal/hello"
)

// SetServerNameCallback sets the handler that picks another Context for the
// server name a client asks for: its certificates, its policy on client
// certificates and its id context then apply; nil stays. The session cache and
// its handlers remain those of c.
//
// It runs when the ClientHello has arrived, before any session is looked up, so
// that sessions of one host are refused under another unless both share an id
// context. It is called once for each handshake, also when that names no server
// (name is ""). A handler that blocks keeps its OS thread. Corresponds to
// SSL_CTX_set_client_hello_cb(3) with SSL_set_SSL_CTX(3).
//
// No client is served under a policy that was not chosen. A handler that panics, or
// names a Context that is for clients or cannot be used, ends the handshake with
// the alert internal_error. If the Context is closed the alert is
// unrecognized_name. A client that changes the name in its second ClientHello, after a
// HelloRetryRequest, is refused with illegal_parameter.
//
// A Context of an SSL_CTX that C made may be named too. If C has set a servername
// callback there, it also hears of the ClientHello, and has to refuse a changed
// name itself.
func (c *Context) SetServerNameCallback(f func(ssl *SSL, name string) *Context) {
	c.do("set server name callback", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		c.handlers.serverName.Store(ptrTo(f, f != nil))
		C.scb_ctx_set_asks(p, C.SCB_ASKS_NAME, cbool(f != nil))
		if f != nil {
			C.scb_ctx_hook_hello(p, 1)
		}
		return C.SCB_OK
	})
}

// scbGoClientHello is called for each ClientHello, again after each park, and
// again for the second one after a HelloRetryRequest.
//
//export scbGoClientHello
func scbGoClientHello(ctxHandle C.uint64_t, cc *C.scb_conn, ssl *C.SSL, ext *C.scb_hello) C.int {
	var connHandle C.uint64_t
	if cc != nil {
		connHandle = cc.handle
	}
	ctx, conn := find(ctxHandle, connHandle)
	if ctx == nil {
		return C.SCB_HELLO_UNSEEN
	}
	if cc != nil && conn == nil {
		conn = ctx.connOf(cc)
		conn.hs.byThread = true
	}
	conn.enterGo()
	defer conn.leaveGo()
	if conn != nil && conn.hs.parked.ended {
		chosen := conn.hs.parked.chosen
		conn.hs.parked = parked{}
		return ctx.goOn(conn, ssl, ext, chosen)
	}
	if conn != nil && conn.hs.byThread && (ctx.handlers.serverName.Load() != nil || ctx.handlers.certificate.Load() != nil) {
		cc.unseen = 1 // C has looked before the handler was set
		return C.SCB_HELLO_PARK
	}
	h := helloOf(ext)
	var chosen *Context
	var answer C.int
	if l := ctx.layer(); l != nil {
		chosen, answer = l.hello(ctx, conn, ssl, h)
	} else {
		chosen, answer = ctx.choose(conn, ssl, &h)
	}
	if answer < 0 {
		return answer
	}
	serving := ctx
	if chosen != nil {
		serving = chosen
	}
	lookUp := answer == C.SCB_HELLO_PARK
	if asked, ask := serving.chooses(conn, ssl, &h); asked {
		answer = ask
	} else if lookUp && conn != nil && conn.hs.byThread && !conn.tls.visit.waits() {
		conn.tls.visit.lookUp(context.Background(), nil)
		answer = C.SCB_HELLO_GO_ON
	}
	if answer != C.SCB_HELLO_GO_ON {
		if conn != nil {
			conn.hs.parked = parked{chosen: chosen, lookUp: lookUp}
		}
		return answer
	}
	return ctx.goOn(conn, ssl, ext, chosen)
}

// helloOf is what C shows of a ClientHello. Its slices are good for the call only.
func helloOf(ext *C.scb_hello) hello.Hello {
	bytes := func(p *C.uchar, n C.size_t) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(p)), int(n)) }
	return hello.Hello{
		Random:     bytes(ext.random, ext.random_len),
		SessionID:  bytes(ext.session_id, ext.session_id_len),
		ServerName: bytes(ext.server_name, ext.server_name_len),
		Versions:   bytes(ext.versions, ext.versions_len),
		PSK:        bytes(ext.psk, ext.psk_len),
		Ticket:     bytes(ext.ticket, ext.ticket_len),
		TLS13:      ext.tls13 != 0,
		Tickets:    ext.tickets != 0,
		First:      ext.first != 0,
		Judged:     ext.judged != 0,
	}
}

// parked is what a handshake waits for between two calls of the ClientHello hook, besides a certificate callback.
type parked struct {
	chosen *Context // selected by the server name, nil to stay
	lookUp bool     // the client offers sessions that have to be looked up
	ended  bool     // the hook sees the ClientHello again
}

// goOn lets the handshake go on with what was chosen.
func (c *Context) goOn(conn *Conn, ssl *C.SSL, ext *C.scb_hello, chosen *Context) C.int {
	answer := c.obey(ssl, ext, chosen)
	if answer != C.SCB_HELLO_GO_ON || conn == nil || ext.judged != 0 || conn.hs.choice == nil {
		return answer
	}
	if chosen == nil {
		chosen = c
	}
	return conn.present(ssl, chosen)
}

// choose asks the server-name handler for the Context that should serve, nil to
// stay. The answer is C's: to go on, or an alert.
func (c *Context) choose(conn *Conn, ssl *C.SSL, h *hello.Hello) (chosen *Context, answer C.int) {
	if h.Judged { // by the handshake's first ClientHello
		return currentContext(ssl), C.SCB_HELLO_GO_ON
	}
	f := c.handlers.serverName.Load()
	if f == nil {
		return nil, C.SCB_HELLO_GO_ON
	}
	v := &SSL{p: ssl, conn: conn, ctx: c}
	conn.mayBlock()
	chosen, returned := c.callServerName(*f, v, h.Name())
	v.dead.Store(true)
	if !returned {
		return nil, -C.SSL_AD_INTERNAL_ERROR
	}
	return chosen, C.SCB_HELLO_GO_ON
}

func (c *Context) callServerName(f func(*SSL, string) *Context, v *SSL, name string) (chosen *Context, returned bool) {
	defer c.recoverHandler("servername", &returned, func() { v.dead.Store(true) })
	chosen = f(v, name)
	returned = true
	return chosen, returned
}

// obey makes chosen's certificates, client policy and id context the
// connection's, and answers C. It waits for the hook's last call: the hook that is
// called next is the new context's (SEMANTICS F6.5).
func (c *Context) obey(ssl *C.SSL, ext *C.scb_hello, chosen *Context) C.int {
	switch {
	case ext.judged != 0:
		return C.SCB_HELLO_GO_ON // the first ClientHello has switched
	case chosen != nil && chosen != c:
	case ext.switched != 0 && c.handlers.serverName.Load() != nil:
		chosen = c // SSL_clear has left the SSL where its last connection was
	default:
		return C.SCB_HELLO_GO_ON
	}
	err := chosen.takeOver(ssl)
	if err == nil {
		return C.SCB_HELLO_GO_ON
	}
	c.reportMisuse("servername", err)
	if errors.Is(err, ErrClosed) {
		return -C.SSL_AD_UNRECOGNIZED_NAME
	}
	return -C.SSL_AD_INTERNAL_ERROR
}

// takeOver switches an SSL of another Context to c.
func (c *Context) takeOver(ssl *C.SSL) error {
	if c.made && c.role == ClientRole {
		return unsupported("a client's Context for a server name")
	}
	p, err := c.acquire()
	if err != nil {
		return err
	}
	defer c.release()
	if _, err := c.sessionIDContext(); err != nil { // computes it
		return err
	}
	c.settings.mu.RLock()
	defer c.settings.mu.RUnlock()
	sid := c.id.get()
	if C.scb_ssl_switch(ssl, p, bytesPtr(sid), C.uint(len(sid))) != C.SCB_OK {
		return &Error{Op: "switch"}
	}
	return nil
}

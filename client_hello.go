package libssl

// #include "bridge.h"
import "C"

import (
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
// context. It is called once per ClientHello, also when that names no server
// (name is ""). A handler that blocks keeps its OS thread. Corresponds to SSL_CTX_set_client_hello_cb(3) with SSL_set_SSL_CTX(3).
func (c *Context) SetServerNameCallback(f func(ssl *SSL, name string) *Context) {
	c.do("set server name callback", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		c.handlers.serverName.Store(ptrTo(f, f != nil))
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
func scbGoClientHello(ctxHandle, connHandle C.uint64_t, ssl *C.SSL, ext *C.scb_hello) C.int {
	ctx, conn := find(ctxHandle, connHandle)
	if ctx == nil {
		return C.SCB_HELLO_GO_ON
	}
	if conn != nil && conn.tls.visit != nil {
		if chosen, again := conn.tls.visit.parkedFor(); again {
			ctx.switchTo(chosen, ssl)
			return C.SCB_HELLO_GO_ON
		}
	}
	bytes := func(p *C.uchar, n C.size_t) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(p)), int(n)) }
	h := hello.Hello{
		Random:     bytes(ext.random, ext.random_len),
		SessionID:  bytes(ext.session_id, ext.session_id_len),
		ServerName: bytes(ext.server_name, ext.server_name_len),
		Versions:   bytes(ext.versions, ext.versions_len),
		PSK:        bytes(ext.psk, ext.psk_len),
		Ticket:     bytes(ext.ticket, ext.ticket_len),
		TLS13:      ext.tls13 != 0,
		Tickets:    ext.tickets != 0,
		First:      ext.first != 0,
	}
	var chosen *Context
	if l := ctx.layer(); l != nil {
		var park bool
		if chosen, park = l.hello(ctx, conn, ssl, h); park {
			return C.SCB_HELLO_PARK
		}
	} else {
		chosen = ctx.choose(conn, ssl, &h)
	}
	// A switch waits for the hook's last call: the hook that is called next is
	// the new context's (SEMANTICS F6.5).
	ctx.switchTo(chosen, ssl)
	return C.SCB_HELLO_GO_ON
}

// choose asks the server-name handler for the Context that should serve, nil to
// stay.
func (c *Context) choose(conn *Conn, ssl *C.SSL, h *hello.Hello) (chosen *Context) {
	f := c.handlers.serverName.Load()
	if f == nil {
		return nil
	}
	v := &SSL{p: ssl, conn: conn, ctx: c}
	conn.enterHandler()
	chosen = c.callServerName(*f, v, h.Name())
	conn.leaveHandler()
	v.dead.Store(true)
	return chosen
}

func (c *Context) callServerName(f func(*SSL, string) *Context, v *SSL, name string) (chosen *Context) {
	returned := false
	defer c.recoverHandler("servername", &returned, func() { v.dead.Store(true) })
	chosen = f(v, name)
	returned = true
	return chosen
}

// switchTo makes chosen's certificates, client policy and id context the
// connection's.
func (c *Context) switchTo(chosen *Context, ssl *C.SSL) {
	if chosen == nil || chosen == c {
		return
	}
	p, err := chosen.acquire()
	if err != nil {
		c.reportMisuse("servername", err)
		return
	}
	defer chosen.release()
	sid, err := chosen.sessionIDContext()
	if err != nil {
		c.reportMisuse("servername", err)
		return
	}
	C.scb_ssl_switch(ssl, p)
	C.scb_ssl_set_id_context(ssl, bytesPtr(sid), C.uint(len(sid)))
}

package libssl

// #include "bridge.h"
import "C"

import (
	"runtime/debug"

	"github.com/libssl-go/libssl/cgo"
)

func init() {
	if C.scb_init() != C.SCB_OK || C.scb_tickets_init() != C.SCB_OK || C.scb_name_init() != C.SCB_OK || C.scb_origin_init() != C.SCB_OK ||
		C.scb_attached_init() != C.SCB_OK || C.scb_certs_init() != C.SCB_OK || C.scb_crls_init() != C.SCB_OK ||
		C.scb_libctx_init() != C.SCB_OK {
		panic("libssl: OpenSSL has no ex_data index left")
	}
}

// find returns what the handles of a callback stand for. conn is nil for an SSL
// that C made. An unknown handle is a callback without a handler.
func find(ctxHandle, connHandle C.uint64_t) (*Context, *Conn) {
	if connHandle != 0 {
		if conn := conns.Get(cgo.Handle(connHandle)); conn != nil {
			return conn.ctx, conn
		}
	}
	if b := contexts.Get(cgo.Handle(ctxHandle)); b != nil {
		return b.context(), nil
	}
	return nil, nil
}

// recoverHandler is deferred around handlers, which run on the goroutine that called
// into C, with C's frames below. A panic is recovered here: unwinding them
// would leave OpenSSL half done. A Goexit cannot be stopped and does leave it
// so, for good; undo does what C would have done after the call.
func (c *Context) recoverHandler(callback string, returned *bool, undo func()) {
	if *returned {
		return
	}
	value := recover()
	if value == nil {
		value = errGoexit
		defer C.scb_abandon() // after the report, which still comes from inside the handler
		if undo != nil {
			undo()
		}
	}
	c.callbackError(&CallbackError{Callback: callback, Value: value, Stack: debug.Stack()})
}

func (c *Context) reportMisuse(callback string, err error) {
	c.callbackError(&CallbackError{Callback: callback, Value: err})
}

func (c *Context) callbackError(e *CallbackError) {
	if c == nil { // a signer's, called for an SSL that C drives
		return
	}
	f := c.handlers.callbackError.Load()
	if f == nil {
		return
	}
	returned := false
	defer func() {
		// A reporter that panics can be reported to no one else.
		if recover() == nil && !returned {
			C.scb_abandon() // Goexit
		}
	}()
	(*f)(e)
	returned = true
}

// OnCallbackError sets the function that is told of handlers that panic or break
// a rule. It runs on the goroutine of the handler, where the handler was called
// from, and under the same rules.
func (c *Context) OnCallbackError(f func(*CallbackError)) {
	if f == nil {
		c.handlers.callbackError.Store(nil)
		return
	}
	c.handlers.callbackError.Store(&f)
}

// currentContext is the one an SNI switch left the SSL with.
func currentContext(ssl *C.SSL) *Context {
	if b := contexts.Get(cgo.Handle(C.scb_ssl_current_handle(ssl))); b != nil {
		return b.context()
	}
	return nil
}

func ptrTo[F any](f F, set bool) *F {
	if !set {
		return nil
	}
	return &f
}

func deref[F any](p *F) (f F) {
	if p != nil {
		f = *p
	}
	return f
}

package libssl

// #include "bridge.h"
import "C"

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/libssl-go/libssl/cgo"
	"github.com/libssl-go/libssl/internal/wire"
)

// verdict is what the function of SetVerifyConnection has said about the handshake, and why another handler has ended it.
type verdict struct {
	given bool // the function of SetVerifyConnection was asked
	by    decider
	err   error // nil if no handler has refused
}

// decider is whose error a verdict holds.
type decider uint8

const (
	byVerifier decider = iota // a function that OpenSSL has called
	bySigner
	byCertificateCallback
)

// SetVerifyConnection sets a function that decides about each connection after
// OpenSSL has verified it; nil takes it away. crypto/tls has it as
// Config.VerifyConnection. If it returns an error, Handshake returns an error that
// wraps it, and the peer gets the alert bad_certificate. A panic counts as an
// error, and OnCallbackError hears of it.
//
// It runs once in each full and each resumed handshake, on clients and servers,
// whatever SetVerify says. The state has the version, the cipher suite, the
// protocol of ALPN, the server name and the certificates; the handshake is not
// complete yet. No application data was handed up then, early data included. A
// client's early data leaves before it.
//
// After a server-name handler has chosen a Context, the function of that Context
// decides, or the one of the Context that the connection was made with where it
// has none.
//
// Locks and threads: f runs under the lock of its connection. Its I/O methods
// answer ErrReentrant there. If f blocks it keeps its OS thread.
//
// TLS 1.3: a server that asked for a certificate and got none asks f when the
// handshake is over on the client; the connection then ends without an alert. f
// also runs for a certificate that is sent after the handshake. On a Context of
// AttachContext both hold for every server that asks for a certificate. An alert
// of a client is not encrypted, like other alerts of OpenSSL at that point, so
// some servers report it as an unexpected message.
func (c *Context) SetVerifyConnection(f func(tls.ConnectionState) error) error {
	p, err := c.acquire()
	if err != nil {
		return err
	}
	defer c.release()
	c.setters.Lock()
	defer c.setters.Unlock()
	c.handlers.verify.Store(ptrTo(f, f != nil))
	C.scb_ctx_set_asks(p, C.SCB_ASKS_VERIFY, cbool(f != nil))
	if f != nil && c.made && c.role == ServerRole {
		C.scb_ctx_hook_verify(p)
	}
	return nil
}

// verifier is the function that decides about c, nil if there is none. The engine is locked.
func (c *Conn) verifier() (f func(tls.ConnectionState) error) {
	if !c.client {
		if chosen := currentContext(c.tls.ssl.ssl); chosen != nil {
			f = deref(chosen.handlers.verify.Load())
		}
	}
	if f == nil {
		f = deref(c.ctx.handlers.verify.Load())
	}
	return f
}

// callVerifier runs f inside a step, or as if in one.
func (c *Conn) callVerifier(f func(tls.ConnectionState) error) (err error) {
	returned := false
	err = errVerifier // of a panic
	defer c.ctx.recoverHandler("verifyconnection", &returned, nil)
	said := f(c.ConnectionState())
	returned = true
	if said != nil {
		return &handlerError{fmt.Errorf("libssl: verify connection: %w", said)}
	}
	return nil
}

var errVerifier error = &handlerError{errors.New("libssl: verify connection: the function panicked")}

// judge asks the function of SetVerifyConnection once the handshake is settled, before the output of the step is sent. An
// alert takes the place of the output of a handshake that it refuses.
func (c *Conn) judge(s stepped) error {
	if s.err != nil || (!s.output && s.code != C.SSL_ERROR_NONE) {
		return nil
	}
	e := &c.tls
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ssl == nil {
		return ErrClosed
	}
	if e.verdict.given || C.scb_conn_settled(e.ssl) == 0 {
		return nil
	}
	f := c.verifier()
	e.verdict.given = true
	if f == nil {
		return nil
	}
	var left int
	err := errAbandoned
	e.lend(nil, &left, func(*C.SSL) { err = c.callVerifier(f) })
	if err != nil && e.ssl != nil {
		e.refuse()
	}
	return err
}

// refuse replaces the output by an alert. Nothing encrypted was sent yet, or OpenSSL's servers expect that an alert is not.
func (e *engine) refuse() {
	e.broken = true
	wire.Put(e.out)
	e.out = nil
	C.scb_conn_drop_spill(e.ssl)
	if C.scb_conn_takes_plain_alert(e.ssl) != 0 {
		e.out = wire.Get(wire.Small)
		e.out.Filled(copy(e.out.Room(), []byte{21, 3, 3, 0, 2, 2, C.SSL_AD_BAD_CERTIFICATE}))
	}
}

//export scbGoVerifyConnection
func scbGoVerifyConnection(connHandle C.uint64_t) C.int {
	conn := conns.Get(cgo.Handle(connHandle))
	if conn == nil {
		return 0
	}
	f := conn.verifier()
	if f == nil {
		return 1
	}
	conn.enterGo()
	conn.mayBlock()
	err := conn.callVerifier(f)
	conn.leaveGo()
	conn.tls.verdict = verdict{given: true, err: err}
	return cbool(err == nil)
}

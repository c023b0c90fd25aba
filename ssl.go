package libssl

// #include "bridge.h"
import "C"

import (
	"sync/atomic"
	"unsafe"
)

// SSL is the connection as a handler sees it: valid during the call, and dead
// afterwards, when it answers zero values.
//
// It corresponds to the SSL * of the C callbacks. Its methods are for the
// handler's own goroutine.
type SSL struct {
	p    *C.SSL
	dead atomic.Bool // for ever: a view is never used again
	conn *Conn
	ctx  *Context
}

// pointer is nil outside the call.
func (s *SSL) pointer() *C.SSL {
	if s == nil || s.dead.Load() {
		return nil
	}
	return s.p
}

// Conn is the connection, nil if C code made the SSL or the call is over. In a
// handler its I/O methods answer ErrReentrant; Close and Abort take effect when
// the handler has returned.
func (s *SSL) Conn() *Conn {
	if s.pointer() == nil {
		return nil
	}
	return s.conn
}

// Context is the one the callbacks belong to: the one the connection was made
// with, also after an SNI switch, when SSL_get_SSL_CTX(3) names another.
func (s *SSL) Context() *Context {
	if s.pointer() == nil {
		return nil
	}
	return s.ctx
}

// ServerName is the name the client asked for. Before OpenSSL has dealt with
// that extension, which is when get handlers run, it is empty. Corresponds to
// SSL_get_servername(3).
func (s *SSL) ServerName() string {
	p := s.pointer()
	if p == nil {
		return ""
	}
	return C.GoString(C.scb_ssl_servername(p))
}

// Version is the protocol version, as tls.VersionTLS13; it is settled when the
// session callbacks run. Corresponds to SSL_version(3).
func (s *SSL) Version() uint16 {
	p := s.pointer()
	if p == nil {
		return 0
	}
	return uint16(C.scb_ssl_version(p))
}

// Pointer is the SSL, for C code that the handler calls.
func (s *SSL) Pointer() unsafe.Pointer { return unsafe.Pointer(s.pointer()) }

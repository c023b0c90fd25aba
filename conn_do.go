package libssl

// #include "bridge.h"
import "C"

import (
	"errors"
	"runtime"
	"unsafe"

	"github.com/libssl-go/libssl/internal/wire"
)

// Do calls f with the connection's SSL, for what this package does not wrap. f
// runs on one thread, under the lock of the connection: its other calls wait
// meanwhile, a Read that waits for the network aside. This thread's error queue
// is empty when f begins, and is emptied after it. A panic in f comes out of Do.
//
// f may call what reads or sets the state of the SSL, and SSL_write, SSL_read,
// SSL_key_update, SSL_do_handshake and the like. None of these blocks. They read
// what has arrived; while another goroutine is in Read, or where the connection
// below is no plain socket, that may be nothing, and the answer is
// SSL_ERROR_WANT_READ. Their output is sent when f has returned, and Do returns
// the error of sending it. The first handshake is left to Handshake: f may run
// before it, to prepare the SSL.
//
// f must not free the SSL, give it another BIO or descriptor (SSL_set_bio,
// SSL_set_fd), clear it, use it from another thread, or keep it. Do and the I/O
// methods of this connection answer ErrReentrant inside f. Close and Abort take
// effect when f has returned.
//
// Do returns ErrClosed once the connection is closed, and f does not run.
func (c *Conn) Do(f func(ssl unsafe.Pointer)) (err error) {
	if f == nil {
		return errors.New("libssl: do: nil function")
	}
	if c.tls.inHandler() {
		return ErrReentrant
	}
	if c.end.begun() {
		return ErrClosed
	}
	defer c.closeIfPostponed()
	defer func() {
		if sent := c.end.closedError(c.flush()); err == nil {
			err = sent
		}
	}()
	return c.lend(f)
}

// lend runs f with the input that has arrived.
func (c *Conn) lend(f func(ssl unsafe.Pointer)) error {
	var in []byte
	if r := &c.read; r.mu.TryLock() { // or a reader waits, maybe for long
		defer r.mu.Unlock()
		if r.in.Pending() == nil {
			r.in.FillArrived(c.nc)
		}
		in = r.in.Pending()
	}
	e := &c.tls
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ssl == nil {
		return ErrClosed
	}
	left := len(in)
	defer func() {
		if in != nil {
			c.read.in.Taken(len(in) - left)
		}
	}()
	e.lend(in, &left, func(ssl *C.SSL) { f(unsafe.Pointer(ssl)) })
	return nil
}

// lend runs f with the SSL as if in a step. mu is held and ssl is not nil. left is how much of the input is left, also when f
// panics. The output is the engine's.
func (e *engine) lend(in []byte, left *int, f func(ssl *C.SSL)) {
	// The error queue belongs to the thread, and so does the note of the step.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var pins runtime.Pinner
	defer pins.Unpin()
	if len(in) > 0 {
		pins.Pin(&in[0])
	}
	conns.Set(e.handle, e.conn)
	e.handlers.Add(1)
	lent := C.scb_conn_lend(e.ssl, bytesPtr(in), C.size_t(len(in)))
	defer func() {
		if C.scb_conn_stepping(e.identity) == 0 { // a Goexit in a handler of what f called
			e.abandoned()
			return
		}
		*left = int(C.scb_conn_take_back(e.ssl, lent.outer))
		e.handlers.Add(-1)
		conns.Set(e.handle, nil)
		if e.ssl.spill_len > 0 {
			e.step(C.SCB_OP_DRAIN, nil, nil, wire.Small)
		}
	}()
	f(lent.ssl)
}

package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/libssl-go/libssl/cgo"
	"github.com/libssl-go/libssl/internal/wire"
)

// engine is a Conn's SSL. A step is one call into OpenSSL, under mu: it reads the input that it is given and appends
// ciphertext to out. Nothing blocks under mu but handlers.
type engine struct {
	mu       sync.Mutex
	ssl      *C.scb_conn  // nil once freed
	out      *wire.Buffer // ciphertext, in order
	visit    visit        // nil without a store, and after the handshake
	from     SessionID    // see Conn.ResumedFrom
	origin   SessionOrigin
	reused   bool         // what SSL_session_reused said after the last step of the handshake
	halved   bool         // close_notify was made
	broken   bool         // OpenSSL failed: nothing more can be written
	handlers atomic.Int32 // calls of Go inside a step; here it fills a gap
	verdict  verdict
	slot     slot // of the step under way

	conn     *Conn
	handle   cgo.Handle
	identity *C.scb_conn // never dereferenced, so it stays when ssl is freed
	cleanup  runtime.Cleanup
}

var conns cgo.Registry[Conn]

// enterGo and leaveGo surround everything that a step of c, which may be nil, calls in Go. All code of the user in between
// is a handler: also the writer of the key log, OnCallbackError, OnError and Logger.
func (c *Conn) enterGo() {
	if c != nil {
		c.tls.handlers.Add(1)
	}
}

func (c *Conn) leaveGo() {
	if c != nil {
		c.tls.handlers.Add(-1)
	}
}

// mayBlock is called before code that may block. The step gives its slot back.
func (c *Conn) mayBlock() {
	if c != nil {
		c.tls.giveSlot()
	}
}

func (e *engine) giveSlot() {
	e.slot.give()
	e.slot = nil
}

// inHandler reports whether the caller runs inside a step: its goroutine is bound to the thread of the step.
func (e *engine) inHandler() bool {
	return e.handlers.Load() > 0 && C.scb_conn_stepping(e.identity) != 0
}

// lock takes mu to read the SSL's state; unlock undoes it. In a handler the step holds mu already, and waits.
func (e *engine) lock() (taken bool) {
	if !e.mu.TryLock() {
		if e.inHandler() {
			return false
		}
		e.mu.Lock()
	}
	return true
}

func (e *engine) unlock(taken bool) {
	if taken {
		e.mu.Unlock()
	}
}

// stepped is the result of a step.
type stepped struct {
	code        C.int // SSL_get_error
	n           int   // plaintext moved
	taken       int   // ciphertext taken from the input
	output      bool  // there is output to send
	owing       bool  // no step was made: answers to the peer must be sent first
	noMoreEarly bool  // the end of early data was read
	tickets     bool  // a TLS 1.3 server's handshake is complete, and the output begins with its tickets
	err         error // ErrClosed, or OpenSSL's failure
}

// step makes one call into OpenSSL. mu is held and ssl is not nil. size is for a new output buffer.
func (e *engine) step(op C.int, p, in []byte, size wire.Size) (s stepped) {
	if e.out == nil {
		e.out = wire.Get(size)
	}
	scratch := e.out.Room()
	conns.Set(e.handle, e.conn)
	e.slot = takeSlot(e.conn.ctx)
	returned := false
	defer func() {
		if !returned {
			e.abandoned()
		}
	}()
	C.scb_step(e.ssl, op, bytesPtr(p), C.size_t(len(p)), bytesPtr(in), C.size_t(len(in)), bytesPtr(scratch), C.size_t(len(scratch)))
	returned = true
	e.giveSlot()
	conns.Set(e.handle, nil)
	e.out.Filled(int(e.ssl.out_len))
	if e.out.Empty() {
		wire.Put(e.out)
		e.out = nil
	}
	s = e.outcome(op)
	s.taken, s.output = len(in)-int(e.ssl.in_len), e.ssl.out_len > 0
	return s
}

// outcome is what the last step has come to.
func (e *engine) outcome(op C.int) stepped {
	s := stepped{code: e.ssl.err, n: int(e.ssl.n)}
	if s.code == C.SSL_ERROR_SSL || s.code == C.SSL_ERROR_SYSCALL {
		e.broken = true
		s.err = e.failure(opNames[op])
	}
	return s
}

var opNames = [...]string{
	C.SCB_OP_HANDSHAKE: "handshake", C.SCB_OP_READ_EARLY: "handshake", C.SCB_OP_WRITE_EARLY: "handshake",
	C.SCB_OP_READ: "read", C.SCB_OP_WRITE: "write", C.SCB_OP_SHUTDOWN: "shutdown", C.SCB_OP_DRAIN: "write",
}

// failure makes an error of what the last call into OpenSSL captured.
func (e *engine) failure(op string) error {
	errs := e.ssl.errs
	e.ssl.errs = nil
	err := takeError(op, int(e.ssl.err), errs)
	why := e.verdict.err
	switch {
	case why != nil && e.verdict.by == byCertificateCallback:
		return &causedError{why, err}
	case why != nil && e.verdict.by == bySigner:
		return &causedError{err, why}
	case e.ssl.refused == C.X509_V_OK:
		return err
	case why != nil:
		return why
	}
	return e.verifyError(err)
}

// causedError is OpenSSL's error and its cause, a handler's. The error whose text has both comes first.
type causedError struct {
	error
	cause error
}

func (e *causedError) Unwrap() []error { return []error{e.error, e.cause} }

// abandoned ends a connection whose handler called runtime.Goexit, which removed the step's frames. The SSL is half way
// through a call and stays in memory.
func (e *engine) abandoned() {
	e.ssl, e.out = nil, nil
	e.giveSlot()
	e.cleanup.Stop()
	conns.Delete(e.handle)
	e.handlers.Store(0)
	e.conn.end.how.Store(closeAbandoned)
	e.conn.nc.Close()
}

// handshake takes the handshake, or its early data, one step on.
func (e *engine) handshake(op C.int, p, in []byte) stepped {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ssl == nil {
		return stepped{err: ErrClosed}
	}
	s := e.step(op, p, in, wire.Small)
	e.ofHandshake(op, &s)
	return s
}

// ofHandshake adds what a step of the handshake has come to.
func (e *engine) ofHandshake(op C.int, s *stepped) {
	e.reused = e.ssl.reused != 0
	s.output = e.out != nil // of an earlier call too
	s.noMoreEarly = op == C.SCB_OP_READ_EARLY && e.ssl.early == C.SSL_READ_EARLY_DATA_FINISH
	s.tickets = op == C.SCB_OP_HANDSHAKE && s.code == C.SSL_ERROR_NONE && !e.conn.client && C.scb_ssl_version(e.ssl.ssl) == versionTLS13
}

// read decrypts what is in the input. Without input it answers SSL_ERROR_WANT_READ at once where OpenSSL has none either.
func (e *engine) read(p, in []byte) stepped {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ssl == nil {
		return stepped{err: ErrClosed}
	}
	if len(in) == 0 && e.ssl.starved != 0 {
		return stepped{code: C.SSL_ERROR_WANT_READ}
	}
	if e.ssl.owed > maxOwed {
		return stepped{owing: true}
	}
	spilt := e.ssl.spill_len // which a step moves to the output first
	s := e.step(C.SCB_OP_READ, p, in, wire.Small)
	e.ssl.owed += C.uint32_t(e.ssl.out_len + e.ssl.spill_len - spilt)
	return s
}

// maxOwed bounds how many bytes of answers wait to be sent while reading goes on. A peer can ask for one with each record,
// a KeyUpdate, and read none of them.
const maxOwed = 64 << 10

var (
	errHalfClosed = errors.New("libssl: write after CloseWrite")
	errBroken     = errors.New("libssl: write after a fatal error")
)

// write encrypts p. For that a renegotiation may need input.
func (e *engine) write(p, in []byte) stepped {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.ssl == nil:
		return stepped{err: ErrClosed}
	case e.halved:
		return stepped{err: errHalfClosed}
	case e.broken:
		return stepped{err: errBroken}
	}
	size := wire.Bulk
	if len(p) < wire.Small.Bytes()-512 {
		size = wire.Small
	} else if len(p) <= 16384 {
		size = wire.Record
	}
	return e.step(C.SCB_OP_WRITE, p, in, size)
}

// endOfStream is what a reader gets for the end of the stream without a close_notify.
func (e *engine) endOfStream() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ssl != nil && C.scb_ssl_options(e.ssl.ssl)&C.SSL_OP_IGNORE_UNEXPECTED_EOF != 0 {
		return io.EOF
	}
	return io.ErrUnexpectedEOF
}

// failed reports whether OpenSSL has failed, and with that has sent an alert or received one.
func (e *engine) failed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.broken
}

// closeNotify makes the alert, once. If that fails the connection ends all the same.
func (e *engine) closeNotify() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ssl == nil {
		return ErrClosed
	}
	if !e.halved && !e.broken {
		e.halved = true
		e.step(C.SCB_OP_SHUTDOWN, nil, nil, wire.Small)
	}
	return nil
}

// TakeOutput implements wire.Source.
func (e *engine) TakeOutput() *wire.Buffer {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.out
	e.out = nil
	if e.ssl != nil && e.ssl.spill_len > 0 {
		e.step(C.SCB_OP_DRAIN, nil, nil, wire.Bulk)
	} else if e.ssl != nil {
		e.ssl.owed = 0
	}
	return out
}

// HasOutput implements wire.Source.
func (e *engine) HasOutput() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.out != nil
}

// free ends the SSL and everything that would find it. abort is scb_conn_free's.
func (e *engine) free(abort C.int) {
	e.mu.Lock()
	ssl := e.ssl
	e.ssl = nil
	wire.Put(e.out)
	e.out = nil
	e.mu.Unlock()
	if ssl != nil { // abandoned otherwise
		e.cleanup.Stop()
		C.scb_conn_free(ssl, abort)
		conns.Delete(e.handle)
	}
}

// endVisit ends the layer's part of the handshake. The handshake is locked.
func (e *engine) endVisit(ctx context.Context, end ending) {
	taken := e.lock()
	v := e.visit
	e.visit = nil
	end.resumed = e.reused
	if v != nil && end.complete && end.resumed {
		e.from = v.resumedFrom()
	}
	if c := e.conn; end.complete && !c.client && c.ctx.layer() != nil && e.ssl != nil {
		e.origin = originOf(e.ssl.ssl)
	}
	e.unlock(taken)
	if v != nil {
		v.end(ctx, end)
	}
}

// resumedFrom is Conn.ResumedFrom.
func (e *engine) resumedFrom() SessionID {
	defer e.unlock(e.lock())
	if e.visit != nil && e.reused {
		return e.visit.resumedFrom()
	}
	return e.from
}

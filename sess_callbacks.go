package libssl

// #include "bridge.h"
import "C"

import (
	"crypto/rand"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"unsafe"
	"weak"

	"github.com/libssl-go/libssl/cgo"
	"github.com/libssl-go/libssl/store"
)

// NewSessionFunc is called with each session that was negotiated. Corresponds
// to the callback of SSL_CTX_sess_set_new_cb(3).
//
// Ownership: s is borrowed for the call. Returning true keeps it: s and its
// reference are then the handler's, to be released. Returning false gives the
// reference back and s is dead; it does not, whatever the manual page says,
// remove the session from the internal cache or keep it from being resumed.
//
// Locks and threads: no lock is held. On a Conn the handler runs before the
// bytes that carry the session's id or ticket leave, so the client cannot come
// back earlier than the handler returns. A handler that blocks keeps its OS
// thread.
//
// TLS 1.3: once per ticket, on a server while the ticket is built, on a client
// while the application reads. A server with tickets on gets sessions here that
// nobody will ask for; a TLS 1.2 server with tickets on gets none.
type NewSessionFunc func(ssl *SSL, s *Session) (keep bool)

// GetSessionFunc is asked for a session that a client offers and the internal
// cache lacks; nil is a miss. Corresponds to the callback of
// SSL_CTX_sess_set_get_cb(3). Servers only.
//
// Ownership: with Copy the returned Session stays the handler's, with Transfer
// it is spent. In both cases OpenSSL ends up with one reference of its own.
// Handing over a Session that is already spent or released, or one of C's
// making that has no cipher, is a miss and a CallbackError.
//
// Locks and threads: no lock is held. A handler that blocks keeps its OS
// thread; UseStore does not.
//
// TLS 1.3: id is the PSK identity, asked for only if tickets are stateful
// (OpNoTicket), and twice if the client is sent a HelloRetryRequest.
type GetSessionFunc func(ssl *SSL, id SessionID) (*Session, CopyFlag)

// RemoveSessionFunc is told of a session that OpenSSL gives up: evicted,
// expired, flushed, part of a broken connection, removed on request, or still
// cached when the context goes. Corresponds to the callback of
// SSL_CTX_sess_set_remove_cb(3).
//
// Ownership: s is borrowed for the call; Retain keeps it.
//
// Locks and threads: on most releases evictions, flushes and the end of the
// context call with the context's lock held, so every handshake of the context
// waits for the handler. Methods of the same Context that need that lock answer
// ErrReentrant; waiting for another goroutine that makes such a call is a
// deadlock. A handler that ends its goroutine (runtime.Goexit, a test's FailNow)
// leaves that lock held for ever.
type RemoveSessionFunc func(ctx *Context, s *Session)

// binding is what a handle of an SSL_CTX stands for. It does not keep a
// forgotten Context from being collected, although handlers usually refer to
// their Context.
type binding struct {
	ctx weak.Pointer[Context]
	// strong is set where the SSL_CTX may outlive the last use of the Context:
	// after Close, while connections made by C still run, and on contexts that C
	// made, whose handlers have to last as long as C's would.
	strong atomic.Pointer[Context]
}

func (b *binding) context() *Context {
	if c := b.strong.Load(); c != nil {
		return c
	}
	return b.ctx.Value()
}

var (
	contexts cgo.Registry[binding]
	conns    cgo.Registry[Conn]
)

func init() {
	if C.scb_init() != C.SCB_OK || C.scb_tickets_init() != C.SCB_OK || C.scb_attached_init() != C.SCB_OK {
		panic("libssl: OpenSSL has no ex_data index left")
	}
}

// lookup finds whom a callback is for. conn is nil for an SSL that C made. An
// unknown handle is a callback without a handler.
func lookup(h, ch C.uint64_t) (*Context, *Conn) {
	if ch != 0 {
		if conn := conns.Get(cgo.Handle(ch)); conn != nil {
			return conn.ctx, conn
		}
	}
	if b := contexts.Get(cgo.Handle(h)); b != nil {
		return b.context(), nil
	}
	return nil, nil
}

var errGoexit = errors.New("the handler called runtime.Goexit and ended OpenSSL's call half way")

// ended is deferred around handlers, which run on the goroutine that called
// into C, with C's frames below. A panic is recovered here: unwinding them
// would leave OpenSSL half done. A Goexit cannot be stopped and does leave it
// so, for good; undo is for what C would have done after the call.
func (c *Context) ended(callback string, returned *bool, undo func()) {
	if *returned {
		return
	}
	value := recover()
	if value == nil {
		value = errGoexit
		C.scb_abandon()
		if undo != nil {
			undo()
		}
	}
	c.callbackError(&CallbackError{Callback: callback, Value: value, Stack: debug.Stack()})
}

func (c *Context) misused(callback string, err error) {
	c.callbackError(&CallbackError{Callback: callback, Value: err})
}

func (c *Context) callbackError(e *CallbackError) {
	f := c.onCallbackError.Load()
	if f == nil {
		return
	}
	// Nobody is left to tell of a reporter that panics.
	defer func() { _ = recover() }()
	(*f)(e)
}

// OnCallbackError sets who is told of handlers that panic or break a rule. It
// is called on the goroutine of the handler, where the handler was called from,
// and under the same rules.
func (c *Context) OnCallbackError(f func(*CallbackError)) {
	if f == nil {
		c.onCallbackError.Store(nil)
		return
	}
	c.onCallbackError.Store(&f)
}

// call is what a handler gets: one allocation for both views.
type call struct {
	sess Session
	ssl  SSL
}

// end kills the views. It reports whether the session's reference, which came
// with the callback, has found an owner.
func (v *call) end(keep bool) (taken bool) {
	v.ssl.dead.Store(true)
	s := &v.sess
	s.mu.Lock()
	switch {
	case s.spent:
		s.p, taken = nil, true
	case keep:
		s.own(s.p)
		taken = true
	default:
		s.p = nil
	}
	s.mu.Unlock()
	return taken
}

// ---- new ----------------------------------------------------------------------

//export scbGoSessNew
func scbGoSessNew(h, ch C.uint64_t, ssl *C.SSL, sess *C.SSL_SESSION) C.int {
	ctx, conn := lookup(h, ch)
	if ctx == nil {
		return 0
	}
	if sc := ctx.cache.Load(); sc != nil {
		sc.created(conn, ssl, sess)
		return 0
	}
	f := ctx.newSession.Load()
	if f == nil {
		return 0
	}
	v := &call{}
	v.ssl.p, v.ssl.conn, v.ssl.ctx = ssl, conn, ctx
	v.sess.p = sess
	conn.enterHandler()
	keep := callNew(*f, v)
	conn.leaveHandler()
	if v.end(keep) {
		return 1
	}
	return 0
}

func callNew(f NewSessionFunc, v *call) (keep bool) {
	returned := false
	defer v.ssl.ctx.ended("new", &returned, func() {
		p := v.sess.p
		if !v.end(false) {
			C.scb_session_free(p)
		}
	})
	keep = f(&v.ssl, &v.sess)
	returned = true
	return keep
}

// SetSessNewCallback sets the handler for new sessions; nil takes it away.
// Corresponds to SSL_CTX_sess_set_new_cb(3).
//
// It may be called while the Context serves: a handshake under way sees the old
// handler or the new one. On a server OpenSSL calls it only with CacheServer
// (the default) on, on a client only with CacheClient; not at all where peers'
// certificates are asked for and no id context is set. Refused, through
// OnCallbackError, on a Context with a store.
func (c *Context) SetSessNewCallback(f NewSessionFunc) {
	c.setHandler("new", C.SCB_SESS_NEW, f != nil, func() { c.newSession.Store(ptrTo(f, f != nil)) })
}

// SessNewCallback returns the handler, nil if there is none. One that C code
// installed comes back as a func that calls it. Corresponds to
// SSL_CTX_sess_get_new_cb(3).
//
// Ownership: when such a func returns true, the C function has taken the
// reference that came with the callback. What the calling handler returns no
// longer matters then, and its Session dies when it returns; to keep the
// session as well, Retain it.
func (c *Context) SessNewCallback() (f NewSessionFunc) {
	c.installed(C.SCB_SESS_NEW, func() { f = deref(c.newSession.Load()) }, func(fn unsafe.Pointer) {
		f = func(ssl *SSL, s *Session) (kept bool) {
			sp := ssl.pointer()
			if sp == nil {
				return false
			}
			// C gets the reference that came with the callback, as it would have,
			// or one of its own where that one has an owner.
			s.outside(func(p *C.SSL_SESSION, _ *C.SSL_CTX) (gone bool) {
				kept = C.scb_sess_call_new(fn, sp, p) != 0
				if !kept {
					return false
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.p == nil || s.owned || s.spent {
					return true
				}
				s.spent = true
				return false
			})
			return kept
		}
	})
	return f
}

// ---- get ----------------------------------------------------------------------

//export scbGoSessGet
func scbGoSessGet(h, ch C.uint64_t, ssl *C.SSL, id *C.uchar, n C.int) *C.SSL_SESSION {
	ctx, conn := lookup(h, ch)
	if ctx == nil {
		return nil
	}
	sid, err := store.IDFromBytes(unsafe.Slice((*byte)(unsafe.Pointer(id)), int(n)))
	if err != nil {
		return nil
	}
	if sc := ctx.cache.Load(); sc != nil {
		return sc.wanted(conn, ssl, sid, id, n)
	}
	f := ctx.getSession.Load()
	if f == nil {
		return nil
	}
	v := &SSL{p: ssl, conn: conn, ctx: ctx}
	conn.enterHandler()
	s, flag := callGet(*f, v, sid)
	conn.leaveHandler()
	v.dead.Store(true)
	if s == nil {
		return nil
	}
	p, err := s.handOver(flag)
	if err != nil {
		ctx.misused("get", err)
	}
	return p
}

func callGet(f GetSessionFunc, v *SSL, id SessionID) (s *Session, flag CopyFlag) {
	returned := false
	defer v.ctx.ended("get", &returned, func() { v.dead.Store(true) })
	s, flag = f(v, id)
	returned = true
	return s, flag
}

// handOver settles the flag while the wrapper is locked, so that no collector
// and no other goroutine can come between: OpenSSL gets exactly one reference.
func (s *Session) handOver(flag CopyFlag) (*C.SSL_SESSION, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.p == nil:
		return nil, ErrReleased
	case flag != Copy && flag != Transfer:
		return nil, fmt.Errorf("libssl: %w", badFlag(flag))
	case flag == Transfer && !s.owned:
		return nil, fmt.Errorf("%w: transfer of a borrowed session", ErrReleased)
	case C.scb_session_hand_over(s.p, cbool(flag == Copy)) == 0:
		return nil, errNoCipher
	case flag == Copy:
		return s.p, nil
	}
	return s.disown(), nil
}

var errNoCipher = errors.New("libssl: the session has no cipher and cannot be resumed")

func badFlag(f CopyFlag) error { return fmt.Errorf("copy flag %d is neither Copy nor Transfer", f) }

// SetSessGetCallback sets the handler that looks sessions up; nil takes it
// away. Corresponds to SSL_CTX_sess_set_get_cb(3). It may be called while the
// Context serves. Refused, through OnCallbackError, on a Context with a store.
func (c *Context) SetSessGetCallback(f GetSessionFunc) {
	c.setHandler("get", C.SCB_SESS_GET, f != nil, func() { c.getSession.Store(ptrTo(f, f != nil)) })
}

// SessGetCallback returns the handler, nil if there is none. One that C code
// installed comes back as a func that calls it. Corresponds to
// SSL_CTX_sess_get_get_cb(3).
//
// Ownership: the Session that such a func returns is the caller's, and it says
// Transfer, whatever C did with its flag: hand it on or release it.
func (c *Context) SessGetCallback() (f GetSessionFunc) {
	c.installed(C.SCB_SESS_GET, func() { f = deref(c.getSession.Load()) }, func(fn unsafe.Pointer) {
		f = func(ssl *SSL, id SessionID) (*Session, CopyFlag) {
			sp := ssl.pointer()
			if sp == nil {
				return nil, Copy
			}
			b := id.Bytes()
			p := C.scb_sess_call_get(fn, sp, bytesPtr(b), C.int(len(b)))
			if p == nil {
				return nil, Copy
			}
			return newSession(p), Transfer
		}
	})
	return f
}

// ---- remove -------------------------------------------------------------------

//export scbGoSessRemove
func scbGoSessRemove(h, ch C.uint64_t, sslCtx *C.SSL_CTX, sess *C.SSL_SESSION) {
	ctx, _ := lookup(h, 0)
	if ctx == nil {
		return
	}
	if sc := ctx.cache.Load(); sc != nil {
		i := C.scb_session_get_info(sess)
		sc.removed(idOf(i.id, i.id_len))
		return
	}
	f := ctx.removeSession.Load()
	if f == nil {
		return
	}
	// There is no SSL, but a connection whose step this is must not be waited
	// for.
	conn := conns.Get(cgo.Handle(ch))
	s := &Session{p: sess, ctx: sslCtx}
	conn.enterHandler()
	callRemove(*f, ctx, s)
	conn.leaveHandler()
	s.mu.Lock()
	s.p, s.ctx = nil, nil
	s.mu.Unlock()
}

func callRemove(f RemoveSessionFunc, ctx *Context, s *Session) {
	returned := false
	defer ctx.ended("remove", &returned, func() {
		s.mu.Lock()
		s.p, s.ctx = nil, nil
		s.mu.Unlock()
	})
	f(ctx, s)
	returned = true
}

// SetSessRemoveCallback sets the handler that hears of sessions given up; nil
// takes it away. Corresponds to SSL_CTX_sess_set_remove_cb(3). It may be called
// while the Context serves. Refused, through OnCallbackError, on a Context with
// a store.
//
// TLS 1.3: setting one makes a server with the internal cache on fill it with
// sessions of stateless tickets, which can never be looked up.
func (c *Context) SetSessRemoveCallback(f RemoveSessionFunc) {
	c.setHandler("remove", C.SCB_SESS_REMOVE, f != nil, func() { c.removeSession.Store(ptrTo(f, f != nil)) })
}

// SessRemoveCallback returns the handler, nil if there is none. One that C code
// installed comes back as a func that calls it. Corresponds to
// SSL_CTX_sess_get_remove_cb(3).
func (c *Context) SessRemoveCallback() (f RemoveSessionFunc) {
	c.installed(C.SCB_SESS_REMOVE, func() { f = deref(c.removeSession.Load()) }, func(fn unsafe.Pointer) {
		f = func(ctx *Context, s *Session) {
			s.outside(func(p *C.SSL_SESSION, cp *C.SSL_CTX) bool {
				if cp == nil {
					var err error
					if cp, err = ctx.acquire(); err != nil {
						return false
					}
					defer ctx.release()
				}
				C.scb_sess_call_remove(fn, cp, p)
				return false
			})
		}
	})
	return f
}

// outside runs f, which calls unknown code, on the live object: under a
// reference, not under the lock. f says whether that reference has gone.
func (s *Session) outside(f func(p *C.SSL_SESSION, ctx *C.SSL_CTX) (gone bool)) {
	var p *C.SSL_SESSION
	var ctx *C.SSL_CTX
	s.with(func(live *C.SSL_SESSION) {
		C.scb_session_up_ref(live)
		p, ctx = live, s.ctx
	})
	if p != nil && !f(p, ctx) {
		C.scb_session_free(p)
	}
}

// ---- in and out -----------------------------------------------------------------

var errHasStore = errors.New("libssl: the Context has a store: its session callbacks are taken")

// setHandler swaps the Go side and puts the trampoline in or out. Swapping
// first when a handler comes, and last when it goes, would let a handshake see
// a trampoline without a handler; that is harmless, it answers as C does
// without a callback.
func (c *Context) setHandler(name string, which C.int, on bool, swap func()) {
	if err := c.trySetHandler(which, on, swap); err != nil {
		c.misused(name, err)
	}
}

func (c *Context) trySetHandler(which C.int, on bool, swap func()) error {
	c.setters.Lock()
	defer c.setters.Unlock()
	if c.cache.Load() != nil {
		return errHasStore
	}
	p, err := c.acquire()
	if err != nil {
		return err
	}
	defer c.release()
	swap()
	C.scb_set_callback(p, which, cbool(on))
	return nil
}

// installed runs ours where the C pointer is our trampoline, or foreign with
// somebody else's function.
func (c *Context) installed(which C.int, ours func(), foreign func(fn unsafe.Pointer)) {
	p, err := c.acquire()
	if err != nil {
		return
	}
	defer c.release()
	var fn unsafe.Pointer
	switch C.scb_installed(p, which, &fn) {
	case C.SCB_INSTALLED_OURS:
		ours()
	case C.SCB_INSTALLED_FOREIGN:
		foreign(fn)
	}
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

func cbool(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

//export scbGoCtxFree
func scbGoCtxFree(h C.uint64_t) {
	contexts.Delete(cgo.Handle(h))
}

// ---- the other callbacks ----------------------------------------------------------

//export scbGoKeyLog
func scbGoKeyLog(h C.uint64_t, line *C.char) {
	ctx, _ := lookup(h, 0)
	if ctx == nil {
		return
	}
	if w := ctx.keyLog.Load(); w != nil {
		returned := false
		defer ctx.ended("keylog", &returned, nil)
		w.writeLine(C.GoString(line))
		returned = true
	}
}

//export scbGoGenerateID
func scbGoGenerateID(h C.uint64_t, id *C.uchar, n *C.uint) C.int {
	// OpenSSL asks for 32 bytes; a shorter id could not be looked up in TLS 1.3
	// (SEMANTICS F2.6).
	b := unsafe.Slice((*byte)(unsafe.Pointer(id)), int(*n))
	rand.Read(b)
	// An SSL keeps the generator it was made with, and the store may have gone
	// since: that must not fail its handshake.
	if ctx, _ := lookup(h, 0); ctx != nil {
		if sc := ctx.cache.Load(); sc != nil {
			sc.tag(b)
		}
	}
	return 1
}

// serverName asks the handler which Context should serve name.
func (c *Context) serverName(conn *Conn, ssl *C.SSL, name string) (chosen *Context) {
	f := c.selectContext.Load()
	if f == nil {
		return nil
	}
	v := &SSL{p: ssl, conn: conn, ctx: c}
	conn.enterHandler()
	chosen = c.callServerName(*f, v, name)
	conn.leaveHandler()
	v.dead.Store(true)
	return chosen
}

func (c *Context) callServerName(f func(*SSL, string) *Context, v *SSL, name string) (chosen *Context) {
	returned := false
	defer c.ended("servername", &returned, func() { v.dead.Store(true) })
	chosen = f(v, name)
	returned = true
	return chosen
}

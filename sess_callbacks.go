package libssl

// #include "bridge.h"
import "C"

import (
	"unsafe"

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
// no client will ask for; a TLS 1.2 server with tickets on gets none.
type NewSessionFunc func(ssl *SSL, s *Session) (keep bool)

// GetSessionFunc is asked for a session that a client offers and the internal
// cache lacks; nil is a miss. Corresponds to the callback of
// SSL_CTX_sess_set_get_cb(3). Servers only.
//
// Ownership: with Copy the returned Session stays the handler's, with Transfer
// it is spent. In both cases OpenSSL ends up with one reference of its own, to a
// copy where the cache of another SSL_CTX may hold the session: see AddSession.
// Handing over a Session that is already spent or released, or one that C code
// made without a cipher, is a miss and a CallbackError.
//
// Locks and threads: no lock is held. A handler that blocks keeps its OS
// thread; UseStore does not.
//
// TLS 1.3: id is the PSK identity, asked for only if tickets are stateful
// (OpNoTicket), and twice if the client is sent a HelloRetryRequest.
//
// A session that was made under another server name is a miss, unless a certificate
// of this server is good for both names.
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
func scbGoSessNew(ctxHandle, connHandle C.uint64_t, ssl *C.SSL, sess *C.SSL_SESSION) C.int {
	ctx, conn := find(ctxHandle, connHandle)
	if ctx == nil {
		return 0
	}
	conn.enterGo()
	defer conn.leaveGo()
	if l := ctx.layer(); l != nil {
		l.created(conn, ssl, sess)
		return 0
	}
	f := ctx.handlers.newSession.Load()
	if f == nil {
		return 0
	}
	v := &call{}
	v.ssl.p, v.ssl.conn, v.ssl.ctx = ssl, conn, ctx
	v.sess.p, v.sess.home.ctx = sess, cgo.Handle(ctxHandle)
	if conn != nil && conn.offers != nil {
		v.sess.vetted = conn.offers.vetted
	}
	conn.mayBlock()
	keep := callNew(*f, v)
	if v.end(keep) {
		return 1
	}
	return 0
}

func callNew(f NewSessionFunc, v *call) (keep bool) {
	returned := false
	defer v.ssl.ctx.recoverHandler("new", &returned, func() {
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
	c.setHandler("new", C.SCB_SESS_NEW, f != nil, func() { c.handlers.newSession.Store(ptrTo(f, f != nil)) })
}

// SessNewCallback returns the handler, nil if there is none. One that C code
// installed comes back as a func that calls it. Corresponds to
// SSL_CTX_sess_get_new_cb(3).
//
// Ownership: when such a func returns true, the C function has taken the
// reference that came with the callback. The result of the calling handler no
// longer matters then, and its Session dies when it returns; to keep the session
// as well, Retain it.
func (c *Context) SessNewCallback() (f NewSessionFunc) {
	c.installed(C.SCB_SESS_NEW, func() { f = deref(c.handlers.newSession.Load()) }, func(fn unsafe.Pointer) {
		f = func(ssl *SSL, s *Session) (kept bool) {
			sp := ssl.pointer()
			if sp == nil {
				return false
			}
			// C gets the reference that came with the callback, as it would have,
			// or one of its own where that one has an owner.
			s.withRef(func(p *C.SSL_SESSION, _ *C.SSL_CTX) (gone bool) {
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
func scbGoSessGet(ctxHandle, connHandle C.uint64_t, ssl *C.SSL, id *C.uchar, n C.int) *C.SSL_SESSION {
	ctx, conn := find(ctxHandle, connHandle)
	if ctx == nil {
		return nil
	}
	conn.enterGo()
	defer conn.leaveGo()
	if l := ctx.layer(); l != nil {
		return l.wanted(conn, ssl, id, n)
	}
	sid, err := store.IDFromBytes(unsafe.Slice((*byte)(unsafe.Pointer(id)), int(n)))
	if err != nil {
		return nil
	}
	f := ctx.handlers.getSession.Load()
	if f == nil {
		return nil
	}
	v := &SSL{p: ssl, conn: conn, ctx: ctx}
	conn.mayBlock()
	s, flag := callGet(*f, v, sid)
	v.dead.Store(true)
	if s == nil {
		return nil
	}
	p, err := s.handOver(flag, cgo.Handle(ctxHandle))
	if err != nil {
		ctx.reportMisuse("get", err)
	}
	if p != nil && C.scb_sess_resumes(ssl, p) == 0 {
		C.scb_session_free(p)
		return nil
	}
	return p
}

func callGet(f GetSessionFunc, v *SSL, id SessionID) (s *Session, flag CopyFlag) {
	returned := false
	defer v.ctx.recoverHandler("get", &returned, func() { v.dead.Store(true) })
	s, flag = f(v, id)
	returned = true
	return s, flag
}

// SetSessGetCallback sets the handler that looks sessions up; nil takes it
// away. Corresponds to SSL_CTX_sess_set_get_cb(3). It may be called while the
// Context serves. Refused, through OnCallbackError, on a Context with a store.
func (c *Context) SetSessGetCallback(f GetSessionFunc) {
	c.setHandler("get", C.SCB_SESS_GET, f != nil, func() { c.handlers.getSession.Store(ptrTo(f, f != nil)) })
}

// SessGetCallback returns the handler, nil if there is none. One that C code
// installed comes back as a func that calls it. Corresponds to
// SSL_CTX_sess_get_get_cb(3).
//
// Ownership: the Session that such a func returns is the caller's, and it says
// Transfer, whatever C did with its flag: hand it on or release it.
func (c *Context) SessGetCallback() (f GetSessionFunc) {
	c.installed(C.SCB_SESS_GET, func() { f = deref(c.handlers.getSession.Load()) }, func(fn unsafe.Pointer) {
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
			return newSession(p, home{}), Transfer
		}
	})
	return f
}

// ---- remove -------------------------------------------------------------------

//export scbGoSessRemove
func scbGoSessRemove(ctxHandle, connHandle C.uint64_t, sslCtx *C.SSL_CTX, sess *C.SSL_SESSION) {
	ctx, _ := find(ctxHandle, 0)
	if ctx == nil {
		return
	}
	if l := ctx.layer(); l != nil {
		i := C.scb_session_get_info(sess)
		l.removed(idOf(i.id, i.id_len))
		return
	}
	f := ctx.handlers.removeSession.Load()
	if f == nil {
		return
	}
	// There is no SSL, but a connection whose step this is must not be waited
	// for.
	conn := conns.Get(cgo.Handle(connHandle))
	conn.enterGo()
	defer conn.leaveGo()
	conn.mayBlock()
	stepSlots.beginRemoval(ctx)
	defer stepSlots.endRemoval(ctx)
	s := &Session{p: sess, ctx: sslCtx, home: home{ctx: cgo.Handle(ctxHandle)}}
	callRemove(*f, ctx, s)
	s.mu.Lock()
	s.p, s.ctx = nil, nil
	s.mu.Unlock()
}

func callRemove(f RemoveSessionFunc, ctx *Context, s *Session) {
	returned := false
	defer ctx.recoverHandler("remove", &returned, func() {
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
	c.setHandler("remove", C.SCB_SESS_REMOVE, f != nil, func() { c.handlers.removeSession.Store(ptrTo(f, f != nil)) })
}

// SessRemoveCallback returns the handler, nil if there is none. One that C code
// installed comes back as a func that calls it. Corresponds to
// SSL_CTX_sess_get_remove_cb(3).
func (c *Context) SessRemoveCallback() (f RemoveSessionFunc) {
	c.installed(C.SCB_SESS_REMOVE, func() { f = deref(c.handlers.removeSession.Load()) }, func(fn unsafe.Pointer) {
		f = func(ctx *Context, s *Session) {
			s.withRef(func(p *C.SSL_SESSION, cp *C.SSL_CTX) bool {
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

// ---- in and out -----------------------------------------------------------------

// setHandler swaps the Go closure and installs or removes the trampoline. A
// handshake may see the trampoline without a closure: it then answers as OpenSSL
// does without a callback.
func (c *Context) setHandler(name string, which C.int, on bool, swap func()) {
	if err := c.trySetHandler(which, on, swap); err != nil {
		c.reportMisuse(name, err)
	}
}

func (c *Context) trySetHandler(which C.int, on bool, swap func()) error {
	p, err := c.acquire() // before the lock: see Context
	if err != nil {
		return err
	}
	defer c.release()
	c.setters.Lock()
	defer c.setters.Unlock()
	if c.layer() != nil {
		return errHasStore
	}
	if which == C.SCB_SESS_NEW && c.resuming.cache.Load() != nil {
		return errHasClientCache
	}
	swap()
	h := &c.handlers
	any := h.newSession.Load() != nil || h.getSession.Load() != nil || h.removeSession.Load() != nil
	C.scb_ctx_set_asks(p, C.SCB_ASKS_SESSIONS, cbool(any))
	C.scb_set_callback(p, which, cbool(on))
	return nil
}

// installed runs ours where the C pointer is our trampoline, or foreign with the
// function that C code installed.
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

package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
	"weak"

	"github.com/libssl-go/libssl/cgo"
	"github.com/libssl-go/libssl/ticket"
)

// Context owns one reference to an SSL_CTX: the certificates, the policy, the
// session cache and the handlers of the connections made with it.
//
// Ownership: close it when no more connections are to be made; existing
// connections keep the SSL_CTX alive. A Context that is forgotten instead is
// closed by the collector, and counted.
//
// Locks and threads: safe for concurrent use. Handlers, certificates, CAs, the
// verify mode, ALPN and the id context may be set at any time: new connections have
// the new setting, whole, and those that exist keep theirs. Ciphers, groups and versions, which OpenSSL reads
// without a lock, are refused once a connection was made. So are all of these but
// handlers once C has made an SSL: it holds no lock meanwhile. The other settings
// are numbers.
type Context struct {
	ref      ctxRef
	bound    *binding
	role     Role
	made     bool // by NewContext, not attached
	handlers handlers
	over     atomic.Pointer[layer] // UseStore's; set and removed under setters
	removals atomic.Int32          // remove handlers that run

	// The order of locks: setters, ticketKeys.mu, settings, id, ref. A method acquires the SSL_CTX before it takes one of the first four
	// and releases it after, because the last release frees the SSL_CTX, which calls remove handlers.
	setters        sync.Mutex // one change of handlers, layer, ticket keys or early data at a time
	stopTicketKeys func()     // under setters; not nil once UseTicketKeys was called
	maxEarlyData   uint32     // under setters

	ticketKeys ticketKeys
	adds       sync.Mutex // see AddSession
	id         idContext
	settings   settings
	resuming   resuming
	handshakes handshakeCounts
}

// settings is locked for reading while an SSL is made or switched to the Context, which copies them. It is locked for writing
// while they change, so each handshake has all of them as they were at one time.
type settings struct {
	mu       sync.RWMutex
	ownRoots bool // AddRootCAsPEM has replaced the system's roots
}

// changeSettings locks the settings, also against the threads that accept. unlock ends that.
func (c *Context) changeSettings(p *C.SSL_CTX) (unlock func()) {
	c.settings.mu.Lock()
	C.scb_settings_change(p)
	return func() {
		C.scb_settings_end_change(p)
		c.settings.mu.Unlock()
	}
}

// ctxRef is the Context's reference to the SSL_CTX. Calls under way borrow it, so it is given back by the last of them and
// Close.
type ctxRef struct {
	mu      sync.Mutex
	p       *C.SSL_CTX // nil once given back
	users   int        // calls under way
	closed  bool
	cleanup runtime.Cleanup
}

// handlers are the Go closures behind the trampolines.
type handlers struct {
	newSession    atomic.Pointer[NewSessionFunc]
	getSession    atomic.Pointer[GetSessionFunc]
	removeSession atomic.Pointer[RemoveSessionFunc]
	serverName    atomic.Pointer[func(*SSL, string) *Context]
	callbackError atomic.Pointer[func(*CallbackError)]
	keyLog        atomic.Pointer[keyLogger]
	verify        atomic.Pointer[func(tls.ConnectionState) error]

	certificate       atomic.Pointer[func(context.Context, *ClientHello) (*Certificate, error)]
	clientCertificate atomic.Pointer[func(context.Context, *CertificateRequest) (*Certificate, error)]
}

// inherit takes over another Context's handlers.
func (h *handlers) inherit(from *handlers) {
	h.newSession.Store(from.newSession.Load())
	h.getSession.Store(from.getSession.Load())
	h.removeSession.Store(from.removeSession.Load())
	h.serverName.Store(from.serverName.Load())
	h.callbackError.Store(from.callbackError.Load())
	h.keyLog.Store(from.keyLog.Load())
	h.verify.Store(from.verify.Load())
	h.certificate.Store(from.certificate.Load())
	h.clientCertificate.Store(from.clientCertificate.Load())
}

// clear removes all handlers but OnCallbackError's.
func (h *handlers) clear() {
	h.newSession.Store(nil)
	h.getSession.Store(nil)
	h.removeSession.Store(nil)
	h.serverName.Store(nil)
	h.keyLog.Store(nil)
	h.verify.Store(nil)
	h.certificate.Store(nil)
	h.clientCertificate.Store(nil)
}

// idContext is the session id context, with what decides how it is computed.
type idContext struct {
	mu       sync.Mutex
	sid      []byte // nil until set or computed
	explicit bool   // set by SetSessionIDContext
	used     bool   // a computed one is on the SSL_CTX too
}

// ticketKeys orders changes of the ticket keys: an older state of the ring, or a ring that was replaced, must not come last.
type ticketKeys struct {
	mu   sync.Mutex
	ring *ticket.Ring // the one in use
}

var forgottenContexts atomic.Int64

// binding is what a handle of an SSL_CTX stands for. It does not keep a
// forgotten Context from being collected, although handlers usually refer to
// their Context.
type binding struct {
	handle cgo.Handle
	ctx    weak.Pointer[Context]
	// strong is set where the SSL_CTX may outlive the last use of the Context:
	// after Close, while connections made by C still run. It is also set on an
	// SSL_CTX that C made, or has the pointer of: its handlers last as long as a C
	// callback would.
	strong atomic.Pointer[Context]
}

func (b *binding) context() *Context {
	if c := b.strong.Load(); c != nil {
		return c
	}
	return b.ctx.Value()
}

var contexts cgo.Registry[binding]

// NewContext makes an SSL_CTX for TLS 1.2 and 1.3. One for ClientRole verifies
// the peer and its name against the system's roots until told otherwise.
// Corresponds to SSL_CTX_new(3), with SSL_MODE_RELEASE_BUFFERS and without
// renegotiation.
func NewContext(r Role) (*Context, error) { return NewContextWith(r, ContextOptions{}) }

// NewContextWith is NewContext with algorithms from elsewhere than OpenSSL's default library context, or only those that a
// property query matches. If there are none, the error says so and names the providers that are loaded. Corresponds to
// SSL_CTX_new_ex(3).
func NewContextWith(r Role, opt ContextOptions) (*Context, error) {
	if r != ServerRole && r != ClientRole {
		return nil, fmt.Errorf("libssl: no such role: %d", r)
	}
	p, err := opt.newSSLCtx(r)
	if err != nil {
		return nil, err
	}
	if r == ServerRole {
		C.scb_ctx_hook_hello(p, 1)
		C.scb_ctx_hook_tickets(p)
	}
	c := &Context{role: r, made: true}
	c.ref.p = p
	if err := c.bind(); err != nil {
		C.scb_ctx_free(p)
		return nil, err
	}
	c.ref.cleanup = runtime.AddCleanup(c, func(p *C.SSL_CTX) {
		C.scb_ctx_forget(p)
		forgottenContexts.Add(1)
	}, p)
	return c, nil
}

// AttachContext makes a Context of an SSL_CTX that C made, so that its
// connections, those that C makes included, call Go handlers.
//
// Ownership: it takes a reference of its own. Close gives it back and restores
// the callbacks that C had installed. Until then the handlers last as long as the
// SSL_CTX does, so an attached Context is never collected before. SSLs made before AttachContext do not call handlers. One SSL_CTX has
// one Context: attaching again while it is open is an error.
//
// Locks and threads: handlers run on the threads that use the SSLs, also on
// threads that Go did not start. Go cannot run in the child of a fork that has not
// called exec, nor on the separate stack of a handshake with SSL_MODE_ASYNC. An
// SSL behaves there as without callbacks; the child of a fork says so on standard
// error once.
func AttachContext(sslCtx unsafe.Pointer) (*Context, error) {
	if sslCtx == nil {
		return nil, errors.New("libssl: attach context: nil pointer")
	}
	c := &Context{}
	c.ref.p = (*C.SSL_CTX)(sslCtx)
	attaching.Lock()
	defer attaching.Unlock()
	C.scb_ctx_up_ref(c.ref.p)
	if h := C.scb_ctx_handle(c.ref.p); h != 0 {
		b := contexts.Get(cgo.Handle(h))
		old := b.context()
		if old != nil {
			old.ref.mu.Lock()
			closed := old.ref.closed
			old.ref.mu.Unlock()
			if !closed {
				C.scb_ctx_free(c.ref.p)
				return nil, errors.New("libssl: attach context: the SSL_CTX has a Context that is open")
			}
			c.inherit(old)
		}
		C.scb_ctx_attach(c.ref.p)
		c.bound = b
		b.strong.Store(c)
		return c, nil
	}
	if err := c.bind(); err != nil {
		C.scb_ctx_free(c.ref.p)
		return nil, err
	}
	c.bound.strong.Store(c)
	return c, nil
}

var attaching sync.Mutex

// inherit takes over the handlers of a Context whose Close has left them in
// place: that of an SSL_CTX which this package made.
func (c *Context) inherit(old *Context) {
	c.handlers.inherit(&old.handlers)
	c.over.Store(old.over.Load())
}

// detach takes the handlers of an SSL_CTX that C made away and puts back what C
// had there.
func (c *Context) detach() {
	p, err := c.acquire()
	if err != nil {
		return
	}
	defer c.release()
	c.setters.Lock()
	defer c.setters.Unlock()
	if l := c.layer(); l != nil {
		l.uninstall()
	}
	c.handlers.clear()
	C.scb_ctx_set_asks(p, C.SCB_ASKS_USER, 0)
	C.scb_ctx_detach(p)
}

// bind hangs a handle on the SSL_CTX.
func (c *Context) bind() error {
	c.bound = &binding{ctx: weak.Make(c)}
	h := contexts.Put(c.bound)
	c.bound.handle = h // C does not know it yet
	var errs *C.scb_errs
	if C.scb_ctx_adopt(c.ref.p, C.uint64_t(h), &errs) != C.SCB_OK {
		contexts.Delete(h)
		return takeError("attach context", 0, errs)
	}
	return nil
}

// acquire lends out the SSL_CTX until release. Nothing is locked meanwhile:
// handlers of the call may come back.
func (c *Context) acquire() (*C.SSL_CTX, error) {
	if c == nil {
		return nil, ErrClosed
	}
	c.ref.mu.Lock()
	defer c.ref.mu.Unlock()
	if c.ref.closed {
		if c.ref.p != nil && C.scb_ctx_in_remove(c.ref.p) != 0 {
			return nil, ErrReentrant
		}
		return nil, ErrClosed
	}
	c.ref.users++
	return c.ref.p, nil
}

func (c *Context) release() {
	c.ref.mu.Lock()
	c.ref.users--
	last := c.ref.closed && c.ref.users == 0
	c.ref.mu.Unlock()
	if last {
		c.free()
	}
}

func (c *Context) free() {
	C.scb_ctx_free(c.ref.p)
	c.ref.mu.Lock()
	c.ref.p = nil
	c.ref.mu.Unlock()
}

// Close gives the reference back. It is idempotent. With the last reference,
// which connections hold too, OpenSSL reports every session of its internal
// cache to the remove handler; called from in there the Context's methods
// answer ErrReentrant. Corresponds to SSL_CTX_free(3).
//
// On an SSL_CTX that C made, Close first removes the handlers. It restores the
// session and key log callbacks that C had installed, and what UseStore has
// changed. Where C had no callback, a trampoline stays until the last SSL made
// meanwhile is freed; it does what OpenSSL does without a callback.
//
// Some fields of an SSL_CTX cannot be read, so C has to set them again. After
// SetServerNameCallback or UseStore these are the ClientHello and servername
// callbacks, after UseStore also the session-id generator and the id context.
func (c *Context) Close() error {
	if c == nil {
		return nil
	}
	if !c.made {
		c.detach()
	}
	c.ref.mu.Lock()
	if c.ref.closed {
		c.ref.mu.Unlock()
		return nil
	}
	c.ref.closed = true
	p := c.ref.p
	c.ref.users++ // until p is not needed
	c.ref.mu.Unlock()
	c.ref.cleanup.Stop()
	C.scb_acceptors_forget(p)
	c.resuming.close()
	c.bound.strong.Store(c)
	c.release()
	return nil
}

// Pointer is the SSL_CTX, for C code, nil once closed.
//
// Ownership: borrowed, good until Close. A Context whose Pointer was asked for is
// not collected before. C code that keeps the pointer takes a reference of its own
// (SSL_CTX_up_ref); the handlers then last as long as that one. Settings that C makes on it also apply to connections
// made in Go, but C must not replace the callbacks that this package installed.
func (c *Context) Pointer() unsafe.Pointer {
	p, err := c.acquire()
	if err != nil {
		return nil
	}
	defer c.release()
	c.bound.strong.Store(c) // C may have a reference that the collector cannot see
	return unsafe.Pointer(p)
}

// do runs one configuration call.
func (c *Context) do(op string, f func(p *C.SSL_CTX, errs **C.scb_errs) C.int) error {
	p, err := c.acquire()
	if err != nil {
		return err
	}
	defer c.release()
	var errs *C.scb_errs
	switch f(p, &errs) {
	case C.SCB_OK:
		return nil
	case C.SCB_REENTRANT:
		return ErrReentrant
	}
	return takeError(op, 0, errs)
}

//export scbGoCtxFree
func scbGoCtxFree(h C.uint64_t) {
	contexts.Delete(cgo.Handle(h))
}

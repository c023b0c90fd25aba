package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl/internal/guarded"
	"github.com/libssl-go/libssl/internal/lookup"
	"github.com/libssl-go/libssl/internal/parking"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
)

// StoreOptions configure UseStore; nil is the zero value.
type StoreOptions struct {
	// Keys seals what the store holds and tags the ids. nil: the key of a store
	// that keeps its own (store.Embedded); any other store needs Keys or
	// Plaintext.
	Keys *ticket.Ring

	// Plaintext stores sessions, master secrets included, unsealed. A reader of
	// the store can then decrypt the traffic, and a writer can forge sessions. Entries carry a checksum, so accidents are misses. With Keys the
	// ids are still tagged.
	Plaintext bool

	// LookupTimeout and PutTimeout bound a handshake's wait for the store; 0 is
	// 50 ms. Delete has the PutTimeout.
	LookupTimeout time.Duration
	PutTimeout    time.Duration

	// WriteBehind does not hold the flight that carries an id or ticket back for
	// the Put: a client that comes back at once may miss.
	WriteBehind bool

	// MaxLifetime bounds a session's life from its first full handshake on, over
	// all renewals, also that of UseTicketKeys' tickets; 0 is 24 h.
	MaxLifetime time.Duration

	// SingleUse takes TLS 1.3 entries out of the store instead of reading them,
	// so each resumes once. It needs a store.Taker.
	SingleUse bool

	// Revocable makes SessionCache.Revoke possible. Each lookup also asks for the tombstone of the session, at the same
	// time; if the store cannot answer, or the tombstone cannot be read, the session does not resume. All servers of a
	// store must agree on it. Beside UseTicketKeys it is ErrUnsupported: no server can take those tickets back.
	Revocable bool

	// OnError is told of errors that no handshake may see: store failures, panics
	// in the store, entries that were lost. It runs on the goroutine that met the
	// error and must not block.
	OnError func(error)

	// Logger is told of changes in the state of the store; nil logs nothing. The
	// records do not follow the handshakes, so an outage is a few records.
	//
	// Error: the store is left alone after failures, for lookups or for writes, or
	// it panicked. Warn: it failed, at most once a second for each of the two, or
	// the queue is full. Info: it answers again, with the cost of the outage.
	// Debug: each single failure.
	//
	// No record holds a key, an id or a session. Like OnError the Handler must not
	// block.
	Logger *slog.Logger
}

const (
	defaultTimeout     = 50 * time.Millisecond
	defaultMaxLifetime = 24 * time.Hour
)

// SessionCache connects a Context to a store: see UseStore.
type SessionCache struct {
	ctx    *Context
	opt    StoreOptions
	guard  *guarded.Store
	source lookup.Source

	full, resumed guarded.Histogram // handshakes of Conns
	findPlace     atomic.Pointer[func(unsafe.Pointer) parking.Place]

	// An SSL_CTX that C made gets back what it had before.
	modeBefore   CacheMode
	optionsSet   Options // that were not set
	earlyAllowed uint32

	ended atomic.Bool
}

// UseStore keeps the Context's sessions in st, where every server that shares
// st, keys, certificate and policy can resume them.
//
// It takes over the three session callbacks, the session-id generator and the
// ClientHello hook. It sets cache mode CacheServer|CacheNoInternal and OpNoTicket:
// sessions are ids in TLS 1.2 and stateful tickets in TLS 1.3. A
// Context is refused if a callback of Go or C is installed on it, or if it is for
// clients.
//
// Where no id context was set it sets one. It computes it from the names of the
// certificates, the ciphers and the policy on client certificates: mode, verify
// store with CAs and CRLs, verify parameters, security level. Set those before;
// changing them later recomputes it. Some settings have no getter in OpenSSL: a
// certificate or a verify callback in C, and CAs that are loaded when a chain needs
// them. With one of these UseStore is an error that asks for SetSessionIDContext. A
// callback of SSL_CTX_set_cert_verify_callback(3) cannot be noticed.
//
// A session resumes only if a full handshake would accept its client certificate,
// which is verified again.
//
// On a Conn a handshake is parked while its session is looked up, holding no
// thread, and a new session is stored before the client can offer it. SSLs that C
// made look up and store synchronously, on C's thread.
//
// No failure of the store fails a handshake: it is a miss, counted, and
// reported to OnError.
func (c *Context) UseStore(st store.Store, opt *StoreOptions) (*SessionCache, error) {
	sc, err := newSessionCache(c, st, opt)
	if err != nil {
		return nil, err
	}
	p, err := c.acquire()
	if err != nil {
		return nil, err
	}
	defer c.release()
	c.setters.Lock()
	defer c.setters.Unlock()
	if c.layer() != nil {
		return nil, errHasStore
	}
	if c.SessNewCallback() != nil || c.SessGetCallback() != nil || c.SessRemoveCallback() != nil {
		return nil, errors.New("libssl: use store: a session callback is installed on the Context")
	}
	if err := c.useIDContext(); err != nil {
		return nil, err
	}
	// An SSL_CTX that C made may allow early data already.
	sc.earlyAllowed = uint32(C.scb_ctx_max_early_data(p))
	early := max(c.maxEarlyData, sc.earlyAllowed)
	options := c.SetOptions(0)
	if sc.opt.Revocable && c.stopTicketKeys != nil {
		return nil, errRevocableTickets
	}
	if sc.opt.SingleUse || early > 0 {
		if c.stopTicketKeys != nil {
			return nil, unsupported("single use beside stateless tickets")
		}
		if err := sc.allowEarlyData(); err != nil {
			return nil, err
		}
	}
	sc.modeBefore = c.SetSessionCacheMode(CacheServer | CacheNoInternal)
	if c.stopTicketKeys == nil { // else UseTicketKeys has said otherwise
		c.SetOptions(OpNoTicket)
	}
	if early > 0 {
		if err := c.offerEarlyData(early); err != nil {
			return nil, err
		}
	}
	sc.optionsSet = c.SetOptions(0) &^ options
	if err := c.setTicketLifetime(sc.opt.MaxLifetime); err != nil {
		return nil, err
	}
	var over layer = sc
	c.over.Store(&over)
	C.scb_ctx_set_asks(p, C.SCB_ASKS_STORE, 1)
	C.scb_ctx_hook_hello(p, cbool(c.made))
	C.scb_ctx_hook_ids(p, cbool(sc.source.Tags != nil))
	for _, which := range []C.int{C.SCB_SESS_NEW, C.SCB_SESS_GET, C.SCB_SESS_REMOVE} {
		C.scb_set_callback(p, which, 1)
	}
	return sc, nil
}

// servesTLS is an error where C has made the SSL_CTX for something else.
func (c *Context) servesTLS() error {
	if c.made {
		return nil
	}
	p, err := c.acquire()
	if err != nil {
		return err
	}
	defer c.release()
	c.settings.mu.RLock()
	defer c.settings.mu.RUnlock()
	switch C.scb_ctx_kind(p) {
	case C.SCB_KIND_SERVER:
		return nil
	case C.SCB_KIND_DTLS:
		return unsupported("a store on an SSL_CTX for DTLS")
	case C.SCB_KIND_CLIENT:
		return unsupported("a store on an SSL_CTX for clients")
	}
	return unsupported("a store on an SSL_CTX that makes no SSL")
}

func newSessionCache(c *Context, st store.Store, opt *StoreOptions) (*SessionCache, error) {
	switch {
	case c == nil:
		return nil, ErrClosed
	case st == nil:
		return nil, errors.New("libssl: use store: nil store")
	case c.made && c.role == ClientRole:
		return nil, unsupported("a store on a client's Context")
	}
	if err := c.servesTLS(); err != nil {
		return nil, err
	}
	sc := &SessionCache{ctx: c}
	if opt != nil {
		sc.opt = *opt
	}
	o := &sc.opt
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	keys, err := o.keys(st)
	if err != nil {
		return nil, err
	}
	sc.guard = guarded.New(st, guarded.Options{
		LookupTimeout: o.LookupTimeout, PutTimeout: o.PutTimeout, WriteBehind: o.WriteBehind, OnError: o.OnError, Logger: o.Logger,
	})
	sc.source.Store, sc.source.MaxLifetime, sc.source.Tags = sc.guard, o.MaxLifetime, keys
	if !o.Plaintext {
		sc.source.Seal = keys
	}
	if sc.source.Revocable = o.Revocable; o.Revocable && keys == nil {
		// The ids must name their origin. Nothing hides in a plaintext store, so all servers may know the key.
		if sc.source.Tags, err = ticket.FromKey(make([]byte, ticket.KeySize)); err != nil {
			return nil, err
		}
	}
	return sc, nil
}

// setDefaults replaces zeros and refuses what cannot be.
func (o *StoreOptions) setDefaults() error {
	for _, d := range []struct {
		name string
		d    *time.Duration
		def  time.Duration
	}{
		{"LookupTimeout", &o.LookupTimeout, defaultTimeout},
		{"PutTimeout", &o.PutTimeout, defaultTimeout},
		{"MaxLifetime", &o.MaxLifetime, defaultMaxLifetime},
	} {
		if *d.d < 0 {
			return fmt.Errorf("libssl: use store: %s is negative", d.name)
		}
		if *d.d == 0 {
			*d.d = d.def
		}
	}
	if o.Keys != nil && o.Keys.Len() == 0 {
		return errors.New("libssl: use store: StoreOptions.Keys is a ring without keys")
	}
	return nil
}

// keys returns the ring that tags ids and, without Plaintext, seals entries. It is nil only with Plaintext.
func (o *StoreOptions) keys(st store.Store) (*ticket.Ring, error) {
	if o.Keys != nil || o.Plaintext {
		return o.Keys, nil
	}
	embedded, ok := st.(store.Embedded)
	if !ok {
		return nil, fmt.Errorf("libssl: use store: %T may be shared, so StoreOptions needs Keys, or Plaintext", st)
	}
	key, err := embedded.SealingKey()
	if err != nil {
		return nil, fmt.Errorf("libssl: use store: %w", err)
	}
	defer clear(key)
	ring, err := ticket.FromKey(key)
	if err != nil {
		return nil, fmt.Errorf("libssl: use store: %w", err)
	}
	return ring, nil
}

// allowEarlyData implements layer: TLS 1.3 entries are taken from now on. OpenSSL's own replay protection would need them
// in the internal cache (SEMANTICS F5.2).
func (sc *SessionCache) allowEarlyData() error {
	if sc.source.SingleUse.Load() {
		return nil
	}
	if !sc.guard.CanTake() {
		return unsupported("single use needs a store that can take entries atomically, and %v is no store.Taker", sc.guard)
	}
	sc.ctx.SetOptions(OpNoAntiReplay | OpNoTicket)
	sc.source.SingleUse.Store(true)
	return nil
}

// allowTicketKeys implements layer.
func (sc *SessionCache) allowTicketKeys() error {
	if sc.source.SingleUse.Load() {
		return unsupported("stateless tickets beside a store with SingleUse")
	}
	if sc.opt.Revocable {
		return errRevocableTickets
	}
	return nil
}

var errRevocableTickets = unsupported("stateless tickets beside a store with Revocable: they cannot be revoked")

// Revoke ends every session and ticket of the full handshake that o names, renewals included. From its return on no server
// that shares the store and has StoreOptions.Revocable resumes one. Connections that are open go on. If it returns an error,
// the store's, the sessions may still resume. The deadline of ctx bounds it, or PutTimeout where there is none.
//
// Revoke puts a record, the tombstone, into the store. It lives for MaxLifetime, which must be the same on all servers. A
// store that evicts records may drop it earlier, and a user of the store who may delete records can: then the sessions
// that are left resume. On another host with a tiered store it takes effect after a second (tiered.Options.Absent).
//
// A tombstone also holds against a Put that was cut short and reaches the store later, which brings back a session that was
// merely deleted.
//
// Without Revocable the answer is ErrUnsupported; the zero SessionOrigin is an error.
func (sc *SessionCache) Revoke(ctx context.Context, o SessionOrigin) error {
	switch {
	case sc.ended.Load():
		return ErrClosed
	case !sc.opt.Revocable:
		return unsupported("revoke without StoreOptions.Revocable")
	case o == SessionOrigin{}:
		return errors.New("libssl: revoke: the zero SessionOrigin")
	}
	if err := sc.source.Revoke(ctx, o); err != nil {
		return fmt.Errorf("libssl: revoke: %w", err)
	}
	return nil
}

// Close ends the cache's work on its Context: sessions are neither stored nor
// resumed any more, no early data is offered, and the callbacks go. It waits until what is queued,
// removals and WriteBehind puts, has reached the store, or ctx is done; what was
// lost is in the error. The store stays open. An SSL_CTX that C made has its cache
// mode, options and early data back; see Context.Close.
func (sc *SessionCache) Close(ctx context.Context) error {
	if !sc.ended.CompareAndSwap(false, true) {
		return ErrClosed
	}
	sc.detach()
	return sc.guard.Close(ctx)
}

// detach takes the layer off the Context, which may be closed: its connections may live on.
func (sc *SessionCache) detach() {
	c := sc.ctx
	if _, err := c.acquire(); err == nil { // before the lock: see Context
		defer c.release()
	}
	c.setters.Lock()
	defer c.setters.Unlock()
	sc.uninstall()
}

// uninstall implements layer. It works once.
func (sc *SessionCache) uninstall() {
	c := sc.ctx
	if !c.removeLayer(sc) {
		return
	}
	p, err := c.acquire()
	if err != nil {
		return
	}
	defer c.release()
	C.scb_ctx_set_asks(p, C.SCB_ASKS_STORE, 0)
	C.scb_ctx_hook_ids(p, 0)
	early := uint32(0) // entries are not taken any more
	if !c.made {
		early = sc.earlyAllowed
		c.SetSessionCacheMode(sc.modeBefore)
		c.changeOptions(0, sc.optionsSet)
	}
	c.offerEarlyData(early)
	for _, which := range []C.int{C.SCB_SESS_NEW, C.SCB_SESS_GET, C.SCB_SESS_REMOVE} {
		C.scb_set_callback(p, which, 0)
	}
}

package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

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

	// Plaintext stores sessions, master secrets and all, unsealed: whoever can
	// read the store can read the traffic, whoever can write it can forge
	// sessions. Entries carry a checksum, so accidents are misses. With Keys the
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
	// all renewals; 0 is 24 h.
	MaxLifetime time.Duration

	// SingleUse takes TLS 1.3 entries out of the store instead of reading them,
	// so each resumes once. It needs a store.Taker.
	SingleUse bool

	// OnError hears of what no handshake may see: store failures, panics in the
	// store, entries that were lost. It is called on whatever goroutine met the
	// error and must not block.
	OnError func(error)

	// Logger hears what a person should know; nil logs nothing. What it hears
	// follows the store's state and not the handshakes, so that an outage is a few
	// records: at Error that the store is left alone after failures, and a panic in
	// it; at Warn a failure of the store, at most one a second, and a full queue; at
	// Info that the store answers again, and what was missed meanwhile. At Debug it
	// hears each single failure. No record holds a key, an id or a session. Like
	// OnError its Handler is called where things happen and must not block.
	Logger *slog.Logger
}

const (
	defaultTimeout     = 50 * time.Millisecond
	defaultMaxLifetime = 24 * time.Hour
	queueLimit         = 1 << 16
	queueShards        = 4
)

// SessionCache connects a Context to a store: see UseStore.
type SessionCache struct {
	ctx    *Context
	st     store.Store
	taker  store.Taker // nil if the store is none
	local  bool        // the store never waits
	prompt prompt      // nil if the store is none
	opt    StoreOptions
	seal   *ticket.Ring // nil with Plaintext
	tags   *ticket.Ring // nil: ids are not tagged

	singleUse atomic.Bool                                        // TLS 1.3 entries are taken
	findPlace atomic.Pointer[func(unsafe.Pointer) parking.Place] // where C's handshakes wait

	// What an SSL_CTX of C's had before: it gets it back.
	modeBefore   CacheMode
	optionsSet   Options // that were not set
	earlyAllowed uint32

	breaker breaker
	outage  atomic.Pointer[outage] // while the breaker is open
	stats   counters
	shards  [queueShards]shard
	drained sync.WaitGroup
	stop    context.Context // done: what is still queued is lost
	cancel  context.CancelFunc
	ended   atomic.Bool
	loss    atomic.Pointer[error] // why the last queued operation was lost
}

// prompt is implemented by stores whose calls return when their context ends, as
// far as they know: they are called without a goroutine that could outwait them.
type prompt interface {
	// Prompt reports whether a call that begins now returns as soon as its context
	// ends. It is asked before each call and must not wait.
	Prompt() bool
}

// UseStore keeps the Context's sessions in st, where every server that shares
// st, keys, certificate and policy can resume them.
//
// It takes over the three session callbacks, the session-id generator and the
// ClientHello hook, and sets cache mode CacheServer|CacheNoInternal, OpNoTicket
// (sessions are ids in TLS 1.2 and stateful tickets in 1.3) and, where none was
// set, an id context computed from certificates, policy on client certificates
// and ciphers. Set those before; changing them later recomputes it. A Context
// on which a callback, Go's or C's, is installed is refused, as is one for
// clients.
//
// On a Conn a handshake is parked while its session is looked up, holding no
// thread, and a new session is stored before the client learns its id or
// ticket. SSLs that C made look up and store synchronously, on C's thread.
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
	if c.cache.Load() != nil {
		return nil, errHasStore
	}
	if c.SessNewCallback() != nil || c.SessGetCallback() != nil || c.SessRemoveCallback() != nil {
		return nil, errors.New("libssl: use store: a session callback is installed on the Context")
	}
	if _, err := c.sessionIDContext(); err != nil {
		return nil, err
	}
	// What C has set on an SSL_CTX of its own counts too.
	sc.earlyAllowed = uint32(C.scb_ctx_max_early_data(p))
	early := max(c.maxEarlyData, sc.earlyAllowed)
	options := c.SetOptions(0)
	if sc.opt.SingleUse || early > 0 {
		if c.stopTicketKeys != nil {
			return nil, unsupported("single use beside stateless tickets")
		}
		if err := sc.useOnce(); err != nil {
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
	sc.stop, sc.cancel = context.WithCancel(context.Background())
	c.cache.Store(sc)
	C.scb_ctx_hook_hello(p, cbool(c.made))
	C.scb_ctx_hook_ids(p, cbool(sc.tags != nil))
	for _, which := range []C.int{C.SCB_SESS_NEW, C.SCB_SESS_GET, C.SCB_SESS_REMOVE} {
		C.scb_set_callback(p, which, 1)
	}
	return sc, nil
}

func newSessionCache(c *Context, st store.Store, opt *StoreOptions) (*SessionCache, error) {
	sc := &SessionCache{ctx: c, st: st}
	if opt != nil {
		sc.opt = *opt
	}
	o := &sc.opt
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
			return nil, fmt.Errorf("libssl: use store: %s is negative", d.name)
		}
		if *d.d == 0 {
			*d.d = d.def
		}
	}
	switch {
	case c == nil:
		return nil, ErrClosed
	case st == nil:
		return nil, errors.New("libssl: use store: nil store")
	case c.made && c.role == ClientRole:
		return nil, unsupported("a store on a client's Context")
	}
	if o.Keys != nil && o.Keys.Len() == 0 {
		return nil, errors.New("libssl: use store: StoreOptions.Keys is a ring without keys")
	}
	sc.taker, _ = st.(store.Taker)
	_, sc.local = st.(store.Local)
	sc.prompt, _ = st.(prompt)
	sc.tags = o.Keys
	if !o.Plaintext {
		if sc.tags == nil {
			embedded, ok := st.(store.Embedded)
			if !ok {
				return nil, fmt.Errorf("libssl: use store: %T may be shared, so StoreOptions needs Keys, or Plaintext", st)
			}
			key, err := embedded.SealingKey()
			if err != nil {
				return nil, fmt.Errorf("libssl: use store: %w", err)
			}
			defer clear(key)
			if sc.tags, err = ticket.FromKey(key); err != nil {
				return nil, fmt.Errorf("libssl: use store: %w", err)
			}
		}
		sc.seal = sc.tags
	}
	return sc, nil
}

// useOnce has TLS 1.3 entries taken. OpenSSL's own replay protection would want
// them in the internal cache (SEMANTICS F5.2).
func (sc *SessionCache) useOnce() error {
	if sc.taker == nil {
		return unsupported("single use needs a store that can take entries atomically, and %T is no store.Taker", sc.st)
	}
	sc.ctx.SetOptions(OpNoAntiReplay)
	sc.singleUse.Store(true)
	return nil
}

// report tells OnError and the Logger of what no handshake may see.
func (sc *SessionCache) report(level slog.Level, msg string, err error, attrs ...slog.Attr) {
	sc.log(level, msg, append(attrs, slog.Any("error", err))...)
	if f := sc.opt.OnError; f != nil {
		defer func() { _ = recover() }()
		f(err)
	}
}

func (sc *SessionCache) log(level slog.Level, msg string, attrs ...slog.Attr) {
	if l := sc.opt.Logger; l != nil {
		defer func() { _ = recover() }()
		l.LogAttrs(context.Background(), level, msg, attrs...)
	}
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
	lost := sc.stats.lost.Load()
	sc.ctx.setters.Lock()
	sc.uninstall()
	sc.ctx.setters.Unlock()

	for i := range sc.shards {
		sc.shards[i].close()
	}
	stop := context.AfterFunc(ctx, sc.cancel)
	sc.drained.Wait()
	stop()
	sc.cancel()
	if n := sc.stats.lost.Load() - lost; n > 0 {
		err := context.Cause(ctx)
		if err == nil { // time enough, but the store failed
			err = *sc.loss.Load()
		}
		return fmt.Errorf("libssl: close session cache: %d queued operations were lost: %w", n, err)
	}
	return nil
}

// uninstall takes the cache off its Context, once. The Context's setters are
// locked.
func (sc *SessionCache) uninstall() {
	c := sc.ctx
	if !c.cache.CompareAndSwap(sc, nil) {
		return
	}
	p, err := c.acquire()
	if err != nil {
		return
	}
	defer c.release()
	C.scb_ctx_hook_ids(p, 0)
	early := uint32(0) // nobody takes its entries any more
	if !c.made {
		early = sc.earlyAllowed
		c.SetSessionCacheMode(sc.modeBefore)
		c.ClearOptions(sc.optionsSet)
	}
	c.offerEarlyData(early)
	for _, which := range []C.int{C.SCB_SESS_NEW, C.SCB_SESS_GET, C.SCB_SESS_REMOVE} {
		C.scb_set_callback(p, which, 0)
	}
}

// ---- what OpenSSL calls ---------------------------------------------------------

// put is a record on its way to a store.
type put struct {
	next  *put
	cache *SessionCache
	rec   store.Record
}

// created serialises a new session. The record leaves with the step's end.
func (sc *SessionCache) created(conn *Conn, ssl *C.SSL, sess *C.SSL_SESSION) {
	i := C.scb_session_get_info(sess)
	if uint16(i.version) == versionTLS13 && C.scb_ssl_options(ssl)&C.SSL_OP_NO_TICKET == 0 {
		return // a stateless ticket: nobody will ask for it (SEMANTICS F1.5)
	}
	now := time.Now()
	origin := now
	if from := resumedOrigin(conn, ssl); !from.IsZero() {
		origin = from
	}
	expires := time.Unix(int64(i.time), 0).Add(seconds(int64(i.timeout)))
	if end := origin.Add(sc.opt.MaxLifetime); end.Before(expires) {
		expires = end
	}
	if !now.Before(expires) {
		return
	}
	der := C.scb_session_der(sess, originSize, nil)
	if der.len == 0 {
		sc.report(slog.LevelDebug, "session not stored", errors.New("libssl: a new session cannot be encoded"))
		return
	}
	p := &put{cache: sc, rec: store.Record{ID: idOf(i.id, i.id_len), Expires: expires}}
	rec := &p.rec
	sid := unsafe.Slice((*byte)(unsafe.Pointer(i.sid_ctx)), int(i.sid_ctx_len))
	rec.Data = sealEntry(sc.seal, rec.ID, sid, origin, unsafe.Slice((*byte)(unsafe.Pointer(der.p)), int(der.len)))
	C.scb_wipe(unsafe.Pointer(der.p), der.len)
	if err := rec.Validate(); err != nil { // a monstrous certificate of the client's, no failure of the store
		sc.report(slog.LevelDebug, "session not stored", fmt.Errorf("libssl: a new session cannot be stored: %w", err))
		return
	}
	switch {
	case conn != nil:
		p.next, conn.puts = conn.puts, p
	case sc.parks(): // the thread is an event loop's
		sc.enqueueOrLose(putOf(rec))
	default:
		sc.put(context.Background(), rec)
	}
}

// resumedOrigin is when the session that a handshake resumed was made, zero
// where it resumed none. For an SSL of C's a session that is created is the sign
// that its handshake is over.
func resumedOrigin(conn *Conn, ssl *C.SSL) (origin time.Time) {
	reused := C.scb_ssl_reused(ssl) != 0
	if conn == nil {
		if g := guestOf(ssl); g != nil {
			g.finish(reused)
			origin = g.origin
		}
	} else if conn.resume != nil {
		origin = conn.resume.origin
	}
	if !reused {
		return time.Time{}
	}
	return origin
}

// wanted answers OpenSSL's question: a Conn's, and a parked handshake of C's, from
// what was looked up meanwhile, any other handshake of C's from the store. p and
// n are id's bytes in C. The reference returned is OpenSSL's.
func (sc *SessionCache) wanted(conn *Conn, ssl *C.SSL, id store.ID, p *C.uchar, n C.int) *C.SSL_SESSION {
	var r *resumption
	var g *guest
	if conn != nil {
		r = conn.resume
	} else if g = guestOf(ssl); g != nil {
		r = g.resume
	} else if !sc.parks() { // the hook is not ours any more
		r = &resumption{cache: sc, proved: true} // nobody will tell
		defer r.end(context.Background())
	}
	if r == nil || r.cache != sc {
		return nil
	}
	a := r.find(id)
	if conn == nil {
		tls13 := C.scb_ssl_version(ssl) == versionTLS13
		if a == nil && !sc.parks() && sc.issued(id) {
			if current := currentContext(ssl); current != nil {
				a = r.add(candidate{id, tls13})
				sc.find(context.Background(), a, current)
			}
		}
		if g != nil && !tls13 {
			defer g.finish(true) // there is no second question
		}
	}
	if a == nil || a.der == nil {
		return nil
	}
	c := C.scb_session_check(ssl, bytesPtr(a.der), C.size_t(len(a.der)), p, C.uint(n),
		bytesPtr(a.idContext), C.uint(len(a.idContext)), C.int64_t(time.Now().Unix()))
	if c.sess != nil {
		a.used = true
		r.origin, r.from = a.origin, id
	}
	switch {
	case a.counted: // for the hello before a HelloRetryRequest
	case c.sess != nil:
		sc.stats.hits.Add(1)
	case c.why == C.SCB_ENTRY_UNDECODABLE:
		sc.stats.undecodable.Add(1)
	default:
		sc.stats.reject(Rejection(c.why))
	}
	a.counted = true
	return c.sess
}

// removed queues a deletion: OpenSSL may hold the context's lock.
func (sc *SessionCache) removed(id store.ID) {
	if !id.IsZero() {
		sc.enqueueOrLose(request{op: opDelete, id: id})
	}
}

// tag makes random bytes an id that this fleet recognises: one half is the
// other's tag. Ids that others made up, which every TLS 1.3 client sends to a TLS
// 1.2 server, then never reach the store.
func (sc *SessionCache) tag(id []byte) {
	if sc.tags != nil && len(id) == store.MaxIDLen {
		tag := sc.tags.Tag(id[:ticket.TagSize])
		copy(id[ticket.TagSize:], tag[:])
	}
}

func (sc *SessionCache) issued(id store.ID) bool {
	if sc.tags == nil {
		return true
	}
	b := id.Bytes()
	return len(b) == store.MaxIDLen && sc.tags.CheckTag(b[:ticket.TagSize], b[ticket.TagSize:])
}

// known drops the candidates that this fleet cannot have issued: on a TLS 1.2
// server those of all new clients, which then need not be parked.
func (sc *SessionCache) known(all []candidate) []candidate {
	return slices.DeleteFunc(all, func(w candidate) bool {
		if sc.issued(w.id) {
			return false
		}
		sc.stats.untagged.Add(1)
		sc.stats.misses.Add(1)
		return true
	})
}

// ---- looking up --------------------------------------------------------------------

// resumption is a handshake's dealings with the store. It ends with the
// handshake.
type resumption struct {
	cache    *SessionCache
	wanted   []candidate // by the last ClientHello
	chosen   *Context    // by the server name, nil to stay
	answered bool        // the lookups are made
	answers  *answer
	proved   bool      // the handshake resumed: the client knows the secret
	origin   time.Time // of the session handed to OpenSSL
	from     store.ID

	// What nearly every handshake can do with: the room for one of each.
	candidate [1]candidate
	answer    answer
	entry     [512]byte // opened: a session without a certificate of the client's
}

type answer struct {
	candidate
	next      *answer
	room      []byte // for what is opened
	der       []byte // nil: a miss, remembered
	idContext []byte
	origin    time.Time
	taken     *store.Record
	used      bool
	counted   bool
}

func (r *resumption) find(id store.ID) *answer {
	for a := r.answers; a != nil; a = a.next {
		if a.id == id {
			return a
		}
	}
	return nil
}

// add makes an answer, a miss until something is found.
func (r *resumption) add(w candidate) *answer {
	a := &r.answer
	if r.answers == nil {
		a.room = r.entry[:0]
	} else {
		a = new(answer)
	}
	a.candidate, a.next = w, r.answers
	r.answers = a
	return a
}

func (r *resumption) wipe() {
	for a := r.answers; a != nil; a = a.next {
		clear(a.der)
		a.der = nil
	}
}

// lookUp finds the sessions a parked handshake asks for, on a Context that the
// server name may have changed. No thread is held.
func (r *resumption) lookUp(ctx context.Context, current *Context) {
	sc := r.cache
	sc.stats.suspended.Add(1)
	sc.stats.parked.Add(1)
	if r.chosen != nil {
		current = r.chosen
	}
	known := r.answers
	for _, w := range r.wanted {
		if r.find(w.id) == nil { // else asked for the first hello already
			r.add(w)
		}
	}
	sc.findAll(ctx, r.answers, known, current)
	sc.stats.parked.Add(-1)
	r.answered = true
}

// findAll finds the answers from a to the one before end, all at once: they share
// one budget, and none is late because another was slow.
func (sc *SessionCache) findAll(ctx context.Context, a, end *answer, current *Context) {
	if a == end {
		return
	}
	if a.next == end {
		sc.find(ctx, a, current)
		return
	}
	var all sync.WaitGroup
	for a := a; a != end; a = a.next {
		all.Go(func() { sc.find(ctx, a, current) })
	}
	all.Wait()
}

// find gets one entry and remembers it, or its absence, in a.
func (sc *SessionCache) find(ctx context.Context, a *answer, current *Context) {
	sid, err := current.sessionIDContext()
	if err != nil {
		sc.report(slog.LevelDebug, "session not looked up", err)
		return
	}
	take := a.psk && sc.singleUse.Load()
	rec, err := sc.get(ctx, a.id, take)
	if err != nil {
		return
	}
	if take {
		taken := rec
		a.taken = &taken
	} else {
		defer clear(rec.Data) // a secret where it is not sealed
	}
	der, origin, err := openEntry(sc.seal, a.id, sid, rec.Data, a.room)
	switch {
	case errors.Is(err, errUnreadable):
		sc.stats.undecodable.Add(1)
	case err != nil:
		sc.stats.reject(RejectedForged)
	case time.Now().After(origin.Add(sc.opt.MaxLifetime)):
		clear(der)
		sc.stats.reject(RejectedLifetime)
	default:
		a.der, a.origin, a.idContext = der, origin, sid
	}
}

// endResumption gives back what a handshake took and did not use, and wipes the
// rest. Called under hmu, when the handshake is over.
func (c *Conn) endResumption(ctx context.Context) {
	taken := c.lock()
	r := c.resume
	if r != nil && c.done.Load() && !r.from.IsZero() && r.proved {
		c.resumed = r.from
	}
	c.resume = nil
	c.unlock(taken)
	if r != nil {
		r.end(ctx)
	}
}

func (r *resumption) end(ctx context.Context) {
	r.wipe()
	for a := r.answers; a != nil; a = a.next {
		if a.taken == nil || (a.used && r.proved) {
			continue
		}
		// Whoever saw a ticket could burn it with a wrong binder (SEMANTICS F5.4).
		// A handshake that was given up is over all the same.
		r.cache.putBack(context.WithoutCancel(ctx), a.taken)
	}
}

func (c *Conn) resumedFrom() SessionID {
	if c.resume != nil && c.resume.proved {
		return c.resume.from
	}
	return c.resumed
}

// ---- the store ------------------------------------------------------------------------

var (
	errStoreTimeout = errors.New("libssl: the store was too slow")
	errBreakerOpen  = errors.New("libssl: the store is left alone after failures")
	errQueueFull    = errors.New("libssl: the store does not keep up")
)

type storePanic struct {
	value any
	stack []byte
}

func (p *storePanic) Error() string { return fmt.Sprintf("libssl: the store panicked: %v", p.value) }

// request is one operation of the store's. It is no func, which would be on the
// heap.
type request struct {
	op  operation
	id  store.ID
	rec *store.Record // of opPut
}

type operation uint8

const (
	opGet operation = iota
	opTake
	opPut
	opDelete
)

func (op operation) String() string { return [...]string{"get", "take", "put", "delete"}[op] }

// do makes the request.
func (sc *SessionCache) do(ctx context.Context, r request) (rec store.Record, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &storePanic{r, debug.Stack()}
		}
	}()
	switch r.op {
	case opGet:
		return sc.st.Get(ctx, r.id)
	case opTake:
		return sc.taker.Take(ctx, r.id)
	case opPut:
		return rec, sc.st.Put(ctx, *r.rec)
	default:
		return rec, sc.st.Delete(ctx, r.id)
	}
}

// call makes a request, within timeout, whatever the store does.
func (sc *SessionCache) call(ctx context.Context, timeout time.Duration, r request) (store.Record, error) {
	lookup := r.op == opGet || r.op == opTake
	probe, ok := sc.breaker.allow()
	if !ok {
		sc.stats.skipped.Add(1)
		if lookup {
			sc.stats.lookupsSkipped.Add(1)
		}
		return store.Record{}, errBreakerOpen
	}
	begin := time.Now()
	rec, err := sc.bounded(ctx, timeout, r)
	if lookup {
		sc.stats.get.observe(time.Since(begin))
	} else if r.op == opPut {
		sc.stats.put.observe(time.Since(begin))
	}
	total, ofLookups := &sc.stats.errors, &sc.stats.lookupErrors
	switch {
	case err == nil || errors.Is(err, store.ErrNotFound):
		if sc.breaker.done(probe, outcomeGood) == breakerClosed {
			sc.answersAgain()
		}
		return rec, err
	case err == errStoreTimeout:
		total, ofLookups = &sc.stats.timeouts, &sc.stats.lookupTimeouts
	case ctx.Err() != nil: // the handshake was given up
		sc.breaker.done(probe, outcomeNone)
		return rec, err
	}
	total.Add(1)
	if lookup {
		ofLookups.Add(1)
	}
	sc.failed(r.op, err, sc.breaker.done(probe, outcomeBad))
	return rec, err
}

// outage is how things stood when the breaker opened.
type outage struct {
	begin         time.Time
	skipped, lost uint64
}

// failed reports an operation's failure and what it changed.
func (sc *SessionCache) failed(op operation, err error, change breakerChange) {
	level := slog.LevelDebug
	attrs := []slog.Attr{slog.String("operation", op.String())}
	p, panicked := err.(*storePanic)
	if panicked {
		attrs = append(attrs, slog.String("stack", string(p.stack)))
	}
	switch {
	case change != breakerFailing: // told already
	case panicked:
		level = slog.LevelError
	default:
		level = slog.LevelWarn
	}
	sc.report(level, "store failed", err, attrs...)
	if change == breakerOpened {
		sc.outage.Store(&outage{time.Now(), sc.stats.skipped.Load(), sc.stats.lost.Load()})
		sc.log(slog.LevelError, "store left alone", slog.Any("error", err))
	}
}

// answersAgain tells what an outage has cost.
func (sc *SessionCache) answersAgain() {
	if o := sc.outage.Swap(nil); o != nil {
		sc.log(slog.LevelInfo, "store answers again", slog.Duration("after", time.Since(o.begin)),
			slog.Uint64("skipped", sc.stats.skipped.Load()-o.skipped), slog.Uint64("lost", sc.stats.lost.Load()-o.lost))
	}
}

func (sc *SessionCache) bounded(ctx context.Context, timeout time.Duration, r request) (store.Record, error) {
	if sc.local {
		return sc.do(ctx, r)
	}
	bound, cancel := context.WithTimeoutCause(ctx, timeout, errStoreTimeout)
	type result struct {
		rec store.Record
		err error
	}
	answered := func(res result) (store.Record, error) {
		if res.err != nil && context.Cause(bound) == errStoreTimeout { // whatever the store makes of that
			res.err = errStoreTimeout
		}
		cancel()
		return res.rec, res.err
	}
	if sc.prompt != nil && sc.prompt.Prompt() {
		rec, err := sc.do(bound, r)
		return answered(result{rec, err})
	}
	// A store that ignores its context keeps this goroutine, not the handshake.
	results := make(chan result, 1)
	go func() {
		rec, err := sc.do(bound, r)
		results <- result{rec, err}
	}()
	select {
	case res := <-results:
		return answered(res)
	case <-bound.Done():
		cause := context.Cause(bound)
		cancel()
		go func() {
			if late := <-results; r.op == opTake && late.err == nil && late.rec.ID == r.id {
				sc.stats.taken.Add(1)
				sc.putBack(context.Background(), &late.rec)
			}
		}()
		return store.Record{}, cause
	}
}

func (sc *SessionCache) get(ctx context.Context, id store.ID, take bool) (store.Record, error) {
	r := request{op: opGet, id: id}
	if take {
		r.op = opTake
	}
	rec, err := sc.call(ctx, sc.opt.LookupTimeout, r)
	switch {
	case errors.Is(err, store.ErrNotFound):
		sc.stats.misses.Add(1)
	case err == nil && (rec.ID != id || len(rec.Data) > store.MaxData):
		// Not what was put: not worth decoding, and not to be put back.
		sc.stats.reject(RejectedForged)
		return store.Record{}, store.ErrNotFound
	case err == nil && take:
		sc.stats.taken.Add(1)
	}
	return rec, err
}

// put writes rec, in time or not at all.
func (sc *SessionCache) put(ctx context.Context, rec *store.Record) {
	if sc.opt.WriteBehind {
		sc.enqueueOrLose(putOf(rec))
	} else {
		sc.putNow(ctx, putOf(rec))
	}
}

// putAll stores what a step made, the tickets of TLS 1.3 at once: they share one
// budget and, on the way to a server, one round trip.
func putAll(ctx context.Context, first *put) {
	if first == nil {
		return
	}
	if first.next == nil || first.cache.local {
		for p := first; p != nil; p = p.next {
			p.cache.put(ctx, &p.rec)
		}
		return
	}
	var all sync.WaitGroup
	for p := first; p != nil; p = p.next {
		all.Go(func() { p.cache.put(ctx, &p.rec) })
	}
	all.Wait()
}

// putBack returns what was taken and is some client's to use. It does without
// the queue where that is closed or full.
func (sc *SessionCache) putBack(ctx context.Context, rec *store.Record) {
	sc.stats.putBack.Add(1)
	if !(sc.opt.WriteBehind || sc.parks()) || sc.enqueue(putOf(rec)) != nil {
		sc.putNow(ctx, putOf(rec))
	}
}

func putOf(rec *store.Record) request { return request{op: opPut, id: rec.ID, rec: rec} }

func (sc *SessionCache) putNow(ctx context.Context, put request) error {
	_, err := sc.call(ctx, sc.opt.PutTimeout, put)
	if err == nil {
		sc.stats.stored.Add(1)
	}
	return err
}

// ---- the queue -------------------------------------------------------------------------

// shard is one of the queues of puts and removals: the jobs of one id stay in order, and one slow call
// does not hold up the rest. It has a goroutine only while it has jobs, so that a
// Context that is forgotten with its cache can be collected.
type shard struct {
	mu       sync.Mutex
	jobs     []request
	draining bool
	closed   bool
	full     bool // since a job found no room, until the jobs are taken up
}

func (s *shard) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
}

func (sc *SessionCache) enqueueOrLose(j request) {
	if err := sc.enqueue(j); err != nil {
		sc.lost(err)
	}
}

func (sc *SessionCache) enqueue(j request) error {
	b := j.id.Bytes()
	s := &sc.shards[b[0]%queueShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case len(s.jobs) >= queueLimit/queueShards:
		if !s.full {
			s.full = true
			// Elsewhere: OpenSSL may hold its lock here.
			sc.drained.Go(func() { sc.log(slog.LevelWarn, "queue full", slog.Any("error", errQueueFull)) })
		}
		return errQueueFull
	}
	s.jobs = append(s.jobs, j)
	sc.stats.queue.Add(1)
	if !s.draining {
		s.draining = true
		sc.drained.Go(func() { sc.drain(s) })
	}
	return nil
}

// goWhileOpen runs f on a goroutine that Close waits for; after Close not at all.
func (sc *SessionCache) goWhileOpen(f func()) bool {
	s := &sc.shards[0] // any: all are closed before Close waits
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		sc.drained.Go(f)
	}
	return !s.closed
}

func (sc *SessionCache) drain(s *shard) {
	for {
		s.mu.Lock()
		jobs := s.jobs
		s.jobs, s.full = nil, false
		s.draining = len(jobs) > 0
		s.mu.Unlock()
		if len(jobs) == 0 {
			return
		}
		for _, j := range jobs {
			sc.work(j)
			sc.stats.queue.Add(-1)
		}
	}
}

func (sc *SessionCache) work(j request) {
	var err error
	if sc.stop.Err() != nil {
		err = sc.stop.Err()
	} else if j.op == opPut {
		err = sc.putNow(sc.stop, j)
	} else {
		if _, err = sc.call(sc.stop, sc.opt.PutTimeout, j); err == nil {
			sc.stats.removed.Add(1)
		}
	}
	if err != nil {
		sc.lost(err)
	}
}

func (sc *SessionCache) lost(err error) {
	sc.loss.Store(&err)
	sc.stats.lost.Add(1)
}

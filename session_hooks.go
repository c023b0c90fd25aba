package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl/internal/entry"
	"github.com/libssl-go/libssl/internal/hello"
	"github.com/libssl-go/libssl/internal/lookup"
	"github.com/libssl-go/libssl/store"
)

// storeVisit is the store layer's part of one handshake.
type storeVisit struct {
	cache    *SessionCache
	ctx      *Context          // the handshake's
	chosen   *Context          // selected by the server name, nil to stay
	answered bool              // lookUp has run for the ClientHello that parked the handshake
	lookups  *lookup.Handshake // nil until the client offers a session of this fleet

	// created is filled inside a step and stored before the next flight. A handshake makes two sessions at most, unless
	// SetNumTickets asks for more.
	created []store.Record
	scratch [2]store.Record
}

func newVisit(sc *SessionCache, ctx *Context) *storeVisit {
	v := &storeVisit{cache: sc, ctx: ctx}
	v.created = v.scratch[:0]
	return v
}

// visitOf returns the Conn's visit of this cache, nil where the handshake began under another one.
func (sc *SessionCache) visitOf(conn *Conn) *storeVisit {
	if conn.tls.visit == nil {
		conn.tls.visit = newVisit(sc, conn.ctx)
	}
	if v, ok := conn.tls.visit.(*storeVisit); ok && v.cache == sc {
		return v
	}
	return nil
}

// want notes the sessions that a ClientHello offers.
func (v *storeVisit) want(wanted []hello.Candidate, chosen *Context) {
	if v.lookups == nil {
		v.lookups = lookup.New(&v.cache.source)
	}
	v.lookups.Want(wanted)
	v.chosen = chosen
}

func (v *storeVisit) parkedFor() (chosen *Context, again bool) {
	again = v.answered
	v.answered = false
	return v.chosen, again
}

func (v *storeVisit) lookUp(ctx context.Context, ch *choice) {
	current := v.ctx
	if v.chosen != nil {
		current = v.chosen
	}
	if sid, err := current.sessionIDContext(); err != nil {
		v.cache.guard.Report(slog.LevelDebug, "session not looked up", err)
	} else {
		v.lookups.LookUp(ctx, ch.idContext(sid))
	}
	v.answered = true
}

func (v *storeVisit) waits() bool { return !v.cache.guard.Local() }

func (v *storeVisit) beforeFlight(ctx context.Context) {
	if created := v.created; len(created) > 0 {
		v.created = nil // the queue may keep the records
		v.cache.guard.PutAll(ctx, created)
	}
}

func (v *storeVisit) resumedFrom() SessionID {
	if v.lookups == nil {
		return SessionID{}
	}
	return v.lookups.From()
}

func (v *storeVisit) end(ctx context.Context, e ending) {
	if v.lookups != nil {
		v.lookups.End(ctx, e.resumed)
	}
	switch {
	case e.complete && e.resumed:
		v.cache.resumed.Observe(e.took)
	case e.complete:
		v.cache.full.Observe(e.took)
	}
}

// hello implements layer. It parks the handshake where the ClientHello offers a session that this fleet can have issued.
func (sc *SessionCache) hello(ctx *Context, conn *Conn, ssl *C.SSL, h hello.Hello) (chosen *Context, answer C.int) {
	var a *attachedSSL
	if conn == nil {
		if a = attachedOf(ssl); a != nil {
			chosen, state := a.seen(&h)
			switch state {
			case stillLooking:
				return nil, C.SCB_HELLO_PARK
			case lookedUp:
				return chosen, C.SCB_HELLO_GO_ON
			}
		}
	}
	if chosen, answer = ctx.choose(conn, ssl, &h); answer != C.SCB_HELLO_GO_ON {
		return nil, answer
	}
	var offered [hello.MaxIdentities]hello.Candidate
	wanted := sc.source.Known(h.Candidates(offered[:0]))
	if len(wanted) == 0 {
		return chosen, C.SCB_HELLO_GO_ON
	}
	if conn != nil {
		v := sc.visitOf(conn)
		if v == nil {
			return chosen, C.SCB_HELLO_GO_ON
		}
		v.want(wanted, chosen)
		return chosen, C.SCB_HELLO_PARK
	}
	if a == nil {
		a = trackSSL(ssl)
	}
	if a != nil {
		a.expect(sc, ctx, &h, wanted, chosen)
		if sc.parks() && a.park(ssl) {
			answer = C.SCB_HELLO_PARK
		}
	}
	return chosen, answer
}

// created implements layer. It encodes a new session; the record is stored after the step.
func (sc *SessionCache) created(conn *Conn, ssl *C.SSL, sess *C.SSL_SESSION) {
	i := C.scb_session_get_info(sess)
	if uint16(i.version) == versionTLS13 && C.scb_ssl_options(ssl)&C.SSL_OP_NO_TICKET == 0 {
		return // a stateless ticket, which is never looked up (SEMANTICS F1.5)
	}
	now := time.Now()
	header := resumedHeader(conn, ssl)
	if header.Made.IsZero() {
		header.Made = now
	}
	if header.Origin = originOf(ssl); header.Origin == (SessionOrigin{}) {
		return // for lack of memory
	}
	expires := header.Made.Add(sc.opt.MaxLifetime)
	if i.timeout >= 0 { // else OpenSSL decides at the lookup
		if end := time.Unix(int64(i.time), 0).Add(seconds(int64(i.timeout))); end.Before(expires) {
			expires = end
		}
	}
	if until := int64(C.scb_peer_until(sess)); until != 0 && until < expires.Unix() {
		expires = time.Unix(until, 0)
	}
	if !now.Before(expires) {
		return
	}
	der := C.scb_session_der(sess, entry.HeaderSize, nil)
	if der.len == 0 {
		sc.guard.Report(slog.LevelDebug, "session not stored", errors.New("libssl: a new session cannot be encoded"))
		return
	}
	rec := store.Record{ID: idOf(i.id, i.id_len), Expires: expires}
	rec.Data = entry.Seal(sc.source.Seal, rec.ID, &header, unsafe.Slice((*byte)(unsafe.Pointer(der.p)), int(der.len)))
	C.scb_wipe(unsafe.Pointer(der.p), der.len)
	if err := rec.Validate(); err != nil { // a very large client certificate
		sc.guard.CountTooLarge(fmt.Errorf("libssl: a new session cannot be stored: %w", err))
		return
	}
	sc.keep(conn, rec)
}

// keep has the record of a new session stored: after the step where there is one, else at once, or later where the thread
// is an event loop's or the handshake is over.
func (sc *SessionCache) keep(conn *Conn, rec store.Record) {
	if conn != nil && !conn.hs.complete() {
		if v := sc.visitOf(conn); v != nil && conn.hs.byThread && !v.waits() {
			heap := rec
			sc.guard.Put(context.Background(), &heap)
			return
		} else if v != nil {
			v.created = append(v.created, rec)
			conn.tls.ssl.held = 1
			return
		}
	}
	heap := rec // rec itself can stay on the stack
	if conn == nil && !sc.parks() {
		sc.guard.Put(context.Background(), &heap)
	} else {
		sc.guard.PutLater(&heap)
	}
}

// resumedHeader is that of the entry which a handshake resumed, zero if it resumed none. On an SSL that C made, a new session
// shows that the handshake is over.
func resumedHeader(conn *Conn, ssl *C.SSL) (h entry.Header) {
	reused := C.scb_ssl_reused(ssl) != 0
	if conn == nil {
		if a := attachedOf(ssl); a != nil {
			a.finish(reused)
			h = a.header
		}
	} else if v, ok := conn.tls.visit.(*storeVisit); ok && v.lookups != nil {
		h = v.lookups.Header()
	}
	if !reused {
		return entry.Header{}
	}
	return h
}

// wanted implements layer. A Conn, and a parked SSL that C made, are answered from the lookup that was made meanwhile; any
// other SSL from the store, on this thread.
func (sc *SessionCache) wanted(conn *Conn, ssl *C.SSL, p *C.uchar, n C.int) *C.SSL_SESSION {
	id, err := store.IDFromBytes(unsafe.Slice((*byte)(unsafe.Pointer(p)), int(n)))
	if err != nil {
		return nil
	}
	var v *storeVisit
	var attached *attachedSSL
	if conn != nil {
		v, _ = conn.tls.visit.(*storeVisit)
	} else if attached = attachedOf(ssl); attached != nil {
		v = attached.visit
	} else if !sc.parks() { // C has taken the hook
		v = &storeVisit{cache: sc, lookups: lookup.New(&sc.source)}
		// How the handshake ends is not seen: a taken entry counts as used.
		defer v.lookups.End(context.Background(), true)
	}
	if v == nil || v.cache != sc || v.lookups == nil {
		return nil
	}
	a := v.lookups.Answer(id)
	unseen := true // whether the SSL resumes
	if conn == nil {
		tls13 := C.scb_ssl_version(ssl) == versionTLS13
		if a == nil && !sc.parks() {
			a = sc.lookUpNow(v.lookups, ssl, hello.Candidate{ID: id, PSK: tls13})
		}
		if attached != nil && !tls13 {
			defer func() {
				if unseen { // TLS 1.2 asks only once
					attached.finish(true)
				}
			}()
		}
	}
	if a == nil || a.DER == nil {
		return nil
	}
	c := C.scb_session_check(ssl, bytesPtr(a.DER), C.size_t(len(a.DER)), p, C.uint(n),
		bytesPtr(a.IDContext), C.uint(len(a.IDContext)), C.int64_t(time.Now().Unix()))
	// Where code in C may have given the SSL another id context, OpenSSL decides. Elsewhere it must not see a session that it
	// would refuse: in TLS 1.3 it then makes a full handshake without new tickets.
	if c.sess != nil && c.other_context != 0 && conn != nil && conn.ctx.made {
		C.scb_session_free(c.sess)
		c.sess, c.why = nil, C.int(lookup.OtherIDContext)
	}
	if c.sess == nil {
		v.lookups.Rejected(a, lookup.Reason(c.why))
		return nil
	}
	if C.scb_origin_offer(ssl, (*C.uchar)(&a.Header.Origin[0])) != C.SCB_OK {
		C.scb_session_free(c.sess)
		return nil
	}
	unseen = c.other_context == 0 // else the next new session, or the end of the SSL, will tell
	v.lookups.Accepted(a, !unseen)
	return c.sess
}

// lookUpNow looks a session up on a thread that C drives.
func (sc *SessionCache) lookUpNow(h *lookup.Handshake, ssl *C.SSL, c hello.Candidate) *lookup.Answer {
	current := currentContext(ssl)
	if current == nil || !sc.source.Issued(c.ID) {
		return nil
	}
	sid, err := current.sessionIDContext()
	if err != nil {
		sc.guard.Report(slog.LevelDebug, "session not looked up", err)
		return nil
	}
	return h.LookUpNow(c, sid)
}

// removed implements layer. It queues the deletion, because OpenSSL may hold the context's lock.
func (sc *SessionCache) removed(id SessionID) {
	if !id.IsZero() {
		sc.guard.DeleteLater(id)
	}
}

// nameID implements layer.
func (sc *SessionCache) nameID(random []byte, origin SessionOrigin) { sc.source.NameID(random, origin) }

//export scbGoGenerateID
func scbGoGenerateID(ctxHandle C.uint64_t, origin, id *C.uchar, n *C.uint) C.int {
	// OpenSSL asks for 32 bytes; a shorter id could not be looked up in TLS 1.3
	// (SEMANTICS F2.6).
	b := unsafe.Slice((*byte)(unsafe.Pointer(id)), int(*n))
	rand.Read(b)
	// An SSL keeps the generator it was made with. If the layer was removed since,
	// the id must still be good.
	if ctx, _ := find(ctxHandle, 0); ctx != nil && origin != nil {
		if l := ctx.layer(); l != nil {
			l.nameID(b, *(*SessionOrigin)(unsafe.Pointer(origin)))
		}
	}
	return 1
}

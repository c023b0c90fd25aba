package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"sync"
	"unsafe"

	"github.com/libssl-go/libssl/cgo"
	"github.com/libssl-go/libssl/internal/entry"
	"github.com/libssl-go/libssl/internal/hello"
	"github.com/libssl-go/libssl/internal/parking"
)

// attachedSSL is the store layer's state of an SSL that C made and drives. It ends with the SSL.
//
// One thread at a time uses an SSL, and with it all of this; but while looking is set the visit belongs to a goroutine.
type attachedSSL struct {
	random [32]byte     // of the ClientHello that visit is about
	header entry.Header // of the session that the last handshake resumed
	visit  *storeVisit  // nil between handshakes

	mu      sync.Mutex
	looking bool
	gone    bool
	place   parking.Place      // not nil while parked
	cancel  context.CancelFunc // of the lookup
}

var attachedSSLs cgo.Registry[attachedSSL]

func init() {
	parking.Park = func(cache any, find func(unsafe.Pointer) parking.Place) {
		sc := cache.(*SessionCache)
		sc.findPlace.Store(&find)
		if sc.parks() {
			sc.guard.QueuePutBacks()
		}
	}
	parking.Origin = func(p unsafe.Pointer) (o [16]byte) {
		ssl := (*C.SSL)(p)
		if ctx, _ := find(C.scb_ssl_ctx_handle(ssl), 0); ctx != nil && ctx.layer() != nil && C.scb_ssl_served(ssl) != 0 {
			o = originOf(ssl)
		}
		return o
	}
}

// parks reports whether handshakes of SSLs that C made are parked. A store that never waits is asked at once instead.
func (sc *SessionCache) parks() bool { return sc.findPlace.Load() != nil && !sc.guard.Local() }

func attachedOf(ssl *C.SSL) *attachedSSL {
	return attachedSSLs.Get(cgo.Handle(C.scb_ssl_attached(ssl)))
}

// trackSSL gives ssl an attachedSSL, nil where memory is short.
func trackSSL(ssl *C.SSL) *attachedSSL {
	a := &attachedSSL{}
	h := attachedSSLs.Put(a)
	if C.scb_ssl_set_attached(ssl, C.uint64_t(h)) != C.SCB_OK {
		attachedSSLs.Delete(h)
		return nil
	}
	return a
}

// seenState is what a ClientHello is to an attachedSSL.
type seenState uint8

const (
	unseen       seenState = iota
	stillLooking           // parked, and the lookup has not ended
	lookedUp               // parked before: the sessions of this very ClientHello were looked up
)

// seen is called when the hook sees the SSL again.
func (a *attachedSSL) seen(h *hello.Hello) (chosen *Context, state seenState) {
	a.mu.Lock()
	if a.looking {
		a.mu.Unlock()
		return nil, stillLooking
	}
	a.release()
	a.mu.Unlock()
	v := a.visit
	if v == nil {
		return nil, unseen
	}
	same := string(a.random[:]) == string(h.Random)
	if v.answered && same {
		chosen, _ = v.parkedFor()
		return chosen, lookedUp
	}
	// The ClientHello after a HelloRetryRequest may ask for what was taken for the first one. After SSL_clear the SSL
	// serves another connection, which may not; whether the connection before resumed can no longer be seen.
	if h.First || !same {
		a.finish(true)
	}
	return nil, unseen
}

// release gives the place back. mu is held.
func (a *attachedSSL) release() {
	if a.place != nil {
		a.place.Leave()
		a.place = nil
	}
}

// expect notes the sessions that the ClientHello offers.
func (a *attachedSSL) expect(sc *SessionCache, ctx *Context, h *hello.Hello, wanted []hello.Candidate, chosen *Context) {
	if a.visit != nil && a.visit.cache != sc {
		a.finish(true)
	}
	if a.visit == nil {
		a.visit = newVisit(sc, ctx)
		a.header = entry.Header{}
	}
	a.visit.want(wanted, chosen)
	copy(a.random[:], h.Random)
}

// park has the sessions looked up on a goroutine, if there is a place to wait.
func (a *attachedSSL) park(ssl *C.SSL) bool {
	sc := a.visit.cache
	place := (*sc.findPlace.Load())(unsafe.Pointer(ssl))
	if place == nil {
		return false
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.place, a.looking, a.cancel = place, true, cancel // the goroutine has not started
	if sc.guard.Go(func() { a.resumeParked(ctx, place) }) {
		return true
	}
	cancel()
	a.looking = false
	a.release()
	return false
}

// resumeParked looks the sessions up and lets the handshake go on.
func (a *attachedSSL) resumeParked(ctx context.Context, place parking.Place) {
	a.visit.lookUp(ctx, nil)
	a.cancel()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.looking = false
	if a.gone {
		a.finish(false)
	} else {
		place.Ready()
	}
}

// finish ends the visit. resumed also stands for an outcome that cannot be seen: a taken entry then counts as used.
func (a *attachedSSL) finish(resumed bool) {
	v := a.visit
	if v == nil {
		return
	}
	if resumed {
		a.header = v.lookups.Header()
	}
	v.end(context.Background(), ending{resumed: resumed})
	a.visit = nil
}

//export scbGoAttachedGone
func scbGoAttachedGone(handle C.uint64_t, reused C.int) {
	a := attachedSSLs.Get(cgo.Handle(handle))
	attachedSSLs.Delete(cgo.Handle(handle))
	a.mu.Lock()
	a.gone = true
	a.release()
	looking := a.looking
	a.mu.Unlock()
	if looking {
		a.cancel() // resumeParked finishes
		return
	}
	a.finish(reused != 0)
}

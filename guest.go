package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"sync"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl/cgo"
	"github.com/libssl-go/libssl/internal/parking"
)

// guest is what the store layer remembers of an SSL that C made and drives; a
// Conn has fields for it. It goes with the SSL.
//
// One thread at a time uses an SSL, and with it everything here; but while
// looking is set the resumption is a goroutine's.
type guest struct {
	random [32]byte  // of the ClientHello that resume is about
	origin time.Time // of the session that the last handshake resumed

	resume *resumption // nil between handshakes

	mu      sync.Mutex
	looking bool
	gone    bool
	place   parking.Place      // not nil while parked
	cancel  context.CancelFunc // of the lookup
}

var guests cgo.Registry[guest]

func init() {
	parking.Park = func(cache any, find func(unsafe.Pointer) parking.Place) {
		cache.(*SessionCache).findPlace.Store(&find)
	}
}

// parks says whether handshakes of C's are to be parked: a store that never
// waits is asked at once.
func (sc *SessionCache) parks() bool { return sc.findPlace.Load() != nil && !sc.local }

func guestOf(ssl *C.SSL) *guest { return guests.Get(cgo.Handle(C.scb_ssl_attached(ssl))) }

// invite makes ssl a guest; nil where memory is short.
func invite(ssl *C.SSL) *guest {
	g := &guest{}
	h := guests.Put(g)
	if C.scb_ssl_set_attached(ssl, C.uint64_t(h)) != C.SCB_OK {
		guests.Delete(h)
		return nil
	}
	return g
}

// returns is called when the hook sees the guest's SSL again. waiting: its
// sessions are still looked up. resume is what was found for this very hello.
func (g *guest) returns(hello *clientHello) (waiting bool, resume *resumption) {
	g.mu.Lock()
	if g.looking {
		g.mu.Unlock()
		return true, nil
	}
	g.leave()
	g.mu.Unlock()
	r := g.resume
	if r == nil {
		return false, nil
	}
	same := string(g.random[:]) == string(hello.random)
	if r.answered && same {
		return false, r
	}
	// The hello after a HelloRetryRequest may ask for what was taken for the one
	// before. An SSL that C cleared and uses for another connection may not, and
	// whether the one before resumed nobody can tell any more.
	if hello.first || !same {
		g.finish(true)
	}
	return false, nil
}

// leave gives the place back. Under mu.
func (g *guest) leave() {
	if g.place != nil {
		g.place.Leave()
		g.place = nil
	}
}

// expects notes what the hello offers.
func (g *guest) expects(sc *SessionCache, hello *clientHello, wanted []candidate, chosen *Context) {
	if g.resume != nil && g.resume.cache != sc {
		g.finish(true)
	}
	if g.resume == nil {
		g.resume = &resumption{cache: sc}
		g.origin = time.Time{}
	}
	r := g.resume
	r.wanted, r.chosen = append(r.candidate[:0], wanted...), chosen
	copy(g.random[:], hello.random)
}

// park has the sessions looked up on a goroutine, if there is a place to wait.
func (g *guest) park(ctx *Context, ssl *C.SSL) bool {
	sc := g.resume.cache
	place := (*sc.findPlace.Load())(unsafe.Pointer(ssl))
	if place == nil {
		return false
	}
	lookup, cancel := context.WithCancel(context.Background())
	g.place, g.looking, g.cancel = place, true, cancel // nobody looks yet
	if sc.goWhileOpen(func() {
		g.resume.lookUp(lookup, ctx)
		cancel()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.looking = false
		if g.gone {
			g.finish(false)
		} else {
			place.Ready()
		}
	}) {
		return true
	}
	cancel()
	g.looking = false
	g.leave()
	return false
}

// finish ends the dealings of a handshake; reused says that it has resumed.
func (g *guest) finish(reused bool) {
	if r := g.resume; r != nil {
		r.proved = reused
		if reused {
			g.origin = r.origin
		}
		r.end(context.Background())
		g.resume = nil
	}
}

//export scbGoAttachedGone
func scbGoAttachedGone(h C.uint64_t, reused C.int) {
	g := guests.Get(cgo.Handle(h))
	guests.Delete(cgo.Handle(h))
	g.mu.Lock()
	g.gone = true
	g.leave()
	looking := g.looking
	g.mu.Unlock()
	if looking {
		g.cancel() // the goroutine finishes
		return
	}
	g.finish(reused != 0)
}

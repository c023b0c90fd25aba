package soak

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
)

var errOnPurpose = errors.New("a handler panics on purpose")

// kept are sessions that handlers keep, live or in DER.
type kept struct {
	mu   sync.Mutex
	live map[libssl.SessionID]*libssl.Session
	der  map[libssl.SessionID][]byte

	ended bool
}

const maxKept = 500

// end releases what is kept. Connections that are still there keep nothing more.
func (k *kept) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.live {
		s.Release()
	}
	k.live, k.der, k.ended = nil, nil, true
}

// handlerLane has handlers that keep sessions: alive, and lent with Copy, where there is no internal cache; in DER, and
// given away, where there is one, since a live one that was evicted must not come back (SEMANTICS F3.7).
func (f *fleet) handlerLane(name string, version uint16, internal bool) *lane {
	l := &lane{name: name, version: version}
	l.make = func() *libssl.Context {
		ctx := f.server(version)
		ctx.SetOptions(libssl.OpNoTicket)
		if internal {
			ctx.SetSessionCacheMode(libssl.CacheServer)
			ctx.SetSessionCacheSize(8)
		} else {
			ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
		}
		k := &kept{live: map[libssl.SessionID]*libssl.Session{}, der: map[libssl.SessionID][]byte{}}
		f.handle(ctx, k, internal)
		f.atEnd(ctx, k.end)
		return ctx
	}
	l.disturb = func(ctx *libssl.Context) {
		switch what := rand.IntN(10); {
		case what == 0:
			ctx.FlushSessions(time.Time{})
			f.n.flushes.Add(1)
		case what == 1:
			ctx.FlushSessions(time.Now().Add(time.Hour * time.Duration(rand.IntN(3)-1)))
			f.n.flushes.Add(1)
		case what == 2:
			ctx.SetSessNewCallback(ctx.SessNewCallback())
		case what == 3:
			ctx.SetSessGetCallback(ctx.SessGetCallback())
		case what < 6:
			remove := ctx.SessRemoveCallback()
			ctx.SetSessRemoveCallback(nil)
			ctx.SetSessRemoveCallback(remove)
		default:
			get := ctx.SessGetCallback()
			ctx.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				return nil, libssl.Copy
			})
			ctx.SetSessGetCallback(get)
		}
		f.n.swaps.Add(1)
	}
	return l
}

func (f *fleet) handle(ctx *libssl.Context, k *kept, internal bool) {
	mayPanic := func() {
		if rand.IntN(20) == 0 {
			f.n.panics.Add(1)
			panic(errOnPurpose)
		}
	}
	ctx.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
		mayPanic()
		k.mu.Lock()
		defer k.mu.Unlock()
		id := s.ID()
		if k.ended {
			return false
		}
		if internal {
			if der, err := s.MarshalBinary(); err == nil && len(k.der) < maxKept {
				k.der[id] = der
			}
			return false
		}
		if len(k.live) >= maxKept || k.live[id] != nil {
			return false
		}
		k.live[id] = s
		return true
	})
	ctx.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		mayPanic()
		k.mu.Lock()
		defer k.mu.Unlock()
		if der := k.der[id]; der != nil {
			s, err := libssl.ParseSession(der)
			if err != nil {
				f.n.fail("%v", err)
			}
			return s, libssl.Transfer
		}
		if s := k.live[id]; s != nil && rand.IntN(2) == 0 {
			delete(k.live, id)
			return s, libssl.Transfer
		} else if s != nil {
			return s, libssl.Copy
		}
		return nil, libssl.Copy
	})
	ctx.SetSessRemoveCallback(func(ctx *libssl.Context, s *libssl.Session) {
		switch rand.IntN(20) {
		case 0:
			if r, err := s.Retain(); err == nil {
				defer r.Release()
			}
		case 1: // where the lock is held
			err := ctx.FlushSessions(time.Unix(1, 0))
			if err != nil && !errors.Is(err, libssl.ErrReentrant) && !errors.Is(err, libssl.ErrClosed) {
				f.n.fail("a flush by a remove handler: %v", err)
			}
		}
		mayPanic()
	})
}

package libssl

// #include "bridge.h"
import "C"

import (
	"runtime"
	"sync/atomic"
)

// stepSlots bounds how many steps, and constructions of an SSL, run at once. Each takes an OS thread, and Go's scheduler
// starts another thread for the goroutines that wait.
//
// A remove handler may run under the lock of its SSL_CTX. Steps of the same Context then wait for it and may hold all
// slots. The handler itself may wait for a connection of another Context, so there are spare slots for these meanwhile.
var stepSlots = newSlots(2*runtime.GOMAXPROCS(0) + 8)

type slots struct {
	all, spare chan struct{}
	removals   atomic.Int32                  // remove handlers that run
	waiting    atomic.Int32                  // calls of takeSlot that wait
	began      atomic.Pointer[chan struct{}] // closed when a remove handler begins to run
}

// slot is the channel that a step has put its token into, nil for none.
type slot chan struct{}

func newSlots(n int) *slots {
	s := &slots{all: make(chan struct{}, n), spare: make(chan struct{}, n)}
	began := make(chan struct{})
	s.began.Store(&began)
	return s
}

// takeSlot waits for a slot for a step of a Conn of ctx. A handler that drives a connection of its own goes on without one:
// all slots may be held by steps that wait for a lock of its thread.
func takeSlot(ctx *Context) slot {
	select {
	case stepSlots.all <- struct{}{}:
		return stepSlots.all
	default:
	}
	if C.scb_in_handler() != 0 {
		return nil
	}
	return stepSlots.wait(ctx)
}

func (s *slots) wait(ctx *Context) slot {
	s.waiting.Add(1) // before began is read: see beginRemoval
	defer s.waiting.Add(-1)
	for {
		began := *s.began.Load()
		var spare slot
		if s.removals.Load() > 0 && ctx.removals.Load() == 0 {
			spare = s.spare
		}
		select {
		case s.all <- struct{}{}:
			return s.all
		case spare <- struct{}{}:
			return spare
		case <-began:
		}
	}
}

func (s slot) give() {
	if s != nil {
		<-s
	}
}

// beginRemoval and endRemoval surround a remove handler of ctx.
func (s *slots) beginRemoval(ctx *Context) {
	ctx.removals.Add(1)
	s.removals.Add(1)
	if s.waiting.Load() > 0 {
		next := make(chan struct{})
		close(*s.began.Swap(&next))
	}
}

func (s *slots) endRemoval(ctx *Context) {
	s.removals.Add(-1)
	ctx.removals.Add(-1)
}

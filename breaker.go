package libssl

import (
	"sync"
	"time"
)

// breaker leaves a failing store alone: it opens on five failures in a row, or
// when half of a second's calls fail, and then lets one call a second through
// to try.
type breaker struct {
	mu     sync.Mutex
	now    func() time.Time // nil: time.Now
	row    int              // failures in a row
	window time.Time        // start of the second that is counted
	calls  int
	failed int
	open   bool
	next   time.Time // when open: the next try
}

const (
	breakerRow      = 5
	breakerMinCalls = 20
	breakerPeriod   = time.Second
)

type outcome uint8

const (
	outcomeGood outcome = iota
	outcomeBad
	outcomeNone // says nothing about the store
)

// breakerChange is what a call's outcome changed.
type breakerChange uint8

const (
	breakerSame    breakerChange = iota
	breakerFailing               // the first failure in a second
	breakerOpened
	breakerClosed
)

func (b *breaker) time() time.Time {
	if b.now != nil {
		return b.now()
	}
	return time.Now()
}

// allow says whether a call may be made, and whether it is the try of an open
// breaker; done must follow.
func (b *breaker) allow() (probe, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return false, true
	}
	if t := b.time(); !t.Before(b.next) {
		b.next = t.Add(breakerPeriod)
		return true, true
	}
	return false, false
}

func (b *breaker) done(probe bool, o outcome) breakerChange {
	if o == outcomeNone {
		return breakerSame
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open {
		// Calls from before it opened say nothing new.
		if probe && o == outcomeGood {
			b.open, b.row, b.window, b.calls, b.failed = false, 0, time.Time{}, 0, 0
			return breakerClosed
		}
		return breakerSame
	}
	t := b.time()
	if t.Sub(b.window) >= breakerPeriod {
		b.window, b.calls, b.failed = t, 0, 0
	}
	b.calls++
	change := breakerSame
	if o == outcomeGood {
		b.row = 0
	} else {
		b.row++
		b.failed++
		if b.failed == 1 {
			change = breakerFailing
		}
	}
	if b.row >= breakerRow || (b.calls >= breakerMinCalls && 2*b.failed >= b.calls) {
		b.open, b.next = true, t.Add(breakerPeriod)
		return breakerOpened
	}
	return change
}

func (b *breaker) isOpen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

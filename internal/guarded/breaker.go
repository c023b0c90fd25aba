package guarded

import (
	"sync"
	"time"
)

// breaker stops calls to a failing store. It opens after five failures in a row, or when half of the calls within a second
// fail, and then lets one call a second through as a probe.
type breaker struct {
	mu          sync.Mutex
	now         func() time.Time // nil: time.Now
	consecutive int              // failures in a row
	window      time.Time        // start of the second in which calls are counted
	calls       int
	failed      int
	open        bool
	next        time.Time // of an open breaker's next probe
}

const (
	breakerConsecutive = 5
	breakerMinCalls    = 20
	breakerPeriod      = time.Second
)

type outcome uint8

const (
	outcomeGood outcome = iota
	outcomeBad
	outcomeNone // the call was given up: it does not show the state of the store
)

// breakerChange is how an outcome changed the breaker.
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

// allow reports whether a call may be made, and whether it is the probe of an open breaker. done must follow it.
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
		// Calls that began before it opened bring no news.
		if probe && o == outcomeGood {
			b.open, b.consecutive, b.window, b.calls, b.failed = false, 0, time.Time{}, 0, 0
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
		b.consecutive = 0
	} else {
		b.consecutive++
		b.failed++
		if b.failed == 1 {
			change = breakerFailing
		}
	}
	if b.consecutive >= breakerConsecutive || (b.calls >= breakerMinCalls && 2*b.failed >= b.calls) {
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

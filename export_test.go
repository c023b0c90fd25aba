package libssl

import "time"

// SealEntry and OpenEntry let black-box tests craft entries.
var (
	SealEntry = seal
	OpenEntry = open
)

// SetTimeouts changes the budgets of a cache that no handshake uses at the moment.
func (sc *SessionCache) SetTimeouts(lookup, put time.Duration) {
	sc.opt.LookupTimeout, sc.opt.PutTimeout = lookup, put
}

// SetBreakerClock sets the clock of a cache that is not in use yet.
func (sc *SessionCache) SetBreakerClock(now func() time.Time) { sc.breaker.now = now }

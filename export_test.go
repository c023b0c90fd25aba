package libssl

import "time"

// What the black-box tests craft entries with.
var (
	SealEntry = seal
	OpenEntry = open
)

// SetBreakerClock sets the clock of a cache that is not in use yet.
func (sc *SessionCache) SetBreakerClock(now func() time.Time) { sc.breaker.now = now }

package libssl

import (
	"time"

	"github.com/libssl-go/libssl/internal/entry"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
)

// SealEntry and OpenEntry are for black-box tests that craft entries.
func SealEntry(keys *ticket.Ring, id store.ID, made time.Time, der []byte) []byte {
	h := entry.Header{Made: made, Origin: [16]byte{1}}
	return entry.Seal(keys, id, &h, append(make([]byte, entry.HeaderSize), der...))
}

func OpenEntry(keys *ticket.Ring, id store.ID, data []byte) (der []byte, made time.Time, err error) {
	h, der, err := entry.Open(keys, id, data, nil)
	return der, h.Made, err
}

// SetTimeouts changes the time limits of a cache that no handshake uses at the moment.
func (sc *SessionCache) SetTimeouts(lookup, put time.Duration) { sc.guard.SetTimeouts(lookup, put) }

// SetBreakerClock sets the clock of a cache that is not in use yet.
func (sc *SessionCache) SetBreakerClock(now func() time.Time) { sc.guard.SetClock(now) }

// Closing reports whether Close has begun to wait for the queue: what fails from then on it counts as lost.
func (sc *SessionCache) Closing() bool { return !sc.guard.Go(func() {}) }

// AgeCachedSessions makes the sessions of the client cache older.
func AgeCachedSessions(c *Context, by time.Duration) {
	cache := c.resuming.cache.Load()
	cache.mu.Lock()
	defer cache.mu.Unlock()
	for _, server := range cache.servers {
		for _, s := range server.sessions {
			s.SetTime(s.Time().Add(-by))
		}
	}
}

// UseThreads has Listeners accept with threads outside Go, or not.
func UseThreads(on bool) { noThreads.Store(!on) }

func UsesThreads() bool { return !noThreads.Load() }

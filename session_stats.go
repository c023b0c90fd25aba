package libssl

// #include "bridge.h"
import "C"

import (
	"encoding/json"
	"sync/atomic"
	"time"
)

type counters struct {
	hits, misses, errors, timeouts, undecodable         atomic.Uint64
	lookupErrors, lookupTimeouts, lookupsSkipped        atomic.Uint64
	untagged, suspended, stored, removed, lost, putBack atomic.Uint64
	skipped, taken                                      atomic.Uint64
	rejections                                          [rejectionCount]atomic.Uint64
	parked, queue                                       atomic.Int64
	get, put, full, resumed                             histogram
}

func (s *counters) reject(why Rejection) { s.rejections[why].Add(1) }

// Rejection is why an entry was not given to OpenSSL, or why OpenSSL would not
// have taken it.
type Rejection uint8

const (
	RejectedForged    Rejection = 0 // not authentic, damaged, or another id's
	RejectedNoCipher  Rejection = C.SCB_ENTRY_NO_CIPHER
	RejectedOtherID   Rejection = C.SCB_ENTRY_OTHER_ID
	RejectedVersion   Rejection = C.SCB_ENTRY_OTHER_VERSION // of the protocol
	RejectedIDContext Rejection = C.SCB_ENTRY_OTHER_CONTEXT // another host or policy
	RejectedExpired   Rejection = C.SCB_ENTRY_EXPIRED
	RejectedLifetime  Rejection = C.SCB_ENTRY_EXPIRED + 1 // beyond StoreOptions.MaxLifetime
	rejectionCount              = RejectedLifetime + 1
)

var rejectionNames = map[Rejection]string{
	RejectedForged: "forged", RejectedNoCipher: "no cipher", RejectedOtherID: "other id", RejectedVersion: "other version",
	RejectedIDContext: "other id context", RejectedExpired: "expired", RejectedLifetime: "beyond MaxLifetime",
}

func (r Rejection) String() string { return rejectionNames[r] }

// RejectionCounts are counts by Rejection. As JSON they are an object with the
// reasons' names.
type RejectionCounts [rejectionCount]uint64

// MarshalJSON implements json.Marshaler.
func (c RejectionCounts) MarshalJSON() ([]byte, error) {
	named := make(map[string]uint64, len(c))
	for why, name := range rejectionNames {
		named[name] = c[why]
	}
	return json.Marshal(named)
}

// UnmarshalJSON implements json.Unmarshaler. Names it does not know, another
// version's, it passes over.
func (c *RejectionCounts) UnmarshalJSON(b []byte) error {
	var named map[string]uint64
	if err := json.Unmarshal(b, &named); err != nil {
		return err
	}
	for why, name := range rejectionNames {
		c[why] = named[name]
	}
	return nil
}

// Rejections are all reasons.
func Rejections() []Rejection {
	return []Rejection{RejectedForged, RejectedNoCipher, RejectedOtherID, RejectedVersion, RejectedIDContext, RejectedExpired, RejectedLifetime}
}

// CacheStats are a SessionCache's counters. A lookup counts once, as one of
// Hits, Misses, Rejected, Undecodable, LookupErrors, LookupTimeouts and
// LookupsSkipped; as none of them where the handshake was given up meanwhile or
// OpenSSL did not ask for what was found.
type CacheStats struct {
	Hits        uint64 // sessions that OpenSSL was given
	Misses      uint64 // the store had nothing
	Errors      uint64 // the store failed, in any operation
	Timeouts    uint64 // the store was too slow, in any operation
	Rejected    uint64 // entries that were tampered with, expired, or of another host, policy or version
	Undecodable uint64 // entries that this process cannot read; another member of the fleet may

	LookupErrors   uint64 // of Errors, those of lookups
	LookupTimeouts uint64 // of Timeouts, those of lookups
	LookupsSkipped uint64 // of Skipped, lookups

	Untagged  uint64 // of Misses, ids that this fleet cannot have issued: never looked up
	Suspended uint64 // handshakes that were parked for a lookup
	Skipped   uint64 // operations left out while the breaker was open
	Stored    uint64 // entries written
	Removed   uint64 // entries deleted
	Taken     uint64 // entries taken for single use
	PutBack   uint64 // taken entries that went back, the client unproven
	Lost      uint64 // queued operations given up
	Parked    int    // handshakes parked now
	Queue     int    // operations queued now
	Open      bool   // the breaker is open

	// RejectedFor splits Rejected by its reason.
	RejectedFor RejectionCounts

	Get, Put      Histogram // the store's answers, late ones up to the timeout
	Full, Resumed Histogram // handshakes that went well on Conns, waiting for the peer and the store included, the caller's pauses not
}

// Stats reads the counters.
func (sc *SessionCache) Stats() CacheStats {
	s := &sc.stats
	st := CacheStats{
		Hits: s.hits.Load(), Misses: s.misses.Load(), Errors: s.errors.Load(), Timeouts: s.timeouts.Load(),
		Undecodable:  s.undecodable.Load(),
		LookupErrors: s.lookupErrors.Load(), LookupTimeouts: s.lookupTimeouts.Load(), LookupsSkipped: s.lookupsSkipped.Load(),
		Untagged: s.untagged.Load(), Suspended: s.suspended.Load(), Skipped: s.skipped.Load(),
		Stored: s.stored.Load(), Removed: s.removed.Load(), Taken: s.taken.Load(), PutBack: s.putBack.Load(), Lost: s.lost.Load(),
		Parked: int(s.parked.Load()), Queue: int(s.queue.Load()), Open: sc.breaker.isOpen(),
		Get: s.get.read(), Put: s.put.read(), Full: s.full.read(), Resumed: s.resumed.read(),
	}
	for i := range st.RejectedFor {
		st.RejectedFor[i] = s.rejections[i].Load()
		st.Rejected += st.RejectedFor[i]
	}
	return st
}

// String is Stats as JSON, which makes a SessionCache an expvar.Var.
func (sc *SessionCache) String() string {
	b, err := json.Marshal(sc.Stats())
	if err != nil {
		return "{}"
	}
	return string(b)
}

// HistogramBounds are the upper bounds of a Histogram's counts.
var HistogramBounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 10 * time.Second,
}

// Histogram counts durations by their length: Counts[i] those of at most
// HistogramBounds[i] and more than the bound before, the last one the longer
// ones.
type Histogram struct {
	Counts [len(HistogramBounds) + 1]uint64
	Sum    time.Duration
}

// Count is how many durations were counted.
func (h Histogram) Count() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

type histogram struct {
	counts [len(HistogramBounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(HistogramBounds) && d > HistogramBounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) read() (out Histogram) {
	for i := range h.counts {
		out.Counts[i] = h.counts[i].Load()
	}
	out.Sum = time.Duration(h.sum.Load())
	return out
}

// shookHands counts a handshake where there is a store.
func (c *Context) shookHands(conn *Conn) {
	sc := c.cache.Load()
	switch {
	case sc == nil:
	case conn.SessionReused():
		sc.stats.resumed.observe(conn.took)
	default:
		sc.stats.full.observe(conn.took)
	}
}

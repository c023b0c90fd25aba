package libssl

// #include "bridge.h"
import "C"

import (
	"encoding/json"
	"time"

	"github.com/libssl-go/libssl/internal/guarded"
	"github.com/libssl-go/libssl/internal/lookup"
)

// Rejection is why an entry was not given to OpenSSL, or why OpenSSL would not
// have taken it.
type Rejection uint8

const (
	RejectedForged    = Rejection(lookup.Forged) // not authentic, damaged, or stored under another id
	RejectedNoCipher  = Rejection(lookup.NoCipher)
	RejectedOtherID   = Rejection(lookup.OtherID)
	RejectedVersion   = Rejection(lookup.OtherVersion)   // of the protocol
	RejectedIDContext = Rejection(lookup.OtherIDContext) // another host or policy
	RejectedExpired   = Rejection(lookup.Expired)
	RejectedName      = Rejection(lookup.OtherName)      // another server name, of another certificate
	RejectedHello     = Rejection(lookup.OtherHello)     // the client asks for what the session has not
	RejectedPeer      = Rejection(lookup.Peer)           // the client certificate is not valid now, or missing where one is required
	RejectedLifetime  = Rejection(lookup.BeyondLifetime) // beyond StoreOptions.MaxLifetime
	RejectedRevoked   = Rejection(lookup.Revoked)        // see SessionCache.Revoke
)

// The reasons of internal/lookup have the numbers that scb_session_check answers: a difference does not compile.
var (
	_ = [1]struct{}{}[lookup.Undecodable-C.SCB_ENTRY_UNDECODABLE]
	_ = [1]struct{}{}[lookup.Peer-C.SCB_ENTRY_PEER]
)

var rejectionNames = map[Rejection]string{
	RejectedForged: "forged", RejectedNoCipher: "no cipher", RejectedOtherID: "other id", RejectedVersion: "other version",
	RejectedIDContext: "other id context", RejectedExpired: "expired", RejectedName: "other name",
	RejectedHello: "other hello", RejectedPeer: "peer", RejectedLifetime: "beyond MaxLifetime",
	RejectedRevoked: "revoked",
}

func (r Rejection) String() string { return rejectionNames[r] }

// RejectionCounts are counts by Rejection. As JSON they are an object with the
// reasons' names.
type RejectionCounts [lookup.Reasons]uint64

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
	return []Rejection{RejectedForged, RejectedNoCipher, RejectedOtherID, RejectedVersion, RejectedIDContext, RejectedExpired, RejectedName, RejectedHello,
		RejectedPeer, RejectedLifetime, RejectedRevoked}
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
	Skipped   uint64 // operations left out while their breaker was open
	Stored    uint64 // entries written
	Removed   uint64 // entries deleted
	Taken     uint64 // entries taken for single use
	PutBack   uint64 // taken entries that went back, the client unproven
	Lost      uint64 // queued operations given up
	TooLarge  uint64 // sessions not stored because their client certificates are too large for a record
	Parked    int    // handshakes parked now
	Queue     int    // operations queued now
	Open      bool   // the breaker of lookups or that of writes is open

	// RejectedFor splits Rejected by its reason.
	RejectedFor RejectionCounts

	Get, Put      Histogram // the store's answers, late ones up to the timeout
	Full, Resumed Histogram // handshakes that went well on Conns, waiting for the peer and the store included, the caller's pauses not
}

// Stats reads the counters.
func (sc *SessionCache) Stats() CacheStats {
	g, l := &sc.guard.Stats, &sc.source.Stats
	untagged := l.Untagged.Load()
	st := CacheStats{
		Hits: l.Hits.Load(), Misses: g.Misses.Load() + untagged, Errors: g.Errors.Load(), Timeouts: g.Timeouts.Load(),
		Undecodable:  l.Rejections[lookup.Undecodable].Load(),
		LookupErrors: g.LookupErrors.Load(), LookupTimeouts: g.LookupTimeouts.Load(), LookupsSkipped: g.LookupsSkipped.Load(),
		Untagged: untagged, Suspended: l.Suspended.Load(), Skipped: g.Skipped.Load(),
		Stored: g.Stored.Load(), Removed: g.Removed.Load(), Taken: g.Taken.Load(), PutBack: g.PutBack.Load(), Lost: g.Lost.Load(), TooLarge: g.TooLarge.Load(),
		Parked: int(l.Parked.Load()), Queue: int(g.Queue.Load()), Open: sc.guard.Open(),
		Get: readHistogram(&g.Get), Put: readHistogram(&g.Put), Full: readHistogram(&sc.full), Resumed: readHistogram(&sc.resumed),
	}
	for _, why := range Rejections() {
		st.RejectedFor[why] = l.Rejections[why].Load()
		st.Rejected += st.RejectedFor[why]
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

// HistogramBounds are the upper bounds of the counts in a Histogram.
var HistogramBounds = guarded.Bounds

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

func readHistogram(h *guarded.Histogram) (out Histogram) {
	for i := range h.Counts {
		out.Counts[i] = h.Counts[i].Load()
	}
	out.Sum = time.Duration(h.Sum.Load())
	return out
}

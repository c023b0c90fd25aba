package guarded

import (
	"sync/atomic"
	"time"
)

// Counters count a Store's calls.
type Counters struct {
	Misses                                       atomic.Uint64 // lookups that found nothing
	Errors, Timeouts, Skipped                    atomic.Uint64 // of all operations
	LookupErrors, LookupTimeouts, LookupsSkipped atomic.Uint64 // of these, lookups
	Stored, Removed, Taken, PutBack, Lost        atomic.Uint64
	TooLarge                                     atomic.Uint64 // records that were not put
	Queue                                        atomic.Int64  // operations queued now
	Get, Put                                     Histogram
}

// Bounds are the upper bounds of the counts in a Histogram.
var Bounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 10 * time.Second,
}

// Histogram counts durations by their length: Counts[i] those of at most Bounds[i] and more than the bound before, the last
// one the longer ones.
type Histogram struct {
	Counts [len(Bounds) + 1]atomic.Uint64
	Sum    atomic.Int64
}

// Observe counts d.
func (h *Histogram) Observe(d time.Duration) {
	i := 0
	for i < len(Bounds) && d > Bounds[i] {
		i++
	}
	h.Counts[i].Add(1)
	h.Sum.Add(int64(d))
}

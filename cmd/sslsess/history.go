package main

import (
	"context"
	"sync"
	"time"
)

const (
	historyPeriod = time.Second
	historyLength = 300 // periods
)

// history keeps the number of handshakes in each of the last periods, so that a freshly opened page shows the past too.
type history struct {
	counts func() (full, resumed uint64) // totals so far

	mu            sync.Mutex
	before        [2]uint64
	full, resumed []uint64 // of each period, the oldest first
}

// pastHandshakes is the answer to /history.
type pastHandshakes struct {
	PeriodMS int64    `json:"period_ms"`
	Full     []uint64 `json:"full"`
	Resumed  []uint64 `json:"resumed"`
}

func newHistory(counts func() (full, resumed uint64)) *history {
	return &history{counts: counts, full: []uint64{}, resumed: []uint64{}}
}

func (h *history) run(ctx context.Context) {
	tick := time.NewTicker(historyPeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.sample()
		case <-ctx.Done():
			return
		}
	}
}

// sample ends a period.
func (h *history) sample() {
	full, resumed := h.counts()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.full, h.resumed = remember(h.full, full-h.before[0]), remember(h.resumed, resumed-h.before[1])
	h.before = [2]uint64{full, resumed}
}

// remember makes a new list, so that the lists that read has returned do not change.
func remember(list []uint64, n uint64) []uint64 {
	list = append(list[:len(list):len(list)], n)
	return list[max(0, len(list)-historyLength):]
}

func (h *history) read() pastHandshakes {
	h.mu.Lock()
	defer h.mu.Unlock()
	return pastHandshakes{historyPeriod.Milliseconds(), h.full, h.resumed}
}

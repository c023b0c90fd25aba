package guarded

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// testClock is a clock that stands still until it is moved.
type testClock struct{ nanos atomic.Int64 }

func newTestClock() *testClock {
	c := &testClock{}
	c.nanos.Store(time.Now().UnixNano())
	return c
}

func (c *testClock) now() time.Time          { return time.Unix(0, c.nanos.Load()) }
func (c *testClock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

func newTestBreaker() (*breaker, *testClock) {
	clock := newTestClock()
	return &breaker{now: clock.now}, clock
}

// try makes a call with outcome o and reports whether the breaker let it through.
func (b *breaker) try(o outcome) bool {
	probe, ok := b.allow()
	if ok {
		b.done(probe, o)
	}
	return ok
}

func TestBreaker_OpensOnFiveFailuresInARow(t *testing.T) {
	b, clock := newTestBreaker()
	for range breakerConsecutive - 1 {
		require.True(t, b.try(outcomeBad))
		clock.advance(time.Hour) // a row is a row however slowly it comes
	}
	require.False(t, b.isOpen())
	b.try(outcomeGood) // ends the row
	for range breakerConsecutive - 1 {
		require.True(t, b.try(outcomeBad))
		clock.advance(2 * breakerPeriod)
	}
	require.False(t, b.isOpen())
	require.True(t, b.try(outcomeBad))
	require.True(t, b.isOpen())
	require.False(t, b.try(outcomeGood), "an open breaker lets nothing through")
}

func TestBreaker_OpensOnHalfOfASecondsCalls(t *testing.T) {
	for _, tt := range []struct {
		name     string
		outcomes []outcome // repeated until there are n calls
		n        int
		every    time.Duration
		open     bool
	}{
		{"half of 20", []outcome{outcomeGood, outcomeBad}, 20, time.Millisecond, true},
		{"half of 18", []outcome{outcomeGood, outcomeBad}, 18, time.Millisecond, false},
		{"a third", []outcome{outcomeGood, outcomeGood, outcomeBad}, 300, time.Millisecond, false},
		{"three quarters, four in a row", []outcome{outcomeBad, outcomeBad, outcomeBad, outcomeGood}, 20, time.Millisecond, true},
		{"half, but fewer than 20 a second", []outcome{outcomeGood, outcomeBad}, 100, 100 * time.Millisecond, false},
		{"says nothing", []outcome{outcomeNone}, 100, time.Millisecond, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, clock := newTestBreaker()
			for i := range tt.n {
				require.False(t, b.isOpen(), "after %d calls", i)
				require.True(t, b.try(tt.outcomes[i%len(tt.outcomes)]))
				clock.advance(tt.every)
			}
			require.Equal(t, tt.open, b.isOpen())
		})
	}
}

func TestBreaker_TriesOnceASecondAndCloses(t *testing.T) {
	b, clock := newTestBreaker()
	for range breakerConsecutive {
		b.try(outcomeBad)
	}
	require.True(t, b.isOpen())
	clock.advance(breakerPeriod - 1)
	require.False(t, b.try(outcomeGood))
	clock.advance(1)
	require.True(t, b.try(outcomeBad), "the try of this second")
	require.True(t, b.isOpen())
	require.False(t, b.try(outcomeGood), "one try a second")

	clock.advance(breakerPeriod)
	require.True(t, b.try(outcomeNone), "a try that says nothing")
	require.True(t, b.isOpen())
	require.False(t, b.try(outcomeGood))

	clock.advance(breakerPeriod)
	require.True(t, b.try(outcomeGood))
	require.False(t, b.isOpen())
	for range breakerConsecutive - 1 { // and it has forgotten the failures
		require.True(t, b.try(outcomeBad))
	}
	require.False(t, b.isOpen())
}

func TestBreaker_IgnoresCallsFromBeforeItOpened(t *testing.T) {
	b, _ := newTestBreaker()
	probe, ok := b.allow()
	require.True(t, ok)
	require.False(t, probe)
	for range breakerConsecutive {
		b.try(outcomeBad)
	}
	b.done(probe, outcomeGood)
	require.True(t, b.isOpen())
}

func TestBreaker_OneOfManyTries(t *testing.T) {
	b, clock := newTestBreaker()
	for range breakerConsecutive {
		b.try(outcomeBad)
	}
	for range 10 {
		clock.advance(breakerPeriod)
		var tries atomic.Int32
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if b.try(outcomeBad) {
					tries.Add(1)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 1, tries.Load())
	}
}

func TestBreaker_SaysWhatChanged(t *testing.T) {
	b, clock := newTestBreaker()
	try := func(o outcome) breakerChange {
		probe, ok := b.allow()
		require.True(t, ok)
		return b.done(probe, o)
	}
	require.Equal(t, breakerSame, try(outcomeGood))
	require.Equal(t, breakerFailing, try(outcomeBad))
	require.Equal(t, breakerSame, try(outcomeBad), "once a second")
	require.Equal(t, breakerSame, try(outcomeGood))
	require.Equal(t, breakerSame, try(outcomeBad))
	clock.advance(breakerPeriod)
	require.Equal(t, breakerFailing, try(outcomeBad))
	for range breakerConsecutive - 3 {
		require.Equal(t, breakerSame, try(outcomeBad))
	}
	require.Equal(t, breakerOpened, try(outcomeBad))
	require.Equal(t, breakerSame, b.done(false, outcomeBad), "a call from before")
	for _, o := range []outcome{outcomeBad, outcomeNone} {
		clock.advance(breakerPeriod)
		require.Equal(t, breakerSame, try(o))
	}
	clock.advance(breakerPeriod)
	require.Equal(t, breakerClosed, try(outcomeGood))
	require.Equal(t, breakerFailing, try(outcomeBad))
}

package valkeystore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Attempts every millisecond over a day: some hundred are let through in the first quarter of an hour, then two a minute, and
// another sentinel is not held up by them.
func TestPace_OneOutage(t *testing.T) {
	var p pace
	begin := time.Now()
	count := func(from, to time.Duration) (n int) {
		for at := from; at < to; at += 10 * time.Millisecond {
			if p.allow("a", begin.Add(at)) {
				n++
			}
		}
		return n
	}
	require.Equal(t, 5, count(0, time.Second), "a new server is found soon")
	require.Less(t, count(time.Second, 15*time.Minute), 100)
	require.LessOrEqual(t, count(15*time.Minute, time.Hour), 2*45+1)
	require.True(t, p.allow("b", begin.Add(time.Hour)))
	require.False(t, p.allow("b", begin.Add(time.Hour)))
	require.False(t, p.allow("a", begin.Add(time.Hour)))
	require.True(t, p.allow("a", begin.Add(time.Hour+calm+time.Second)), "another outage")
	require.True(t, p.allow("a", begin.Add(time.Hour+calm+time.Second+minPause)))
}

func TestPace_RemembersFewAddresses(t *testing.T) {
	var p pace
	for i := range 10 * maxSentinels {
		p.allow(string(rune('a'+i)), time.Now())
	}
	require.LessOrEqual(t, len(p.addrs), maxSentinels)
}

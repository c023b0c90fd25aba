package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestHistory_RemembersTheLastPeriods(t *testing.T) {
	t.Parallel()
	var full, resumed uint64
	h := newHistory(func() (uint64, uint64) { return full, resumed })
	assert.Equal(t, pastHandshakes{1000, []uint64{}, []uint64{}}, h.read(), "empty lists must not be null in JSON")
	full, resumed = 3, 1
	h.sample()
	h.sample()
	resumed = 6
	h.sample()
	read := h.read()
	want := pastHandshakes{1000, []uint64{3, 0, 0}, []uint64{1, 0, 5}}
	assert.Equal(t, want, read)
	for range historyLength - 2 {
		full++
		h.sample()
	}
	assert.Equal(t, want, read, "a list that was read has changed")
	read = h.read()
	assert.Len(t, read.Full, historyLength)
	assert.Equal(t, []uint64{0, 0, 1}, read.Full[:3])
	assert.Equal(t, []uint64{0, 5, 0}, read.Resumed[:3])
}

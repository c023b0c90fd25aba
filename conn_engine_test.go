package libssl

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Connections that are made at once count against the bound on OS threads.
func TestServer_WaitsForASlot(t *testing.T) {
	ctx, err := NewContext(ServerRole)
	require.NoError(t, err)
	defer ctx.Close()
	for range cap(stepSlots.all) {
		stepSlots.all <- struct{}{}
	}
	_, nc := net.Pipe()
	made := make(chan *Conn, 1)
	go func() {
		c, err := Server(nc, ctx)
		assert.NoError(t, err)
		made <- c
	}()
	time.Sleep(20 * time.Millisecond) // too short a time would only not tell
	assert.Empty(t, made, "made without a slot")
	for range cap(stepSlots.all) {
		<-stepSlots.all
	}
	(<-made).Abort()
}

// While a remove handler runs, steps of its Context may hold all slots and wait for the lock that it holds. It may still
// wait for a connection of another Context.
func TestStepSlots_ARemoveHandlerMayWaitForOthers(t *testing.T) {
	s, busy, other := newSlots(1), &Context{}, &Context{}
	s.all <- struct{}{} // a step that waits for the lock
	taken := make(chan slot)
	go func() { taken <- s.wait(other) }()
	for s.waiting.Load() == 0 { // it waits, or is about to
		time.Sleep(time.Millisecond)
	}
	s.beginRemoval(busy)
	got := <-taken
	assert.Equal(t, slot(s.spare), got)
	got.give()
	got = s.wait(other)
	assert.Equal(t, slot(s.spare), got, "also one that comes later")
	got.give()

	go func() { taken <- s.wait(busy) }()
	for s.waiting.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	s.beginRemoval(other)
	s.endRemoval(other)
	s.endRemoval(busy)
	slot(s.all).give()
	got = <-taken
	assert.Equal(t, slot(s.all), got, "but the Context's own steps wait")
	got.give()
	assert.Empty(t, s.all)
	assert.Empty(t, s.spare)
	assert.Zero(t, s.removals.Load())
}

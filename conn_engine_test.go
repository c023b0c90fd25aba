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
	for range cap(stepSlots) {
		stepSlots <- struct{}{}
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
	for range cap(stepSlots) {
		<-stepSlots
	}
	(<-made).Abort()
}

package peers_test

import (
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

// Servers of one fleet may differ in MaxLifetime. A session that has not expired, and that its issuer resumes, is too old
// for a server that allows less.
func TestMaxLifetime_IsTheLookingServers(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		st, ring := newShared(), newRing(t)
		issuer, _ := h.node(t, st, libssl.StoreOptions{Keys: ring})
		strict, cache := h.node(t, st, libssl.StoreOptions{Keys: ring, MaxLifetime: time.Nanosecond})
		client := h.client(t)
		_, sess := h.visit(t, client, issuer, nil)
		resumed, _ := h.visit(t, client, strict, sess)
		require.False(t, resumed)
		require.EqualValues(t, 1, cache.Stats().RejectedFor[libssl.RejectedLifetime])
		resumed, _ = h.visit(t, client, issuer, sess)
		require.True(t, resumed)
	})
}

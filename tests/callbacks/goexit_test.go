//go:build !asan

// AddressSanitizer goes on to count the stack of abandoned C frames as in use.

package callbacks_test

import (
	"runtime"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/require"
)

// OpenSSL raises the count for the new callback and lowers it after a false. A handler that calls runtime.Goexit ends
// OpenSSL's call in between, so the binding has to lower it: freeing the SSLs must destroy the session.
func TestSessNew_GoexitGivesTheReferenceBack(t *testing.T) {
	for _, m := range modes {
		if m.news == 0 {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			client, server := newClient(t), m.server(t)
			server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
			before, calls := cref.LiveSessions(), 0
			server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool {
				calls++
				runtime.Goexit()
				return false
			})
			p := newPair(t, client, server, nil)
			ended, returned := make(chan struct{}), false
			go func() {
				defer close(ended)
				p.Run()
				returned = true
			}()
			<-ended
			require.False(t, returned, "the goroutine goes on after a Goexit")
			require.Equal(t, 1, calls)
			p.Free(false)
			require.Equal(t, before, cref.LiveSessions())
		})
	}
}

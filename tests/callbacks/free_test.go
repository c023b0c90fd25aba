package callbacks_test

import (
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// SSL_free of a broken connection calls remove after the ex_data hook that ends the counting of the SSL. A pointer that
// becomes NULL before that call is a crash where another thread has tested it (SEMANTICS F4.2), so a Conn counts until
// SSL_free returns.
func TestConn_CountsUntilItsSessionIsGivenUp(t *testing.T) {
	for _, m := range modes {
		if m.news == 0 {
			continue // no id, and no remove
		}
		t.Run(m.name, func(t *testing.T) {
			client, server := newClient(t), m.server(t)
			for _, cb := range three {
				cb.set(server, true)
			}
			removed := false
			sslCtx := server.Pointer()
			server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) {
				removed = true
				for _, which := range []int{cref.New, cref.Get} {
					assert.Equal(t, cref.Others, cref.Installed(sslCtx, which), "the connection still counts")
				}
			})
			l := linkGo(t, client, server, nil)
			l.session.Release()
			for _, cb := range three[:2] {
				cb.set(server, false)
			}
			l.close(false)
			require.True(t, removed)
			for _, which := range []int{cref.New, cref.Get} {
				require.Equal(t, cref.Unset, cref.Installed(sslCtx, which))
			}
		})
	}
}

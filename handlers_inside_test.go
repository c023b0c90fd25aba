package libssl_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// All code of the user that runs inside a step may use the step's Conn: its methods answer at once, and do not wait for the
// step.
func TestHandlers_AreAllThatRunsInsideAStep(t *testing.T) {
	m := askingModes()[0]
	places := map[string]func(t *testing.T, ca *tlstest.CA, client, server *libssl.Context, use func()){
		"key log": func(_ *testing.T, _ *tlstest.CA, _, server *libssl.Context, use func()) {
			server.SetKeyLogWriter(writerFunc(func(p []byte) (int, error) { use(); return len(p), nil }))
		},
		"a bad answer of get": func(_ *testing.T, _ *tlstest.CA, _, server *libssl.Context, use func()) {
			var dead *libssl.Session
			server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool { dead = s; return false })
			server.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				return dead, libssl.Copy
			})
			server.OnCallbackError(func(*libssl.CallbackError) { use() })
		},
		"a closed Context for a name": func(t *testing.T, ca *tlstest.CA, _, server *libssl.Context, use func()) {
			closed := newServer(t, ca)
			require.NoError(t, closed.Close())
			server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return closed })
			server.OnCallbackError(func(*libssl.CallbackError) { use() })
		},
		"an error of the store layer": func(t *testing.T, ca *tlstest.CA, client, server *libssl.Context, use func()) {
			var names []string // a session of more than an entry may have
			for i := range 3000 {
				names = append(names, fmt.Sprintf("client-%04d.example.test", i))
			}
			cert, key := ca.Leaf(t, names...)
			require.NoError(t, client.UseCertificatePEM(cert, key))
			require.NoError(t, server.AddClientCAsPEM(ca.PEM))
			require.NoError(t, server.SetVerify(libssl.VerifyPeer))
			useStore(t, server, memstore.New(memstore.Options{}), &libssl.StoreOptions{OnError: func(error) { use() }})
		},
	}
	for name, install := range places {
		t.Run(name, func(t *testing.T) {
			ca := tlstest.NewCA(t, "ca")
			client, server := newClient(t, ca), newServer(t, ca)
			require.NoError(t, client.AddRootCAsPEM(ca.PEM))
			for _, ctx := range []*libssl.Context{client, server} {
				require.NoError(t, ctx.SetVersions(m.version, m.version))
			}
			require.NoError(t, server.SetSessionIDContext([]byte("inside")))
			server.SetOptions(libssl.OpNoTicket)
			server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
			var conn atomic.Pointer[libssl.Conn]
			var uses atomic.Int32
			install(t, ca, client, server, func() {
				uses.Add(1)
				if c := conn.Load(); c != nil {
					c.SessionReused()
					c.ConnectionState()
					_, err := c.Write([]byte("x"))
					assert.ErrorIs(t, err, libssl.ErrReentrant)
				}
			})
			var sess *libssl.Session
			for range 2 {
				cn, sn := tcpPipe(t)
				c, s := wrap(t, cn, sn, client, server)
				if sess != nil {
					require.NoError(t, c.SetSession(sess))
				}
				conn.Store(s)
				watch := time.AfterFunc(30*time.Second, func() { panic("a method of the Conn hangs") })
				err := exchange(c, s)
				watch.Stop()
				if name != "a closed Context for a name" {
					require.NoError(t, err)
					sess = sessionOf(t, c)
				}
				conn.Store(nil)
				closeBoth(c, s)
			}
			require.Positive(t, uses.Load())
		})
	}
}

package callbacks_test

import (
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/require"
)

// tenant links SSLs of C, of which the server's has an id context of its own.
func tenant(t *testing.T, client, server *libssl.Context, sid string, offer *libssl.Session) (bool, *libssl.Session) {
	t.Helper()
	p, err := cref.NewPair(client.Pointer(), server.Pointer(), "server.test", offer.Pointer())
	require.NoError(t, err)
	defer p.Free(true)
	require.True(t, cref.SetIDContext(p.Server(), sid))
	require.True(t, p.Run())
	s, err := libssl.WrapSession(p.Session(), libssl.Transfer)
	require.NoError(t, err)
	t.Cleanup(s.Release)
	return p.Reused(), s
}

// C may give each SSL an id context. A session resumes under its own one only, and another one has a reason of its own.
func TestStore_IDContextOfOneSSL(t *testing.T) {
	for _, m := range storeModes() {
		for name, opt := range map[string]*libssl.StoreOptions{"sealed": nil, "plaintext": {Plaintext: true}} {
			t.Run(m.name+"/"+name, func(t *testing.T) {
				client, server := newClient(t), m.server(t)
				cache := useStore(t, server, memstore.New(memstore.Options{}), opt)
				resumed, sess := tenant(t, client, server, "one", nil)
				require.False(t, resumed)
				for range 2 {
					resumed, next := tenant(t, client, server, "one", sess)
					require.True(t, resumed)
					sess = next
				}
				stats := cache.Stats()
				require.EqualValues(t, 2, stats.Hits)
				require.Zero(t, stats.Rejected)
				resumed, _ = tenant(t, client, server, "two", sess)
				require.False(t, resumed)
				resumed, _ = visit(t, engines[0], client, server, sess)
				require.False(t, resumed)
				stats = cache.Stats()
				require.EqualValues(t, 2, stats.Hits)
				require.EqualValues(t, 2, stats.RejectedFor[libssl.RejectedIDContext])
				require.EqualValues(t, 2, stats.Rejected)
			})
		}
	}
}

// C changes the id context of its SSL_CTX under a store.
func TestStore_IDContextThatCChanged(t *testing.T) {
	for _, m := range storeModes() {
		for _, e := range engines {
			t.Run(m.name+"/"+e.name, func(t *testing.T) {
				p := cref.NewContext(false)
				defer cref.FreeContext(p)
				client := newClient(t)
				server, err := libssl.AttachContext(p)
				require.NoError(t, err)
				t.Cleanup(func() { server.Close() })
				m.prepare(t, server)
				cache := useStore(t, server, memstore.New(memstore.Options{}), nil)
				_, before := visit(t, e, client, server, nil)
				require.True(t, cref.SetContextIDContext(server.Pointer(), "changed"))
				resumed, _ := visit(t, e, client, server, before)
				require.False(t, resumed)
				_, sess := visit(t, e, client, server, nil)
				resumed, _ = visit(t, e, client, server, sess)
				require.True(t, resumed)
				require.Zero(t, cache.Stats().RejectedFor[libssl.RejectedForged])
			})
		}
	}
}

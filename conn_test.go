package libssl_test

import (
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

func TestSmoke(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	for name, v := range versions {
		t.Run(name, func(t *testing.T) {
			server, client := newServer(t, ca), newClient(t, ca)
			require.NoError(t, server.SetVersions(v, v))
			sc, err := server.UseStore(memstore.New(memstore.Options{}), nil)
			require.NoError(t, err)
			c, s := handshake(t, client, server, nil)
			require.False(t, c.SessionReused())
			sess, err := c.Session()
			require.NoError(t, err)
			defer sess.Release()
			t.Log(sess.Text())
			c.Close()
			s.Close()
			c, s = handshake(t, client, server, sess)
			require.True(t, c.SessionReused())
			require.True(t, s.SessionReused())
			t.Logf("%+v", sc.Stats())
			require.NoError(t, sc.Close(t.Context()))
		})
	}
	_ = libssl.Version
}

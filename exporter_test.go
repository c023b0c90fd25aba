package libssl_test

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

func TestExporter_AsCryptoTLS(t *testing.T) {
	eachInterop(t, func(t *testing.T, i *interop) {
		i.goClient.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		var sess *libssl.Session
		for visit := range 2 {
			c, s := i.connect(t, sess)
			ours, theirs := c, s
			if i.ours == "server" {
				ours, theirs = s, c
			}
			conn := ours.(*libssl.Conn)
			_, err := conn.ExportKeyingMaterial("EXPERIMENTAL label", nil, 32)
			require.ErrorContains(t, err, "before the handshake is complete")
			require.NoError(t, exchange(c, s))
			state := theirs.ConnectionState()
			require.Equal(t, visit > 0, state.DidResume)
			for _, context := range [][]byte{nil, {}, []byte("context")} {
				for _, length := range []int{0, 1, 32, 1000} {
					want, err := state.ExportKeyingMaterial("EXPERIMENTAL label", context, length)
					require.NoError(t, err)
					got, err := conn.ExportKeyingMaterial("EXPERIMENTAL label", context, length)
					require.NoError(t, err)
					require.Equal(t, want, got, "context %#v, length %d", context, length)
				}
			}
			_, err = conn.ExportKeyingMaterial("label", nil, -1)
			require.Error(t, err)
			if i.version == tls.VersionTLS12 {
				_, err = conn.ExportKeyingMaterial("master secret", nil, 32)
				var e *libssl.Error
				require.ErrorAs(t, err, &e, "a reserved label")
				require.Len(t, state.TLSUnique, 12)
			}
			require.Equal(t, state.TLSUnique, conn.ConnectionState().TLSUnique)
			if i.ours == "client" {
				sess = sessionOf(t, conn)
			}
			closeBoth(c, s)
			_, err = conn.ExportKeyingMaterial("label", nil, 32)
			require.ErrorIs(t, err, libssl.ErrClosed)
		}
	})
}

// Without the extended master secret a resumption binds no channel, and two connections may share their secret.
func TestExporter_NeedsTheExtendedMasterSecret(t *testing.T) {
	if strings.HasPrefix(libssl.Version(), "OpenSSL 1.1.1") {
		t.Skip("OpenSSL 1.1.1 has no SSL_OP_NO_EXTENDED_MASTER_SECRET")
	}
	f := newFleet(t, tls.VersionTLS12)
	server := f.server(t)
	server.SetOptions(libssl.OpNoExtendedMasterSecret)
	var sess *libssl.Session
	for visit := range 2 {
		c, s := handshake(t, f.client, server, sess)
		require.Equal(t, visit > 0, c.SessionReused())
		for _, conn := range []*libssl.Conn{c, s} {
			_, err := conn.ExportKeyingMaterial("label", nil, 32)
			require.ErrorIs(t, err, libssl.ErrUnsupported)
			require.Equal(t, visit == 0, conn.ConnectionState().TLSUnique != nil)
		}
		require.Equal(t, c.ConnectionState().TLSUnique, s.ConnectionState().TLSUnique)
		sess = sessionOf(t, c)
		closeBoth(c, s)
	}
}

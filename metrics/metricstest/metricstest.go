// Package metricstest has what exporters' tests export.
package metricstest

import (
	"context"
	"net"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// Served is a cache that has made a full handshake, and the Context it is on; both are closed with the test.
func Served(t testing.TB) (*libssl.SessionCache, *libssl.Context) {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	require.NoError(t, ctx.UseCertificatePEM(tlstest.NewCA(t, "ca").Leaf(t, "localhost")))
	sc, err := ctx.UseStore(memstore.New(memstore.Options{}), nil)
	require.NoError(t, err)
	t.Cleanup(func() { sc.Close(context.Background()) })
	client, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	require.NoError(t, client.SetVerify(libssl.VerifyNone))

	cn, sn := net.Pipe()
	s, err := libssl.Server(sn, ctx)
	require.NoError(t, err)
	c, err := libssl.Client(cn, client, "localhost")
	require.NoError(t, err)
	go s.Write([]byte("x"))
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
	c.Abort()
	s.Abort()
	return sc, ctx
}

// Package metricstest makes metrics for the tests of exporters.
package metricstest

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// Served returns a cache that has served a full handshake, and its Context. Both are closed when the test ends.
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
	// The aborted connection removes its sessions. Once the queue is empty the metrics no longer change.
	require.Eventually(t, func() bool { return sc.Stats().Queue == 0 }, time.Minute, time.Millisecond)
	return sc, ctx
}

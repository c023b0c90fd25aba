package peers_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/require"
)

// Ten thousand contexts, by turns with handlers and with a store; each caches a session or two, some serve a client.
// When they are closed nothing is left of them, and every session that was cached has been reported.
func TestContexts_TenThousandUsedALittle(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 500
	}
	h := newHost(t, stateful13)
	var book notebook
	client := h.client(t)
	_, spare := h.visit(t, client, h.server(t, book.on), nil)
	before, live, gone := libssl.LiveResources(), cref.LiveSessions(), cref.ContextsDestroyed()
	var removes, added, served atomic.Int64
	use := func(i int) (err error) {
		ctx, err := libssl.NewContext(libssl.ServerRole)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, ctx.Close()) }()
		serves := i%100 == 0
		if serves {
			err = errors.Join(ctx.UseCertificatePEM(h.cert, h.key), ctx.SetSessionIDContext([]byte("many")))
			ctx.SetOptions(libssl.OpNoTicket)
		}
		if i%2 == 0 {
			sc, serr := ctx.UseStore(memstore.New(memstore.Options{}), nil)
			if err = errors.Join(err, serr); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, sc.Close(context.Background())) }()
		} else {
			ctx.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { return false })
			ctx.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { removes.Add(1) })
			s, derr := spare.Dup()
			if err = errors.Join(err, derr); err != nil {
				return err
			}
			defer s.Release()
			if _, err = ctx.AddSession(s); err != nil {
				return err
			}
			added.Add(1)
		}
		if !serves {
			return err
		}
		v := &visitor{client: client, server: ctx, name: h.name}
		err = errors.Join(err, v.visit(), v.visit())
		v.sess.Release()
		served.Add(v.resumed.Load())
		return err
	}
	var workers sync.WaitGroup
	failed := make(chan error, 4)
	for w := range 4 {
		workers.Go(func() {
			for i := w; i < n; i += 4 {
				if err := use(i); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	workers.Wait()
	close(failed)
	for err := range failed {
		require.NoError(t, err)
	}
	require.EqualValues(t, n/2, added.Load())
	require.EqualValues(t, n/2, removes.Load())
	require.EqualValues(t, n/100, served.Load())
	require.Equal(t, before, libssl.LiveResources())
	require.Equal(t, live, cref.LiveSessions())
	require.Equal(t, gone+n, cref.ContextsDestroyed())
}

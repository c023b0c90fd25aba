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

// crowd makes Contexts one after the other, by turns with handlers and with a store, and uses each a little.
type crowd struct {
	h                      *host
	client                 *libssl.Context
	spare                  *libssl.Session // for the caches
	removes, added, served atomic.Int64
}

// use makes the ith Context, has it cache a session or serve a client, and closes it.
func (c *crowd) use(i int) (err error) {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ctx.Close()) }()
	serves := i%100 == 0
	err = ctx.SetSessionIDContext([]byte("many"))
	if serves {
		err = errors.Join(err, ctx.UseCertificatePEM(c.h.cert, c.h.key))
		ctx.SetOptions(libssl.OpNoTicket)
	}
	if i%2 == 0 {
		sc, serr := ctx.UseStore(memstore.New(memstore.Options{}), nil)
		if err = errors.Join(err, serr); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, sc.Close(context.Background())) }()
	} else if err = errors.Join(err, c.cache(ctx)); err != nil {
		return err
	}
	if !serves {
		return err
	}
	v := &visitor{client: c.client, server: ctx, name: c.h.name}
	err = errors.Join(err, v.visit(), v.visit())
	v.sess.Release()
	c.served.Add(v.resumed.Load())
	return err
}

// cache gives ctx handlers and a session in its internal cache.
func (c *crowd) cache(ctx *libssl.Context) error {
	ctx.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { return false })
	ctx.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { c.removes.Add(1) })
	s, err := c.spare.Dup()
	if err != nil {
		return err
	}
	defer s.Release()
	c.added.Add(1)
	_, err = ctx.AddSession(s)
	return err
}

// After Close nothing is left of ten thousand Contexts, and remove has reported every session they cached.
func TestContexts_TenThousandUsedALittle(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 500
	}
	c := crowd{h: newHost(t, stateful13)}
	var book notebook
	c.client = c.h.client(t)
	_, c.spare = c.h.visit(t, c.client, c.h.server(t, book.on), nil)
	before, live, gone := libssl.LiveResources(), cref.LiveSessions(), cref.ContextsDestroyed()
	var workers sync.WaitGroup
	failed := make(chan error, 4)
	for w := range 4 {
		workers.Go(func() {
			for i := w; i < n; i += 4 {
				if err := c.use(i); err != nil {
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
	require.EqualValues(t, n/2, c.added.Load())
	require.EqualValues(t, n/2, c.removes.Load())
	require.EqualValues(t, n/100, c.served.Load())
	require.Equal(t, before, libssl.LiveResources())
	require.Equal(t, live, cref.LiveSessions())
	require.Equal(t, gone+n, cref.ContextsDestroyed())
}

package libssl_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

func TestStore_EverythingAtOnce(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		opt := &libssl.StoreOptions{Keys: newRing(t), SingleUse: true, LookupTimeout: time.Minute, PutTimeout: time.Minute}
		type node struct {
			ctx   *libssl.Context
			cache *libssl.SessionCache
		}
		var nodes [3]atomic.Pointer[node]
		start := func(i int) {
			ctx := f.server(t)
			nodes[i].Store(&node{ctx, useStore(t, ctx, st, opt)})
		}
		for i := range nodes {
			start(i)
		}
		var clients, disturbers sync.WaitGroup
		failed := make(chan error, 8*rounds)
		var resumed atomic.Int64
		for n := range 8 {
			clients.Go(func() {
				var sess *libssl.Session
				for r := range rounds {
					server := nodes[(n+r)%len(nodes)].Load().ctx
					cn, sn := tcpPipe(t)
					s, err := libssl.Server(sn, server)
					if errors.Is(err, libssl.ErrClosed) { // replaced meanwhile
						cn.Close()
						sn.Close()
						continue
					}
					c, cerr := libssl.Client(cn, f.client, f.name)
					if err = errors.Join(err, cerr); err != nil {
						failed <- err
						return
					}
					if sess != nil {
						c.SetSession(sess)
					}
					if err := exchange(c, s); err != nil {
						failed <- err
					} else {
						if s.SessionReused() {
							resumed.Add(1)
						}
						sess.Release()
						sess, _ = c.Session()
					}
					if r%7 == 0 {
						s.Abort()
					}
					closeBoth(c, s)
				}
				sess.Release()
			})
		}
		stop := make(chan struct{})
		for _, disturb := range []func(r int){
			func(r int) { // another cache on the same Context
				n := nodes[0].Load()
				n.cache.Close(context.Background())
				runtime.Gosched()
				sc, err := n.ctx.UseStore(st, opt)
				if err != nil {
					failed <- err
					return
				}
				nodes[0].Store(&node{n.ctx, sc})
			},
			func(r int) { // another Context
				old := nodes[1].Load()
				start(1)
				old.ctx.Close()
				old.cache.Close(context.Background())
			},
			func(r int) { // another key
				opt.Keys.Rotate()
				nodes[2].Load().cache.Stats()
			},
		} {
			disturbers.Go(func() {
				for r := 0; ; r++ {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
						disturb(r)
					}
				}
			})
		}
		clients.Wait()
		close(stop)
		disturbers.Wait()
		for i := range nodes {
			nodes[i].Load().cache.Close(context.Background())
		}
		close(failed)
		for err := range failed {
			require.NoError(t, err)
		}
		t.Logf("%d resumed", resumed.Load())
	})
}

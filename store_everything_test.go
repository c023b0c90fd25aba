package libssl_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

// round offers sess to two servers at the same time. It returns a new session,
// nil if neither server made one, and the ids that were resumed from.
func (f *fleet) round(t *testing.T, servers [2]*libssl.Context, sess *libssl.Session, abort bool) (next *libssl.Session, from []store.ID, err error) {
	var mu sync.Mutex
	var both sync.WaitGroup
	for _, server := range servers {
		cn, sn := tcpPipe(t)
		both.Go(func() {
			got, id, failed := f.offer(cn, sn, server, sess, abort)
			mu.Lock()
			defer mu.Unlock()
			err = errors.Join(err, failed)
			if !id.IsZero() {
				from = append(from, id)
			}
			if got != nil {
				next.Release()
				next = got
			}
		})
	}
	both.Wait()
	return next, from, err
}

// offer makes one connection that offers sess. A server that is closed already
// makes none.
func (f *fleet) offer(cn, sn net.Conn, server *libssl.Context, sess *libssl.Session, abort bool) (next *libssl.Session, from store.ID, err error) {
	defer cn.Close()
	defer sn.Close()
	s, err := libssl.Server(sn, server)
	if errors.Is(err, libssl.ErrClosed) {
		return nil, from, nil
	}
	if err != nil {
		return nil, from, err
	}
	c, err := libssl.Client(cn, f.client, f.name)
	if err != nil {
		s.Close()
		return nil, from, err
	}
	defer closeBoth(c, s)
	if sess != nil {
		err = c.SetSession(sess)
	}
	if err = errors.Join(err, exchange(c, s)); err != nil {
		return nil, from, err
	}
	if s.SessionReused() != !s.ResumedFrom().IsZero() {
		return nil, from, fmt.Errorf("resumed: %t, from %v", s.SessionReused(), s.ResumedFrom())
	}
	next, err = c.Session()
	if abort {
		s.Abort()
	}
	return next, s.ResumedFrom(), err
}

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
		var mu sync.Mutex
		used := map[store.ID]int{}
		for n := range 8 {
			clients.Go(func() {
				var sess *libssl.Session
				for r := range rounds {
					if n == 0 && r%5 == 4 { // a key stays in the ring for several rotations
						opt.Keys.Rotate()
					}
					at := func(i int) *libssl.Context { return nodes[(n+r+i)%len(nodes)].Load().ctx }
					next, from, err := f.round(t, [2]*libssl.Context{at(0), at(1)}, sess, r%7 == 0)
					sess.Release()
					sess = next
					if err != nil {
						failed <- err
					}
					mu.Lock()
					for _, id := range from {
						used[id]++
					}
					mu.Unlock()
				}
				sess.Release()
			})
		}
		stop := make(chan struct{})
		for _, disturb := range []func(){
			func() { // another cache on the same Context
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
			func() { // another Context
				old := nodes[1].Load()
				start(1)
				old.ctx.Close()
				old.cache.Close(context.Background())
			},
			func() { nodes[2].Load().cache.Stats() },
		} {
			disturbers.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
						disturb()
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
		resumed := 0
		for id, n := range used {
			resumed += n
			if f.version == tls.VersionTLS13 {
				require.Equal(t, 1, n, "%v was offered twice", id)
			}
		}
		t.Logf("%d resumed", resumed)
		require.Greater(t, resumed, rounds, "of %d offers", 2*8*(rounds-1))
	})
}

package libssl_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGetters_GiveBackTheClosure(t *testing.T) {
	_, server := modes[0].pair(t, false)
	require.Nil(t, server.SessNewCallback())
	require.Nil(t, server.SessGetCallback())
	require.Nil(t, server.SessRemoveCallback())
	var called []string
	server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { called = append(called, "new"); return true })
	server.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		called = append(called, "get")
		return nil, libssl.Transfer
	})
	server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { called = append(called, "remove") })
	require.True(t, server.SessNewCallback()(nil, nil))
	_, flag := server.SessGetCallback()(nil, libssl.SessionID{})
	require.Equal(t, libssl.Transfer, flag)
	server.SessRemoveCallback()(nil, nil)
	require.Equal(t, []string{"new", "get", "remove"}, called)
	server.SetSessNewCallback(nil)
	server.SetSessGetCallback(nil)
	server.SetSessRemoveCallback(nil)
	require.Nil(t, server.SessNewCallback())
	require.Nil(t, server.SessGetCallback())
	require.Nil(t, server.SessRemoveCallback())
}

func TestSetters_WhileServing(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			client, server := m.pair(t, true)
			server.SetSessionCacheSize(3)
			var mu sync.Mutex
			sealed := map[libssl.SessionID][]byte{}
			var called struct{ news, gets, removes, resumed atomic.Int64 }
			news := []libssl.NewSessionFunc{nil, func(_ *libssl.SSL, s *libssl.Session) bool {
				called.news.Add(1)
				mu.Lock()
				defer mu.Unlock()
				sealed[s.ID()] = derOf(t, s)
				return false
			}, func(_ *libssl.SSL, s *libssl.Session) bool { s.Release(); return false }}
			gets := []libssl.GetSessionFunc{nil, func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				called.gets.Add(1)
				mu.Lock()
				der, ok := sealed[id]
				mu.Unlock()
				if !ok {
					return nil, libssl.Copy
				}
				s, err := libssl.ParseSession(der)
				assert.NoError(t, err)
				assert.Equal(t, id, s.ID())
				return s, libssl.Transfer
			}}
			removes := []libssl.RemoveSessionFunc{nil, func(ctx *libssl.Context, s *libssl.Session) {
				called.removes.Add(1)
				assert.Same(t, server, ctx)
				assert.NotZero(t, s.ID())
			}}
			stop := make(chan struct{})
			var others sync.WaitGroup
			forever := func(f func(i int)) {
				others.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
							f(i)
						}
					}
				})
			}
			// Each setter has one goroutine, so a getter there returns a closure exactly if one is set.
			forever(func(i int) {
				f := news[i%len(news)]
				server.SetSessNewCallback(f)
				assert.Equal(t, f == nil, server.SessNewCallback() == nil)
			})
			forever(func(i int) {
				f := gets[i%len(gets)]
				server.SetSessGetCallback(f)
				assert.Equal(t, f == nil, server.SessGetCallback() == nil)
			})
			forever(func(i int) {
				f := removes[i%len(removes)]
				server.SetSessRemoveCallback(f)
				assert.Equal(t, f == nil, server.SessRemoveCallback() == nil)
			})
			forever(func(int) { assert.NoError(t, server.FlushSessions(time.Time{})); server.Stats() })
			spare := makeSession(t, modes[0])
			forever(func(int) {
				// A fresh object each time: one that a handshake evicts must not come
				// back meanwhile (SEMANTICS F3.7).
				s, err := spare.Dup()
				assert.NoError(t, err)
				_, err = server.AddSession(s)
				assert.NoError(t, err)
				_, err = server.RemoveSession(s)
				assert.NoError(t, err)
				s.Release()
			})
			// Handshakes go on until every handler that the mode calls has been called.
			all := func() bool {
				return called.removes.Load() > 0 && called.resumed.Load() > 0 &&
					(m.news == 0 || called.news.Load() > 0) && (!m.asks || called.gets.Load() > 0)
			}
			limit := time.Now().Add(time.Minute)
			var serving sync.WaitGroup
			for range 4 {
				serving.Go(func() {
					var sess *libssl.Session
					for i := 0; i < 15 || !all() && time.Now().Before(limit); i++ {
						c, s := handshake(t, client, server, sess)
						assert.Equal(t, c.SessionReused(), s.SessionReused())
						if c.SessionReused() {
							called.resumed.Add(1)
						}
						sess.Release()
						var err error
						sess, err = c.Session()
						assert.NoError(t, err)
						if i%4 == 3 {
							s.Abort()
						}
						closeBoth(c, s)
					}
					sess.Release()
				})
			}
			serving.Wait()
			close(stop)
			others.Wait()
			require.True(t, all(), "%d new, %d get, %d remove, %d resumed",
				called.news.Load(), called.gets.Load(), called.removes.Load(), called.resumed.Load())

			// The last setter decides.
			server.SetSessNewCallback(news[1])
			server.SetSessGetCallback(gets[1])
			server.SetSessRemoveCallback(nil)
			require.NoError(t, server.FlushSessions(time.Time{}))
			server.SetSessRemoveCallback(removes[1])
			called.news.Store(0)
			called.gets.Store(0)
			called.removes.Store(0)
			sess, _ := offer(t, client, server, nil)
			require.EqualValues(t, m.news, called.news.Load())
			require.NoError(t, server.FlushSessions(time.Time{}))
			require.EqualValues(t, m.news, called.removes.Load())
			_, reused := offer(t, client, server, sess)
			require.True(t, reused)
			require.Equal(t, m.asks, called.gets.Load() > 0)
		})
	}
}

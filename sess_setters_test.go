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
			var called atomic.Int64
			news := []libssl.NewSessionFunc{nil, func(_ *libssl.SSL, s *libssl.Session) bool {
				called.Add(1)
				mu.Lock()
				defer mu.Unlock()
				sealed[s.ID()] = derOf(t, s)
				return false
			}, func(_ *libssl.SSL, s *libssl.Session) bool { s.Release(); return false }}
			gets := []libssl.GetSessionFunc{nil, func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				called.Add(1)
				mu.Lock()
				der, ok := sealed[id]
				mu.Unlock()
				if !ok {
					return nil, libssl.Copy
				}
				s, err := libssl.ParseSession(der)
				assert.NoError(t, err)
				return s, libssl.Transfer
			}}
			removes := []libssl.RemoveSessionFunc{nil, func(_ *libssl.Context, s *libssl.Session) { called.Add(1); s.ID() }}
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
			forever(func(i int) { server.SetSessNewCallback(news[i%len(news)]); server.SessNewCallback() })
			forever(func(i int) { server.SetSessGetCallback(gets[i%len(gets)]); server.SessGetCallback() })
			forever(func(i int) { server.SetSessRemoveCallback(removes[i%len(removes)]); server.SessRemoveCallback() })
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
			var serving sync.WaitGroup
			for range 4 {
				serving.Go(func() {
					var sess *libssl.Session
					for i := range 15 {
						c, s := handshake(t, client, server, sess)
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
			t.Logf("%d calls", called.Load())
		})
	}
}

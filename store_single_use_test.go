package libssl_test

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

func TestStore_SingleUseResumesOnce(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		opt := &libssl.StoreOptions{Keys: newRing(t), SingleUse: true}
		a, cacheA := f.node(t, st, opt)
		b, _ := f.node(t, st, opt)
		require.NotZero(t, a.SetOptions(0)&libssl.OpNoAntiReplay, "or nothing would resume with early data on")
		first := f.visit(t, a, nil)
		second := f.visit(t, b, first.next)
		require.True(t, second.resumed)
		again := f.visit(t, a, first.next)
		if f.version == tls.VersionTLS12 {
			require.True(t, again.resumed, "ids of TLS 1.2 are read, not taken")
			require.Empty(t, st.asked(&st.takes))
			require.Len(t, st.asked(&st.gets), 2)
			return
		}
		require.False(t, again.resumed)
		require.Empty(t, st.asked(&st.gets))
		require.Len(t, st.asked(&st.takes), 2)
		require.Empty(t, st.asked(&st.deletes))
		require.EqualValues(t, 1, cacheA.Stats().Misses)
		require.True(t, f.visit(t, a, second.next).resumed)
	})
}

func TestStore_SingleUseForgedBinderBurnsNothing(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	for _, single := range []bool{true, false} {
		st := newSpy()
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), SingleUse: single})
		sess := f.visit(t, server, nil).next
		before := st.record(t, storeID(t, sess))
		forged := altered(t, sess, fieldSecret)

		cn, sn := tcpPipe(t)
		c, s := f.ends(t, cn, sn, server, forged)
		go c.Handshake()
		var failed *libssl.Error
		require.ErrorAs(t, s.Handshake(), &failed)
		require.Equal(t, "handshake", failed.Op)
		require.Zero(t, s.ResumedFrom())
		closeBoth(c, s)
		if single {
			require.Equal(t, []store.ID{storeID(t, sess)}, st.asked(&st.takes))
			require.EqualValues(t, 1, cache.Stats().PutBack)
		}
		require.Equal(t, before, st.record(t, storeID(t, sess)))
		require.True(t, f.visit(t, server, sess).resumed)
	}
}

// cutter closes after the first write.
type cutter struct{ net.Conn }

func (c *cutter) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.Conn.Close()
	return n, err
}

func TestStore_SingleUseProvenClientThatLeaves(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	st := newSpy()
	server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), SingleUse: true})
	sess := f.visit(t, server, nil).next
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, &cutter{cn}, sn, server, sess)
	go c.Handshake()
	require.Error(t, s.Handshake())
	closeBoth(c, s)
	require.Len(t, st.asked(&st.takes), 1)
	require.Zero(t, cache.Stats().PutBack, "its binder was good: that was the use")
	require.False(t, f.visit(t, server, sess).resumed)
}

func TestStore_SingleUseGivenUpWhileParked(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	for name, giveUp := range map[string]func(s *libssl.Conn, cancel context.CancelFunc){
		"Close":  func(s *libssl.Conn, _ context.CancelFunc) { s.Close() },
		"Abort":  func(s *libssl.Conn, _ context.CancelFunc) { s.Abort() },
		"cancel": func(_ *libssl.Conn, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			st := newSpy()
			entered, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			st.OnTake = func(ctx context.Context, id store.ID) (store.Record, error) {
				once.Do(func() {
					close(entered)
					<-release
				})
				return st.mem.Take(context.WithoutCancel(ctx), id)
			}
			server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), SingleUse: true, LookupTimeout: time.Minute, PutTimeout: time.Minute})
			sess := f.visit(t, server, nil).next
			before := st.record(t, storeID(t, sess))
			cn, sn := tcpPipe(t)
			c, s := f.ends(t, cn, sn, server, sess)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go c.Handshake()
			failed := make(chan error, 1)
			go func() { failed <- s.HandshakeContext(ctx) }()
			receive(t, "the Take", entered)
			giveUp(s, cancel)
			if name == "cancel" {
				require.ErrorIs(t, receive(t, "the handshake", failed), context.Canceled, "without waiting for the store")
			}
			close(release)
			if name != "cancel" {
				require.Error(t, receive(t, "the handshake", failed))
			}
			// A cancelled handshake ends before the Take: its entry is put back later.
			wait(t, "the entry", func() bool {
				_, err := st.mem.Get(t.Context(), before.ID)
				return err == nil && cache.Stats().PutBack == 1
			})
			require.Zero(t, cache.Stats().Errors+cache.Stats().Timeouts)
			require.Equal(t, before, st.record(t, storeID(t, sess)))
			require.True(t, f.visit(t, server, sess).resumed)
		})
	}
}

package libssl_test

import (
	"context"
	"crypto/tls"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

// bare has a Store's methods only.
type bare struct{ store.Store }

func TestUseStore_Refuses(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	mem := memstore.New(memstore.Options{})
	ring := newRing(t)
	for name, tt := range map[string]struct {
		prepare func(c *libssl.Context)
		st      store.Store
		opt     *libssl.StoreOptions
		is      error
		says    string
	}{
		"nil store": {st: nil, says: "nil store"},
		"new callback": {prepare: func(c *libssl.Context) {
			c.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { return false })
		}, st: mem, says: "callback is installed"},
		"get callback": {prepare: func(c *libssl.Context) {
			c.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) { return nil, libssl.Copy })
		}, st: mem, says: "callback is installed"},
		"remove callback":     {prepare: func(c *libssl.Context) { c.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) {}) }, st: mem, says: "callback is installed"},
		"a second store":      {prepare: func(c *libssl.Context) { useStore(t, c, mem, nil) }, st: mem, says: "has a store"},
		"closed":              {prepare: func(c *libssl.Context) { c.Close() }, st: mem, is: libssl.ErrClosed},
		"no keys":             {st: bare{mem}, says: "Keys, or Plaintext"},
		"no keys, options":    {st: bare{mem}, opt: &libssl.StoreOptions{}, says: "Keys, or Plaintext"},
		"empty ring":          {st: mem, opt: &libssl.StoreOptions{Keys: &ticket.Ring{}}, says: "ring without keys"},
		"empty ring, plain":   {st: mem, opt: &libssl.StoreOptions{Keys: &ticket.Ring{}, Plaintext: true}, says: "ring without keys"},
		"negative lookup":     {st: mem, opt: &libssl.StoreOptions{LookupTimeout: -1}, says: "LookupTimeout is negative"},
		"negative put":        {st: mem, opt: &libssl.StoreOptions{PutTimeout: -1}, says: "PutTimeout is negative"},
		"negative lifetime":   {st: mem, opt: &libssl.StoreOptions{MaxLifetime: -1}, says: "MaxLifetime is negative"},
		"single use, no Take": {st: bare{mem}, opt: &libssl.StoreOptions{Keys: ring, SingleUse: true}, is: libssl.ErrUnsupported},
		"broken key":          {st: brokenKey{mem}, is: errDown},
	} {
		t.Run(name, func(t *testing.T) {
			c := f.server(t)
			if tt.prepare != nil {
				tt.prepare(c)
			}
			sc, err := c.UseStore(tt.st, tt.opt)
			require.Error(t, err)
			require.Nil(t, sc)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
			require.ErrorContains(t, err, tt.says)
		})
	}
	sc, err := f.client.UseStore(mem, nil)
	require.ErrorIs(t, err, libssl.ErrUnsupported)
	require.Nil(t, sc)
	sc, err = (*libssl.Context)(nil).UseStore(mem, nil)
	require.ErrorIs(t, err, libssl.ErrClosed)
	require.Nil(t, sc)

	// A refused call leaves the Context as it was.
	c := f.server(t)
	_, err = c.UseStore(bare{mem}, nil)
	require.Error(t, err)
	require.Zero(t, c.SetOptions(0)&libssl.OpNoTicket)
	useStore(t, c, mem, nil)
}

// brokenKey is an embedded store whose key cannot be read.
type brokenKey struct{ store.Store }

func (brokenKey) SealingKey() ([]byte, error) { return nil, errDown }

func TestUseStore_TakesTheSetters(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, _ := f.node(t, memstore.New(memstore.Options{}), nil)
	var told []*libssl.CallbackError
	server.OnCallbackError(func(e *libssl.CallbackError) { told = append(told, e) })
	server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { panic("not installed") })
	server.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) { panic("not installed") })
	server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { panic("not installed") })
	require.Len(t, told, 3)
	for i, name := range []string{"new", "get", "remove"} {
		require.Equal(t, name, told[i].Callback)
		require.ErrorContains(t, told[i], "store")
	}
	require.True(t, f.visit(t, server, f.visit(t, server, nil).next).resumed)
	require.Len(t, told, 3)
}

func TestUseStore_DefaultsAndMode(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, _ := f.node(t, memstore.New(memstore.Options{}), nil)
	require.NotZero(t, server.SetOptions(0)&libssl.OpNoTicket)
	require.Equal(t, libssl.CacheServer|libssl.CacheNoInternal, server.SetSessionCacheMode(libssl.CacheServer|libssl.CacheNoInternal))
	f.visit(t, server, nil)
	require.Zero(t, server.Stats().Number)
}

func TestUseStore_ForgottenContextIsCollected(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	before := libssl.LiveResources().ForgottenContexts
	st := newSpy()
	t.Run("in use", func(t *testing.T) { // the Context becomes unreachable when this ends
		ctx, err := libssl.NewContext(libssl.ServerRole)
		require.NoError(t, err)
		require.NoError(t, ctx.UseCertificatePEM(f.cert, f.key))
		_, err = ctx.UseStore(st, &libssl.StoreOptions{Keys: newRing(t), WriteBehind: true})
		require.NoError(t, err)
		f.visit(t, ctx, nil)
		f.abort(t, ctx)
	})
	wait(t, "the queue", func() bool { return len(st.asked(&st.puts)) == 4 && len(st.asked(&st.deletes)) == 1 })
	collect(t, func() bool { return libssl.LiveResources().ForgottenContexts == before+1 })
	forgotten.ForgottenContexts++
}

// waitForSetters waits until the Context has no store: with one it refuses setters.
func waitForSetters(t *testing.T, server *libssl.Context) {
	t.Helper()
	wait(t, "the callbacks to go", func() bool {
		server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { return false })
		return server.SessNewCallback() != nil
	})
}

func TestSessionCache_CloseDrains(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		entered, release := st.holdPuts()
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), WriteBehind: true, PutTimeout: time.Minute})
		f.visit(t, server, nil)
		receive(t, "a Put", entered)
		closed := make(chan error, 1)
		go func() { closed <- cache.Close(context.Background()) }()
		waitForSetters(t, server)
		require.Empty(t, closed)
		close(release)
		require.NoError(t, receive(t, "Close", closed))
		require.Equal(t, f.tickets, st.mem.Len())
		require.EqualValues(t, f.tickets, cache.Stats().Stored)
		require.Zero(t, cache.Stats().Queue)
		require.ErrorIs(t, cache.Close(t.Context()), libssl.ErrClosed)
	})
}

func TestSessionCache_CloseSaysWhatWasLost(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		entered := make(chan struct{}, 8)
		st.OnDelete = func(ctx context.Context, id store.ID) error {
			entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), PutTimeout: time.Minute})
		for range 3 {
			f.abort(t, server)
		}
		receive(t, "a Delete", entered)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errDown)
		err := cache.Close(ctx)
		require.ErrorIs(t, err, errDown)
		require.ErrorContains(t, err, "3 queued operations")
		require.EqualValues(t, 3, cache.Stats().Lost)
		require.Zero(t, cache.Stats().Queue)
		require.Zero(t, cache.Stats().Timeouts+cache.Stats().Errors, "given up, not failed")
	})
}

func TestSessionCache_CloseSaysWhyItWasLost(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		entered, release := make(chan struct{}, 8), make(chan struct{})
		st.OnDelete = func(ctx context.Context, id store.ID) error {
			entered <- struct{}{}
			<-release
			return errDown
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), PutTimeout: time.Minute})
		f.abort(t, server)
		receive(t, "the Delete", entered)
		closed := make(chan error, 1)
		go func() { closed <- cache.Close(context.Background()) }()
		wait(t, "Close to begin", cache.Closing)
		close(release)
		err := receive(t, "Close", closed)
		require.ErrorIs(t, err, errDown)
		require.ErrorContains(t, err, "1 queued operations were lost")
	})
}

func TestSessionCache_CloseTakesTheCallbacksAway(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for _, live := range []bool{false, true} {
			st, opt := newSpy(), &libssl.StoreOptions{Keys: newRing(t)}
			server, cache := f.node(t, st, opt)
			cn, sn := tcpPipe(t)
			c, s := f.ends(t, cn, sn, server, nil)
			require.NoError(t, exchange(c, s))
			sess := sessionOf(t, c)
			if !live {
				closeBoth(c, s)
			}
			require.NoError(t, cache.Close(t.Context()))
			require.Nil(t, server.SessNewCallback())
			require.Nil(t, server.SessGetCallback())
			require.Nil(t, server.SessRemoveCallback())
			gets, puts := len(st.asked(&st.gets)), len(st.asked(&st.puts))
			require.False(t, f.visit(t, server, sess).resumed)
			require.Len(t, st.asked(&st.gets), gets)
			require.Len(t, st.asked(&st.puts), puts)
			if live {
				require.NoError(t, exchange(c, s))
				closeBoth(c, s)
			}

			// A remove trampoline left behind would make OpenSSL keep sessions of
			// stateless tickets (SEMANTICS F1.13).
			server.SetSessionCacheMode(libssl.CacheServer)
			server.ClearOptions(libssl.OpNoTicket)
			f.visit(t, server, nil)
			require.Zero(t, server.Stats().Number)

			again := useStore(t, server, st, opt)
			require.True(t, f.visit(t, server, sess).resumed)
			require.EqualValues(t, 1, again.Stats().Hits)
			require.NoError(t, again.Close(t.Context()))
			heard := 0
			server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { heard++; return false })
			f.visit(t, server, nil)
			require.Equal(t, f.tickets, heard)
		}
	})
}

func TestSessionCache_CloseWhileParked(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for _, behind := range []bool{false, true} {
			f.closeWhileParked(t, behind)
		}
	})
}

func (f *fleet) closeWhileParked(t *testing.T, behind bool) {
	st := newSpy()
	entered, release := make(chan struct{}), make(chan struct{})
	st.OnTake = func(ctx context.Context, id store.ID) (store.Record, error) {
		close(entered)
		<-release
		return st.mem.Take(ctx, id)
	}
	st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
		close(entered)
		<-release
		return st.mem.Get(ctx, id)
	}
	opt := &libssl.StoreOptions{Keys: newRing(t), SingleUse: true, LookupTimeout: time.Minute, WriteBehind: behind}
	server, cache := f.node(t, st, opt)
	sess := f.visit(t, server, nil).next
	wait(t, "the entries", func() bool { return st.mem.Len() == f.tickets })
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, cn, sn, server, sess)
	done := make(chan error, 1)
	go func() { done <- exchange(c, s) }()
	receive(t, "the lookup", entered)
	require.NoError(t, cache.Close(t.Context()))
	close(release)
	require.NoError(t, receive(t, "the handshake", done))
	require.False(t, s.SessionReused())
	require.Equal(t, f.tickets, st.mem.Len(), "an entry that was taken and not used is back")
}

package callbacks_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// cache is an external session cache over the three handlers.
type cache struct {
	t    testing.TB
	mu   sync.Mutex
	ders map[libssl.SessionID][]byte
	seen func(ssl *libssl.SSL) // what new and get are called for

	news, gets, hits, removes atomic.Int32
}

func newCache(t testing.TB) *cache {
	return &cache{t: t, ders: map[libssl.SessionID][]byte{}}
}

func (c *cache) install(ctx *libssl.Context) {
	ctx.OnCallbackError(func(e *libssl.CallbackError) { c.t.Error(e) })
	ctx.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
		c.news.Add(1)
		c.look(ssl)
		der, err := s.MarshalBinary()
		assert.NoError(c.t, err)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ders[s.ID()] = der
		return false
	})
	ctx.SetSessGetCallback(func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		c.gets.Add(1)
		c.look(ssl)
		c.mu.Lock()
		der, ok := c.ders[id]
		c.mu.Unlock()
		if !ok {
			return nil, libssl.Copy
		}
		c.hits.Add(1)
		s, err := libssl.ParseSession(der)
		assert.NoError(c.t, err)
		return s, libssl.Transfer
	})
	ctx.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { c.removes.Add(1) })
}

func (c *cache) look(ssl *libssl.SSL) {
	if c.seen != nil {
		c.seen(ssl)
	}
}

// attached is an SSL_CTX that C made, with a Context. C's reference is the caller's to free.
func attached(t testing.TB, m mode) (sslCtx unsafe.Pointer, ctx *libssl.Context) {
	t.Helper()
	sslCtx = cref.NewContext(false)
	ctx, err := libssl.AttachContext(sslCtx)
	require.NoError(t, err)
	m.prepare(t, ctx)
	ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
	return sslCtx, ctx
}

func asking() (all []mode) {
	for _, m := range modes {
		if m.asks {
			all = append(all, m)
		}
	}
	return all
}

func TestAttachContext_SSLsOfCCallGoHandlers(t *testing.T) {
	for _, m := range asking() {
		t.Run(m.name, func(t *testing.T) {
			sslCtx, ctx := attached(t, m)
			defer cref.FreeContext(sslCtx)
			defer ctx.Close()
			require.Equal(t, sslCtx, ctx.Pointer())
			c := newCache(t)
			looks := 0
			c.seen = func(ssl *libssl.SSL) {
				looks++
				assert.Nil(t, ssl.Conn())
				assert.Same(t, ctx, ssl.Context())
				assert.Equal(t, m.version, ssl.Version())
				assert.NotNil(t, ssl.Pointer())
			}
			c.install(ctx)
			client := newClient(t)
			first := linkC(t, client, ctx, nil).closed()
			second := linkC(t, client, ctx, first.session).closed()
			require.True(t, second.reused)
			first.session.Release()
			second.session.Release()
			require.EqualValues(t, 1, c.hits.Load())
			require.EqualValues(t, looks, c.news.Load()+c.gets.Load())
			require.Zero(t, c.removes.Load())
			l := linkC(t, client, ctx, nil)
			l.session.Release()
			l.close(false)
			require.EqualValues(t, 1, c.removes.Load(), "an unclean end")
		})
	}
}

// A Conn's handlers do not run in ASYNC jobs, on whose stack Go would crash.
func TestAttachContext_ConnsIgnoreAsyncMode(t *testing.T) {
	for _, m := range asking() {
		t.Run(m.name, func(t *testing.T) {
			sslCtx, ctx := attached(t, m)
			defer cref.FreeContext(sslCtx)
			defer ctx.Close()
			cref.SetAsync(sslCtx)
			c := newCache(t)
			c.seen = func(*libssl.SSL) { assert.False(t, cref.InAsyncJob()) }
			c.install(ctx)
			client := newClient(t)
			first := linkGo(t, client, ctx, nil).closed()
			second := linkGo(t, client, ctx, first.session).closed()
			require.True(t, second.reused)
			first.session.Release()
			second.session.Release()
			require.EqualValues(t, 1, c.hits.Load())
		})
	}
}

// In an ASYNC job the server-name handler cannot run, and no client is served under a policy that it has not chosen.
func TestAttachContext_AsyncJobsAreNotServedUnchosen(t *testing.T) {
	for _, m := range asking() {
		t.Run(m.name, func(t *testing.T) {
			sslCtx, ctx := attached(t, m)
			defer cref.FreeContext(sslCtx)
			defer ctx.Close()
			cref.SetAsync(sslCtx)
			client := newClient(t)
			for _, f := range []func(*libssl.SSL, string) *libssl.Context{
				func(*libssl.SSL, string) *libssl.Context { t.Error("in an ASYNC job"); return nil }, nil,
			} {
				ctx.SetServerNameCallback(f)
				p := newPair(t, client, ctx, nil)
				require.Equal(t, f == nil, p.Run())
				p.Free(false)
			}
		})
	}
}

// The server's SSL and its handlers, on a thread that C made.
func TestAttachContext_ForeignThreadsCallGoHandlers(t *testing.T) {
	for _, m := range asking() {
		t.Run(m.name, func(t *testing.T) {
			sslCtx, ctx := attached(t, m)
			defer cref.FreeContext(sslCtx)
			defer ctx.Close()
			c := newCache(t)
			c.install(ctx)
			client := newClient(t)
			var offer *libssl.Session
			for i := range 5 {
				p, err := cref.NewPair(client.Pointer(), sslCtx, name, offer.Pointer())
				require.NoError(t, err)
				require.True(t, p.RunOnThread())
				require.Equal(t, i > 0, p.Reused())
				if offer == nil {
					offer, err = libssl.WrapSession(p.Session(), libssl.Transfer)
					require.NoError(t, err)
				}
				p.Free(true)
			}
			offer.Release()
			require.EqualValues(t, 4, c.hits.Load())
		})
	}
}

func TestAttachContext_OneOpenContextForAnSSLCTX(t *testing.T) {
	live := libssl.LiveResources().Contexts
	sslCtx := cref.NewContext(false)
	first, err := libssl.AttachContext(sslCtx)
	require.NoError(t, err)
	_, err = libssl.AttachContext(sslCtx)
	require.Error(t, err, "while the first is open")
	require.NoError(t, first.Close())

	second, err := libssl.AttachContext(sslCtx)
	require.NoError(t, err, "after its Close")
	require.Equal(t, live+1, libssl.LiveResources().Contexts, "one handle for one SSL_CTX")
	destroyed := cref.ContextsDestroyed()
	require.NoError(t, second.Close())
	require.Equal(t, destroyed, cref.ContextsDestroyed(), "C's reference is there")
	cref.FreeContext(sslCtx)
	require.Equal(t, destroyed+1, cref.ContextsDestroyed())
	require.Equal(t, live, libssl.LiveResources().Contexts)

	_, err = libssl.AttachContext(nil)
	require.Error(t, err)
	made, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	defer made.Close()
	_, err = libssl.AttachContext(made.Pointer())
	require.Error(t, err, "one that this module made has a Context too")
}

func TestAttachContext_TheNextContextHasHandlersOfItsOwn(t *testing.T) {
	m := modes[0]
	sslCtx, first := attached(t, m)
	defer cref.FreeContext(sslCtx)
	c := newCache(t)
	c.install(first)
	require.NoError(t, first.Close())
	second, err := libssl.AttachContext(sslCtx)
	require.NoError(t, err)
	defer second.Close()
	require.Nil(t, second.SessNewCallback())
	client := newClient(t)
	linkC(t, client, second, nil).closed().session.Release()
	require.Zero(t, c.news.Load())

	news := 0
	second.SetSessNewCallback(func(ssl *libssl.SSL, _ *libssl.Session) bool {
		assert.Same(t, second, ssl.Context())
		news++
		return false
	})
	linkC(t, client, second, nil).closed().session.Release()
	require.Zero(t, c.news.Load())
	require.Equal(t, 1, news)
}

// Close detaches: the SSL_CTX is C's again, while connections live too. The handle goes with the SSL_CTX.
func TestAttachContext_CloseTakesTheHandlersAway(t *testing.T) {
	for _, m := range asking() {
		t.Run(m.name, func(t *testing.T) {
			sslCtx, ctx := attached(t, m)
			c := newCache(t)
			c.install(ctx)
			client := newClient(t)
			first := linkPointers(t, client.Pointer(), sslCtx, nil)
			calls := func() int32 { return c.news.Load() + c.gets.Load() + c.removes.Load() }
			before := calls()
			require.NoError(t, ctx.Close())
			require.NoError(t, ctx.Close())
			require.Nil(t, ctx.Pointer())
			second := linkPointers(t, client.Pointer(), sslCtx, first.session)
			require.False(t, second.reused)
			first.close(false)
			live := libssl.LiveResources().Contexts
			destroyed := cref.ContextsDestroyed()
			cref.FreeContext(sslCtx)
			require.Equal(t, destroyed, cref.ContextsDestroyed(), "the connection holds it")
			second.close(false)
			require.Equal(t, destroyed+1, cref.ContextsDestroyed())
			require.Equal(t, live-1, libssl.LiveResources().Contexts, "the handle went with the SSL_CTX")
			require.Equal(t, before, calls())
			first.session.Release()
			second.session.Release()
		})
	}
}

func TestAttachContext_SSLsMadeBeforeStayC(t *testing.T) {
	m := modes[0]
	sslCtx := cref.NewContext(false)
	defer cref.FreeContext(sslCtx)
	client := newClient(t)
	p, err := cref.NewPair(client.Pointer(), sslCtx, name, nil)
	require.NoError(t, err)
	ctx, err := libssl.AttachContext(sslCtx)
	require.NoError(t, err)
	defer ctx.Close()
	c := newCache(t)
	c.install(ctx)
	// The SSL does not have the context's certificate either: the handshake fails, and no handler runs.
	m.prepare(t, ctx)
	require.False(t, p.Run())
	p.Free(true)
	require.Zero(t, c.news.Load())
}

// The handlers of the context that an SSL was made with run, whichever it is switched to.
func TestHandlers_BelongToTheCreatingContext(t *testing.T) {
	switches := map[string]func(from *libssl.Context, to *libssl.Context){
		"C, servername": func(from, to *libssl.Context) { cref.SwitchOnName(from.Pointer(), to.Pointer()) },
		"C, hello":      func(from, to *libssl.Context) { cref.SwitchOnHello(from.Pointer(), to.Pointer()) },
		"Go": func(from, to *libssl.Context) {
			from.SetServerNameCallback(func(ssl *libssl.SSL, host string) *libssl.Context {
				if ssl.Context() == from && host == name {
					return to
				}
				return nil
			})
		},
	}
	for how, install := range switches {
		for _, e := range engines {
			for _, m := range asking() {
				t.Run(how+"/"+e.name+" SSLs/"+m.name, func(t *testing.T) {
					creating, other := m.server(t), m.server(t)
					other.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { t.Error("new of the other"); return false })
					other.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
						t.Error("get of the other")
						return nil, libssl.Copy
					})
					other.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { t.Error("remove of the other") })
					c := newCache(t)
					switched := 0
					c.seen = func(ssl *libssl.SSL) {
						assert.Same(t, creating, ssl.Context())
						assert.Equal(t, e.name == "Go", ssl.Conn() != nil)
						if cref.CurrentContext(ssl.Pointer()) == other.Pointer() {
							switched++
						}
					}
					c.install(creating)
					creating.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
					install(creating, other)
					client := newClient(t)
					first := e.link(t, client, creating, nil).closed()
					second := e.link(t, client, creating, first.session)
					require.True(t, second.reused)
					require.EqualValues(t, 1, c.hits.Load())
					require.Positive(t, switched, "SSL_get_SSL_CTX named the other")
					second.close(false)
					require.EqualValues(t, 1, c.removes.Load())
					first.session.Release()
					second.session.Release()
				})
			}
		}
	}
}

// C threads and Go connections use one attached context at once.
func TestAttachContext_ServesCAndGoTogether(t *testing.T) {
	for _, m := range asking() {
		t.Run(m.name, func(t *testing.T) {
			sslCtx, ctx := attached(t, m)
			defer cref.FreeContext(sslCtx)
			defer ctx.Close()
			c := newCache(t)
			c.install(ctx)
			client := newClient(t)
			stop := make(chan struct{})
			var wg, flusher sync.WaitGroup
			flusher.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						assert.NoError(t, ctx.FlushSessions(time.Time{}))
					}
				}
			})
			for i := range 4 {
				wg.Go(func() {
					var offer *libssl.Session
					for range 10 {
						l := engines[i%2].link(t, client, ctx, offer)
						assert.Equal(t, offer != nil, l.reused)
						offer.Release()
						offer = l.session
						l.close(true)
						// A 1.3 client that resumed may hold its ticket still.
					}
					offer.Release()
				})
			}
			wg.Wait()
			close(stop)
			flusher.Wait()
			require.EqualValues(t, 36, c.hits.Load())
		})
	}
}

// The same for a Context that this module made, closed and forgotten.
func TestContext_HandlersOutliveCloseUnderC(t *testing.T) {
	client := newClient(t)
	c := newCache(t)
	p := func() *cref.Pair {
		server := modes[0].server(t)
		c.install(server)
		p, err := cref.NewPair(client.Pointer(), server.Pointer(), name, nil)
		require.NoError(t, err)
		require.NoError(t, server.Close())
		return p
	}()
	for range 3 {
		runtime.GC()
	}
	require.True(t, p.Run())
	require.EqualValues(t, 1, c.news.Load())
	p.Free(false)
	require.EqualValues(t, 1, c.removes.Load())
}

// C may have taken a reference to an SSL_CTX whose Pointer it got: the handlers last as long as that.
func TestContext_HandlersOutliveAForgottenContextUnderC(t *testing.T) {
	client := newClient(t)
	before := libssl.LiveResources().ForgottenContexts
	forgotten.ForgottenContexts++
	var again *libssl.Context
	pointer := func() unsafe.Pointer {
		for range 2 { // the second one is collected
			ctx, err := libssl.NewContext(libssl.ServerRole)
			require.NoError(t, err)
			modes[0].prepare(t, ctx)
			ctx.SetSessNewCallback(func(ssl *libssl.SSL, _ *libssl.Session) bool { again = ssl.Context(); return false })
			if again == nil {
				again = ctx
			}
		}
		p := again.Pointer()
		again = nil
		return p
	}()
	for libssl.LiveResources().ForgottenContexts == before {
		runtime.GC()
	}
	l := linkPointers(t, client.Pointer(), pointer, nil).closed()
	l.session.Release()
	require.NotNil(t, again, "new was called")
	require.Equal(t, pointer, again.Pointer())
	require.NoError(t, again.Close())
}

// C makes SSLs without a lock of ours, so nothing that SSL_new copies may change beside it.
func TestAttachContext_SettingsAreRefusedOnceCServes(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			p := cref.NewContext(false)
			server, err := libssl.AttachContext(p)
			require.NoError(t, err)
			cref.FreeContext(p)
			defer server.Close()
			ca := tlstest.NewCA(t, "ca")
			cert, key := ca.Leaf(t, name)
			setters := map[string]func() error{
				"use certificate":        func() error { return server.UseCertificatePEM(cert, key) },
				"add client CAs":         func() error { return server.AddClientCAsPEM(ca.PEM) },
				"add root CAs":           func() error { return server.AddRootCAsPEM(ca.PEM) },
				"set verify":             func() error { return server.SetVerify(libssl.VerifyNone) },
				"set ALPN":               func() error { return server.SetALPN("a") },
				"set session id context": func() error { return server.SetSessionIDContext([]byte("x")) },
			}
			for _, set := range setters {
				require.NoError(t, set())
			}
			e.link(t, newClient(t), server, nil).closed().session.Release()
			for what, set := range setters {
				if e.name == "Go" {
					require.NoError(t, set(), what)
				} else {
					require.EqualError(t, set(), "libssl: "+what+": cannot be changed once a connection was made")
				}
			}
			require.ErrorContains(t, server.SetGroups("P-256"), "cannot be changed once a connection was made")
		})
	}
}

// RemoveSession calls its handler without a lock, but a C call in the handler may take one.
func TestSessRemove_LocksOfCInsideRemoveSession(t *testing.T) {
	client, server := newClient(t), modes[0].server(t)
	var kept []*libssl.Session
	server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool { kept = append(kept, s); return true })
	for range 2 {
		linkC(t, client, server, nil).closed().session.Release()
	}
	var errs []error
	server.SetSessRemoveCallback(func(ctx *libssl.Context, _ *libssl.Session) {
		errs = append(errs, ctx.FlushSessions(time.Unix(1, 0)))
		if len(errs) == 1 {
			cref.Flush(ctx.Pointer())
			errs = append(errs, ctx.FlushSessions(time.Unix(1, 0)))
		}
	})
	_, err := server.RemoveSession(kept[0])
	require.NoError(t, err)
	require.Equal(t, []error{nil, libssl.ErrReentrant, nil}, errs)
	for _, s := range kept {
		s.Release()
	}
}

// Early data that C has allowed makes a store's entries single-use, as SetMaxEarlyData does.
func TestAttachContext_EarlyDataOfCIsSingleUse(t *testing.T) {
	m := modes[3]
	sslCtx, ctx := attached(t, m)
	defer cref.FreeContext(sslCtx)
	defer ctx.Close()
	require.NoError(t, cref.SetMaxEarlyData(sslCtx, 100))
	_, err := ctx.UseStore(struct{ store.Store }{memstore.New(memstore.Options{})}, &libssl.StoreOptions{Plaintext: true})
	require.ErrorIs(t, err, libssl.ErrUnsupported)
	sc, err := ctx.UseStore(memstore.New(memstore.Options{}), nil)
	require.NoError(t, err)
	defer sc.Close(t.Context())
	client := newClient(t)
	first := linkGo(t, client, ctx, nil).closed()
	defer first.session.Release()
	for _, resumed := range []bool{true, false} {
		l := linkGo(t, client, ctx, first.session).closed()
		l.session.Release()
		require.Equal(t, resumed, l.reused)
	}
}

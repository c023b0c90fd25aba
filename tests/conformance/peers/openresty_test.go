package peers_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

var errHook = errors.New("the hook said no")

// Hooks that fail, in every combination, and then think better of it: the client is always served, and resumes where
// what it was given had been stored and can be fetched.
func TestOpenResty_HooksThatFail(t *testing.T) {
	says := func(context.Context) error { return errHook }
	throws := func(context.Context) error { panic(errHook) }
	each(t, lookups, func(t *testing.T, h *host) {
		for name, fail := range map[string]func(context.Context) error{"says": says, "throws": throws} {
			t.Run(name, func(t *testing.T) {
				k := newShared()
				var told atomic.Int32
				server, cache := h.node(t, k, libssl.StoreOptions{Keys: newRing(t), OnError: func(error) { told.Add(1) }})
				client := h.client(t)
				_, sess := h.visit(t, client, server, nil)
				errors := 0
				for _, step := range []struct {
					fetch, store bool // fail
					resumes      bool
				}{
					{false, false, true},
					{true, false, false}, // a new one, stored
					{false, true, true},  // 1.3: the next one is not stored
					{false, false, h.way == ids12},
					{true, true, false},
					{false, false, false}, // nothing of the last could be stored
					{false, false, true},
				} {
					k.on(nil, beforeGet, beforePut)
					if step.fetch {
						k.on(fail, beforeGet)
						errors++
					}
					if step.store {
						k.on(fail, beforePut)
						if h.way == stateful13 || !step.resumes { // a resumption of 1.2 makes no session
							errors++
						}
					}
					var resumed bool
					resumed, sess = h.visit(t, client, server, sess)
					require.Equal(t, step.resumes, resumed, "%+v", step)
				}
				require.EqualValues(t, errors, cache.Stats().Errors)
				require.EqualValues(t, errors, told.Load())
				require.Zero(t, cache.Stats().Timeouts)
			})
		}
	})
}

// While one client's hook sleeps the others are served; then it is served too, as if nothing had been.
func TestOpenResty_HooksThatSleep(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		for _, which := range []string{"fetch", "store"} {
			t.Run(which, func(t *testing.T) {
				k := newShared()
				server, _ := h.node(t, k, libssl.StoreOptions{Keys: newRing(t)})
				client := h.client(t)
				_, sess := h.visit(t, client, server, nil)
				hook, offer := beforeGet, sess
				if which == "store" {
					hook, offer = beforePut, nil
				}
				g := newGate()
				k.on(func(context.Context) error {
					k.on(nil, hook) // only one sleeps
					g.pass()
					return nil
				}, hook)
				sleeper := open(t, client, server, h.name, offer)
				talked := run(sleeper.talk)
				receive(t, "the hook", g.entered)
				for range 5 {
					resumed, _ := h.visit(t, client, server, sess)
					require.True(t, resumed)
				}
				select {
				case <-talked:
					require.Fail(t, "it did not wait")
				default:
				}
				close(g.open)
				require.NoError(t, receive(t, "the sleeper", talked))
				require.Equal(t, which == "fetch", sleeper.server.SessionReused())
				next := sleeper.session(t)
				sleeper.close()
				resumed, _ := h.visit(t, client, server, next)
				require.True(t, resumed)
			})
		}
	})
}

// A hook is cancelled, by the caller of the handshake or by its time limit: before it begins to wait, while it waits, or
// when it already has its answer. A cancelled handshake returns at once; a time limit costs the resumption only.
func TestOpenResty_HooksThatAreCancelled(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		for _, moment := range []string{"before the wait", "in the wait", "after the wait"} {
			for _, by := range []string{"cancel", "limit"} {
				t.Run(by+" "+moment, func(t *testing.T) {
					k, ring := newShared(), newRing(t)
					opt := libssl.StoreOptions{Keys: ring}
					patient, _ := h.node(t, k, opt)
					if by == "limit" {
						opt.LookupTimeout = time.Millisecond
					}
					server, cache := h.node(t, k, opt)
					client := h.client(t)
					_, sess := h.visit(t, client, patient, nil)

					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					interrupt := cancel
					if by == "limit" {
						interrupt = func() {}
					}
					left, over := make(chan error, 1), make(chan struct{})
					wait := func(c context.Context) error {
						if moment == "in the wait" {
							time.AfterFunc(time.Millisecond, interrupt)
						} else {
							interrupt()
						}
						<-c.Done()
						left <- c.Err()
						if moment == "after the wait" {
							if by == "limit" {
								<-over // an answer at the very limit may still be in time
							}
							return nil // the answer that it has
						}
						return c.Err()
					}
					k.on(wait, map[bool]step{true: afterGet, false: beforeGet}[moment == "after the wait"])
					l := open(t, client, server, h.name, sess)
					asked := run(func() error { return ask(l.client) })
					err := l.server.HandshakeContext(ctx)
					close(over)
					told := receive(t, "the hook", left)
					if by == "cancel" {
						require.ErrorIs(t, err, context.Canceled)
						require.ErrorIs(t, l.server.Handshake(), context.Canceled, "for good")
						require.Error(t, receive(t, "the client", asked))
						require.ErrorIs(t, told, context.Canceled)
						require.Zero(t, cache.Stats().Timeouts+cache.Stats().Errors, "the store is not to blame")
					} else {
						require.NoError(t, err)
						require.NoError(t, echo(l.server))
						require.NoError(t, receive(t, "the client", asked))
						require.False(t, l.server.SessionReused())
						require.ErrorIs(t, told, context.DeadlineExceeded)
						require.EqualValues(t, 1, cache.Stats().Timeouts)
					}
					l.close()
					require.Zero(t, cache.Stats().Parked)
					k.on(nil, beforeGet, afterGet)
					resumed, _ := h.visit(t, client, patient, sess)
					require.True(t, resumed, "nothing happened to the session")
				})
			}
		}
	})
}

// Cancelled before it began: no hook hears of it, and the connection is as good as before.
func TestOpenResty_CancelledBeforeTheHook(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		k := newShared()
		server, _ := h.node(t, k, libssl.StoreOptions{Keys: newRing(t)})
		client := h.client(t)
		_, sess := h.visit(t, client, server, nil)
		var fetched atomic.Int32
		k.on(func(context.Context) error { fetched.Add(1); return nil }, beforeGet)
		l := open(t, client, server, h.name, sess)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, l.server.HandshakeContext(ctx), context.Canceled)
		require.Zero(t, fetched.Load())
		resumed, _ := l.visit(t)
		require.True(t, resumed)
		require.EqualValues(t, 1, fetched.Load())
	})
}

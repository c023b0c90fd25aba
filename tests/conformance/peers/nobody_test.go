package peers_test

import (
	"context"
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
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What none of the peers asks of itself.

// ---- references -------------------------------------------------------------------

// A get callback that answers with a fresh object and forgets about the flag leaves one reference behind for each
// answer in C, where OpenSSL takes one more by itself. The same handler in Go leaves none: the collector has the object
// that was forgotten.
func TestCopyFlag_UntouchedLeaksOnceInCAndNeverInGo(t *testing.T) {
	const answers = 3
	each(t, lookups, func(t *testing.T, h *host) {
		var book notebook
		maker, client := h.server(t, idContext("flag"), book.on), h.client(t)
		_, sess := h.visit(t, client, maker, nil)
		require.Len(t, book.der, 1)
		var der []byte
		for _, d := range book.der {
			der = d
		}
		visit := func(t *testing.T, server *libssl.Context) {
			l := open(t, client, server, h.name, sess)
			require.NoError(t, l.talk())
			require.True(t, l.server.SessionReused())
			l.close()
		}
		silent := func(ctx *libssl.Context) error {
			ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
			return nil
		}

		t.Run("C", func(t *testing.T) {
			start := cref.LiveSessions()
			server := h.server(t, idContext("flag"), silent)
			cb, err := cref.Install(server.Pointer(), cref.Get)
			require.NoError(t, err)
			for range answers {
				// What the callback was given is forgotten here, and its owner is nobody.
				require.NoError(t, cb.Answer(der, cref.Untouched))
				visit(t, server)
				require.Equal(t, start+1, cref.LiveSessions())
			}
			_, gets, _ := cb.Calls()
			require.Equal(t, answers, gets)
			require.NoError(t, server.Close())
			require.Equal(t, start+1, cref.LiveSessions(), "the last one outlives connection and context")
			cb.Free() // which has its address still: a program would not
			require.Equal(t, start, cref.LiveSessions())
		})
		t.Run("Go", func(t *testing.T) {
			start, before := cref.LiveSessions(), libssl.LiveResources()
			server := h.server(t, idContext("flag"), silent)
			gets := 0
			server.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (s *libssl.Session, flag libssl.CopyFlag) {
				gets++
				s, err := libssl.ParseSession(der)
				assert.NoError(t, err)
				return s, flag
			})
			for range answers {
				visit(t, server)
			}
			require.Equal(t, answers, gets)
			require.NoError(t, server.Close())
			eventually(t, "the collector", func() bool {
				runtime.GC()
				return cref.LiveSessions() == start
			})
			after := libssl.LiveResources()
			require.Equal(t, before.Sessions, after.Sessions)
			require.EqualValues(t, answers, after.ForgottenSessions-before.ForgottenSessions, "and it says so")
			forgotten.ForgottenSessions += answers
		})
	})
}

// What new and remove are lent is dead when they return, though OpenSSL's object may live on.
func TestHandlers_WhatTheyAreLentDiesWithTheCall(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		lent := map[string]*libssl.Session{}
		server, client := h.server(t, idContext("lent")), h.client(t)
		server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
			lent["new"] = s
			return false
		})
		server.SetSessRemoveCallback(func(_ *libssl.Context, s *libssl.Session) { lent["remove"] = s })
		h.visit(t, client, server, nil)
		require.NoError(t, server.FlushSessions(time.Time{}))
		require.Len(t, lent, 2)
		for handler, s := range lent {
			_, err := s.MarshalBinary()
			require.ErrorIs(t, err, libssl.ErrReleased, handler)
			require.Zero(t, s.ID(), handler)
		}
	})
}

// ---- handlers under way -----------------------------------------------------------

// held is a server whose three handlers, and the one for names, wait at a gate where it is told to.
type held struct {
	notebook
	server *libssl.Context
	at     atomic.Pointer[string] // who is to wait
	names  atomic.Int32
	gate   *gate
}

var handlers = []string{"new", "get", "remove", "servername"}

func (h *host) held(t testing.TB) *held {
	t.Helper()
	k := &held{gate: newGate()}
	k.server = h.server(t, idContext("held"), k.on)
	k.install()
	return k
}

func (k *held) wait(handler string) {
	if at := k.at.Load(); at != nil && *at == handler && k.at.CompareAndSwap(at, nil) { // one of them
		k.gate.pass()
	}
}

func (k *held) install() {
	made, look, gone := k.server.SessNewCallback(), k.server.SessGetCallback(), k.server.SessRemoveCallback()
	k.server.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
		k.wait("new")
		return made(ssl, s)
	})
	k.server.SetSessGetCallback(func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		k.wait("get")
		return look(ssl, id)
	})
	k.server.SetSessRemoveCallback(func(ctx *libssl.Context, s *libssl.Session) {
		k.wait("remove")
		gone(ctx, s)
	})
	k.server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context {
		k.names.Add(1)
		k.wait("servername")
		return nil
	})
}

// calledAs counts the calls of one of the handlers, those that ended.
func (k *held) calledAs(handler string) int {
	news, gets, removes := k.calls()
	return map[string]int{"new": news, "get": gets, "remove": removes, "servername": int(k.names.Load())}[handler]
}

// enter has the handler run for a connection, which offers sess, and returns when it waits inside. What comes of the
// connection is told when the gate is open.
func (k *held) enter(t testing.TB, h *host, client *libssl.Context, sess *libssl.Session, handler string) (<-chan error, *link) {
	t.Helper()
	offer := sess
	if handler == "new" {
		offer = nil
	}
	l := open(t, client, k.server, h.name, offer)
	var done <-chan error
	if handler == "remove" {
		require.NoError(t, l.talk())
		k.at.Store(&handler)
		done = run(l.server.Abort)
	} else {
		k.at.Store(&handler)
		done = run(l.talk)
	}
	receive(t, "the handler", k.gate.entered)
	return done, l
}

// While a handler runs another takes its place, or nobody does. The call under way ends as it began; the next one is
// the successor's.
func TestHandlers_ReplacedWhileTheyRun(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		for _, handler := range handlers {
			for _, successor := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/successor %t", handler, successor), func(t *testing.T) {
					k, client := h.held(t), h.client(t)
					_, sess := h.visit(t, client, k.server, nil)
					var calls atomic.Int32
					done, l := k.enter(t, h, client, sess, handler)
					replaced := run(func() error {
						k.replace(handler, successor, &calls)
						return nil
					})
					require.NoError(t, receive(t, "the setter", replaced))
					require.Zero(t, calls.Load())
					close(k.gate.open)
					require.NoError(t, receive(t, "the connection", done))
					l.close()
					require.Equal(t, map[string]int{"new": 2, "get": 1, "remove": 1, "servername": 2}[handler], k.calledAs(handler))
					if handler != "remove" {
						require.Equal(t, handler != "new", l.resumed)
					}
					before, own := calls.Load(), k.calledAs(handler)
					again := open(t, client, k.server, h.name, sess)
					require.NoError(t, again.talk())
					again.server.Abort()
					again.client.Close()
					full := open(t, client, k.server, h.name, nil)
					require.NoError(t, full.talk())
					full.close()
					require.Equal(t, successor, calls.Load() > before)
					require.Equal(t, own, k.calledAs(handler), "the old one is not called any more")
				})
			}
		}
	})
}

// replace sets a handler that counts, or none.
func (k *held) replace(handler string, successor bool, calls *atomic.Int32) {
	switch handler {
	case "new":
		var f libssl.NewSessionFunc
		if successor {
			f = func(*libssl.SSL, *libssl.Session) bool { calls.Add(1); return false }
		}
		k.server.SetSessNewCallback(f)
	case "get":
		var f libssl.GetSessionFunc
		if successor {
			f = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				calls.Add(1)
				return nil, libssl.Copy
			}
		}
		k.server.SetSessGetCallback(f)
	case "remove":
		var f libssl.RemoveSessionFunc
		if successor {
			f = func(*libssl.Context, *libssl.Session) { calls.Add(1) }
		}
		k.server.SetSessRemoveCallback(f)
	case "servername":
		var f func(*libssl.SSL, string) *libssl.Context
		if successor {
			f = func(*libssl.SSL, string) *libssl.Context { calls.Add(1); return nil }
		}
		k.server.SetServerNameCallback(f)
	}
}

// The Context is closed, from elsewhere, while one of its handlers runs. Close does not wait for it, the connection ends
// as it would have, and the SSL_CTX goes when that is closed.
func TestHandlers_ContextClosedWhileTheyRun(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		for _, handler := range handlers {
			t.Run(handler, func(t *testing.T) {
				k, client := h.held(t), h.client(t)
				_, sess := h.visit(t, client, k.server, nil)
				gone := cref.ContextsDestroyed()
				done, l := k.enter(t, h, client, sess, handler)
				require.NoError(t, receive(t, "Close", run(k.server.Close)))
				require.ErrorIs(t, k.server.FlushSessions(time.Time{}), net.ErrClosed)
				close(k.gate.open)
				require.NoError(t, receive(t, "the connection", done))
				if handler != "remove" {
					require.Equal(t, handler != "new", l.resumed)
					require.Equal(t, gone, cref.ContextsDestroyed(), "the connection holds it")
				}
				l.close()
				require.Equal(t, gone+1, cref.ContextsDestroyed())
				news, gets, removes := k.calls()
				require.Equal(t, map[bool]int{true: 1, false: 0}[handler != "new"], gets)
				require.Equal(t, map[bool]int{true: 1, false: 0}[handler == "remove"], removes)
				require.Equal(t, map[bool]int{true: 2, false: 1}[handler == "new" || h.way == stateful13], news)
			})
		}
	})
}

// ---- single use -------------------------------------------------------------------

// Two nodes are shown one ticket at the same instant: neither has taken it before both want to. One resumes, the other
// makes a full handshake, every time.
func TestSingleUse_TwoNodesAtTheSameInstant(t *testing.T) {
	times := 100
	if testing.Short() {
		times = 10
	}
	h := newHost(t, stateful13)
	st, opt := newShared(), libssl.StoreOptions{Keys: newRing(t), SingleUse: true}
	one, oneCache := h.node(t, st, opt)
	two, twoCache := h.node(t, st, opt)
	client := h.client(t)
	for range times {
		_, sess := h.visit(t, client, one, nil)
		twin := parse(t, derOf(t, sess))
		var both sync.WaitGroup
		both.Add(2)
		st.on(func(context.Context) error {
			both.Done()
			both.Wait()
			return nil
		}, beforeTake)
		a, b := open(t, client, one, h.name, sess), open(t, client, two, h.name, twin)
		talkedA := run(a.talk)
		require.NoError(t, b.talk())
		require.NoError(t, receive(t, "the other", talkedA))
		require.NotEqual(t, a.resumed, b.resumed, "exactly one")
		a.close()
		b.close()
		st.on(nil, beforeTake)
		resumed, _ := h.visit(t, client, two, sess)
		require.False(t, resumed, "used up")
		twin.Release()
		sess.Release()
	}
	hits := oneCache.Stats().Hits + twoCache.Stats().Hits
	require.EqualValues(t, times, hits)
	require.Zero(t, oneCache.Stats().PutBack+twoCache.Stats().PutBack)
}

// wire stops what its end writes for a moment: it tells before each write, and waits.
type wire struct {
	net.Conn
	before func(n int) error // the nth write, from 1 on
	n      int
}

func (w *wire) Write(p []byte) (int, error) {
	w.n++
	if err := w.before(w.n); err != nil {
		return 0, err
	}
	return w.Conn.Write(p)
}

// retrying is a host whose clients are sent a HelloRetryRequest by its nodes.
func retrying(t *testing.T) (h *host, st *shared, client *libssl.Context, nodes []*libssl.Context, caches []*libssl.SessionCache) {
	h = newHost(t, stateful13)
	st = newShared()
	client = h.client(t, groups("X25519:P-256"))
	opt := libssl.StoreOptions{Keys: newRing(t), SingleUse: true}
	for range 2 {
		node, cache := h.node(t, st, opt, groups("P-256"))
		nodes, caches = append(nodes, node), append(caches, cache)
	}
	return h, st, client, nodes, caches
}

// A ticket is taken for the first hello. Until the second one has come it is in nobody's store: a node that is shown it
// meanwhile makes a full handshake, and the client that was first resumes.
func TestSingleUse_TakenAcrossAHelloRetryRequest(t *testing.T) {
	h, st, client, nodes, caches := retrying(t)
	_, sess := h.visit(t, client, nodes[0], nil)
	require.Equal(t, 1, st.mem.Len())
	twin := parse(t, derOf(t, sess))
	defer twin.Release()
	g := newGate()
	l := h.over(t, client, nodes[0], sess, func(n int) error {
		if n == 2 { // the second hello
			g.pass()
		}
		return nil
	})
	talked := run(l.talk)
	receive(t, "the HelloRetryRequest", g.entered)
	require.Zero(t, st.mem.Len(), "taken")
	resumed, _ := h.visit(t, client, nodes[1], twin)
	require.False(t, resumed)
	close(g.open)
	require.NoError(t, receive(t, "the first client", talked))
	require.True(t, l.resumed)
	l.close()
	require.Zero(t, caches[0].Stats().PutBack)
	resumed, _ = h.visit(t, client, nodes[1], twin)
	require.False(t, resumed)
}

// A client that does not answer the HelloRetryRequest has not used its ticket: the entry goes back, and it resumes with
// that when it comes again.
func TestSingleUse_GivenUpAfterAHelloRetryRequest(t *testing.T) {
	h, st, client, nodes, caches := retrying(t)
	_, sess := h.visit(t, client, nodes[0], nil)
	id := ids(t, st.mem)[0]
	before, err := st.mem.Get(t.Context(), id)
	require.NoError(t, err)
	l := h.over(t, client, nodes[0], sess, func(n int) error {
		if n == 2 {
			return errors.New("gone")
		}
		return nil
	})
	require.Error(t, l.talk())
	require.Error(t, l.serverErr)
	l.close()
	require.EqualValues(t, 1, caches[0].Stats().PutBack)
	after, err := st.mem.Get(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, before, after)
	resumed, _ := h.visit(t, client, nodes[1], sess)
	require.True(t, resumed)
}

// A stranger shows a ticket without its secret, to a server that would go on or one that would ask for another key share
// first. The owner comes while that handshake is open, and gets a full one; once the binder was found wrong the entry is
// back, and the owner resumes, once.
func TestSingleUse_ForgedBinderWhileTheOwnerComes(t *testing.T) {
	for _, retry := range []bool{false, true} {
		t.Run(fmt.Sprintf("HelloRetryRequest %t", retry), func(t *testing.T) {
			h, st, client, nodes, caches := retrying(t)
			if !retry {
				client = h.client(t, groups("P-256"))
			}
			_, sess := h.visit(t, client, nodes[0], nil)
			g := newGate()
			st.on(func(context.Context) error { g.pass(); return nil }, afterTake)
			l := open(t, client, nodes[0], h.name, forged(t, sess))
			talked := run(l.talk)
			receive(t, "the Take", g.entered)
			st.on(nil, afterTake)
			resumed, _ := h.visit(t, client, nodes[1], sess)
			require.False(t, resumed)
			close(g.open)
			require.Error(t, receive(t, "the stranger", talked))
			require.Error(t, l.serverErr)
			l.close()
			require.EqualValues(t, 1, caches[0].Stats().PutBack)
			resumed, _ = h.visit(t, client, nodes[1], sess)
			require.True(t, resumed)
			resumed, _ = h.visit(t, client, nodes[1], sess)
			require.False(t, resumed, "once")
		})
	}
}

// over is open with a client whose writes are seen by before.
func (h *host) over(t testing.TB, client, server *libssl.Context, offer *libssl.Session, before func(n int) error) *link {
	t.Helper()
	cn, sn, err := tcp()
	require.NoError(t, err)
	l, err := connectOver(&wire{Conn: cn, before: before}, sn, client, server, h.name, offer)
	require.NoError(t, err)
	t.Cleanup(l.close)
	return l
}

// ---- stores -----------------------------------------------------------------------

// A session is in the store before the client learns its id or ticket: the flight that carries it waits for the Put.
func TestStore_HasTheSessionBeforeTheClient(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		st := newShared()
		server, _ := h.node(t, st, libssl.StoreOptions{Keys: newRing(t)})
		cn, sn, err := tcp()
		require.NoError(t, err)
		var sent, sentBefore atomic.Int32
		st.on(func(context.Context) error { sentBefore.Store(sent.Load()); return nil }, beforePut)
		counted := &wire{Conn: sn, before: func(n int) error { sent.Store(int32(n)); return nil }}
		l, err := connectOver(cn, counted, h.client(t), server, h.name, nil)
		require.NoError(t, err)
		defer l.close()
		require.NoError(t, l.talk())
		require.EqualValues(t, 1, sentBefore.Load(), "what the server says before it hears the client's Finished")
		require.Greater(t, sent.Load(), int32(1))
		require.Equal(t, 1, st.mem.Len())
	})
}

// With a store there are no tickets that hold the session, whatever the Context's options were: they would be good at the
// server alone that issued them.
func TestStore_TakesThePlaceOfTickets(t *testing.T) {
	each(t, stateless, func(t *testing.T, h *host) {
		st, opt := newShared(), libssl.StoreOptions{Keys: newRing(t)}
		a, _ := h.node(t, st, opt)
		b, _ := h.node(t, st, opt)
		client := h.client(t)
		_, sess := h.visit(t, client, a, nil)
		require.Equal(t, 1, st.mem.Len())
		resumed, _ := h.visit(t, client, b, sess)
		require.True(t, resumed)
	})
}

// An entry that this server cannot read is a miss, and stays for those who can.
func TestStore_LeavesWhatItCannotRead(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		for _, single := range []bool{false, true} {
			t.Run(fmt.Sprintf("single use %t", single), func(t *testing.T) {
				st := newShared()
				server, cache := h.node(t, st, libssl.StoreOptions{Keys: newRing(t), SingleUse: single})
				client := h.client(t)
				_, sess := h.visit(t, client, server, nil)
				foreign, err := st.mem.Get(t.Context(), ids(t, st.mem)[0])
				require.NoError(t, err)
				foreign.Data = []byte("of a version to come")
				require.NoError(t, st.mem.Put(t.Context(), foreign))

				resumed, _ := h.visit(t, client, server, sess)
				require.False(t, resumed)
				require.EqualValues(t, 1, cache.Stats().Undecodable)
				eventually(t, "the entry", func() bool {
					r, err := st.mem.Get(t.Context(), foreign.ID)
					return err == nil && string(r.Data) == string(foreign.Data)
				})
			})
		}
	})
}

// Two ids have each other's entries, whole and unspoilt. Neither client resumes, let alone as the other, and once they
// are back in their places both do.
func TestStore_SwappedEntries(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		for name, opt := range map[string]libssl.StoreOptions{
			"sealed": {}, "plain": {Plaintext: true}, "single use": {SingleUse: true},
		} {
			t.Run(name, func(t *testing.T) {
				st := newShared()
				opt.Keys = newRing(t)
				server, cache := h.node(t, st, opt)
				client := h.client(t)
				_, a := h.visit(t, client, server, nil)
				_, b := h.visit(t, client, server, nil)
				both := ids(t, st.mem)
				require.Len(t, both, 2)
				swap := func() {
					t.Helper()
					var r [2]store.Record
					for i, id := range both {
						var err error
						r[i], err = st.mem.Get(t.Context(), id)
						require.NoError(t, err)
					}
					r[0].Data, r[1].Data = r[1].Data, r[0].Data
					for _, r := range r {
						require.NoError(t, st.mem.Put(t.Context(), r))
					}
				}
				swap()
				for _, sess := range []*libssl.Session{a, b} {
					resumed, _ := h.visit(t, client, server, sess)
					require.False(t, resumed)
				}
				require.EqualValues(t, 2, cache.Stats().Rejected)
				require.Zero(t, cache.Stats().Hits+cache.Stats().Errors)
				swap()
				for _, sess := range []*libssl.Session{a, b} {
					resumed, _ := h.visit(t, client, server, sess)
					require.True(t, resumed)
				}
			})
		}
	})
}

// A store that answers when its time is up: the handshake is over long since, and full. The late answer changes nothing
// there, and the entry serves the next client.
func TestStore_AnswersAfterTheBudget(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		for _, single := range []bool{false, true} {
			t.Run(fmt.Sprintf("single use %t", single), func(t *testing.T) {
				st, g := newShared(), newGate()
				opt := libssl.StoreOptions{Keys: newRing(t), SingleUse: single}
				patient, _ := h.node(t, st, opt)
				opt.LookupTimeout, opt.PutTimeout = 10*time.Millisecond, 10*time.Millisecond
				server, cache := h.node(t, st, opt)
				client := h.client(t)
				_, sess := h.visit(t, client, patient, nil)
				live := cref.LiveSessions()

				answered := make(chan bool, 4)
				st.on(func(context.Context) error { // whatever its context says
					g.pass()
					answered <- true
					return nil
				}, afterGet, afterTake, afterPut)
				l := open(t, client, server, h.name, sess)
				require.NoError(t, l.talk())
				require.False(t, l.resumed)
				require.EqualValues(t, 2, cache.Stats().Timeouts)
				next := l.session(t)
				l.close()
				require.Empty(t, answered)
				taken := single && h.way == stateful13
				st.on(nil, afterGet, afterTake, afterPut)
				close(g.open)
				receive(t, "the late answer", answered)
				receive(t, "the late answer", answered)
				eventually(t, "the entry", func() bool { return st.mem.Len() == 2 })
				eventually(t, "the account", func() bool { return cache.Stats().PutBack == map[bool]uint64{true: 1}[taken] })
				require.Zero(t, cache.Stats().Hits+cache.Stats().Errors)
				for _, s := range []*libssl.Session{sess, next} {
					resumed, last := h.visit(t, client, patient, s)
					require.True(t, resumed)
					last.Release()
				}
				next.Release()
				require.Equal(t, live, cref.LiveSessions())
			})
		}
	})
}

// The connection is closed or broken by its own server while the store looks. The answer finds nobody, and the entry is
// there, or there again, for the next client.
func TestStore_AnswersAfterTheConnectionIsGone(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		for how, end := range map[string]func(c *libssl.Conn) error{"Close": (*libssl.Conn).Close, "Abort": (*libssl.Conn).Abort} {
			for _, single := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/single use %t", how, single), func(t *testing.T) {
					st, g := newShared(), newGate()
					server, cache := h.node(t, st, libssl.StoreOptions{Keys: newRing(t), SingleUse: single})
					client := h.client(t)
					_, sess := h.visit(t, client, server, nil)
					live := cref.LiveSessions()
					st.on(func(context.Context) error { g.pass(); return nil }, beforeGet, beforeTake)
					l := open(t, client, server, h.name, sess)
					talked := run(l.talk)
					receive(t, "the lookup", g.entered)
					require.NoError(t, end(l.server))
					require.NoError(t, l.client.NetConn().Close())
					close(g.open)
					require.Error(t, receive(t, "the connection", talked))
					l.close()
					st.on(nil, beforeGet, beforeTake)
					eventually(t, "the entry", func() bool { return st.mem.Len() == 1 })
					require.Equal(t, live, cref.LiveSessions())
					require.Zero(t, cache.Stats().Hits+cache.Stats().Errors+cache.Stats().Timeouts)
					require.Zero(t, cache.Stats().Parked)
					resumed, _ := h.visit(t, client, server, sess)
					require.True(t, resumed)
				})
			}
		}
	})
}

// ---- many -------------------------------------------------------------------------

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

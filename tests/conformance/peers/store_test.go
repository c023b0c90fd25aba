package peers_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// A session is in the store before the client learns its id or ticket: the flight that carries it waits for the Put.
func TestStore_HasTheSessionBeforeTheClient(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		st := newShared()
		server, _ := h.node(t, st, libssl.StoreOptions{Keys: newRing(t)})
		cn, sn, err := tlstest.TCPPair()
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

// The server closes or aborts the connection while the store looks the session up. The answer is dropped, and the entry
// stays in the store, or is put back, for the next client.
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

package peers_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

// One connection and five reconnects, each with the session of the one before, against a server that has both hooks.
// With tickets on the hooks are for clients without tickets.
func TestNode_SessionCacheWithTicketsOn(t *testing.T) {
	noTickets := func(ctx *libssl.Context) error { ctx.SetOptions(libssl.OpNoTicket); return nil }
	withTickets := func(*libssl.Context) error { return nil }
	for _, c := range []struct {
		client     string
		set        setting
		way        way
		news, gets int
	}{
		{"with tickets", withTickets, tickets12, 0, 0},
		{"without tickets", noTickets, tickets12, 1, 5},
		{"with tickets", withTickets, ids12, 1, 5},
		{"with tickets", withTickets, tickets13, 6, 0},
		{"with tickets", withTickets, stateful13, 6, 5},
	} {
		t.Run("server "+c.way.name+", client "+c.client, func(t *testing.T) {
			h := newHost(t, c.way)
			var book notebook
			server, client := h.server(t, idContext("node"), book.on), h.client(t, c.set)
			resumed, sess := h.visit(t, client, server, nil)
			require.False(t, resumed)
			for range 5 {
				resumed, sess = h.visit(t, client, server, sess)
				require.True(t, resumed)
			}
			news, gets, removes := book.calls()
			require.Equal(t, c.news, news)
			require.Equal(t, c.gets, gets)
			require.Zero(t, removes)
		})
	}
}

// A server without hooks has OpenSSL's cache, or none; no handshake fails without hooks.
func TestNode_NoHooks(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		for _, internal := range []bool{true, false} {
			t.Run(fmt.Sprintf("internal %t", internal), func(t *testing.T) {
				server, client := h.server(t), h.client(t)
				if !internal {
					server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
				}
				_, sess := h.visit(t, client, server, nil)
				resumed, sess := h.visit(t, client, server, sess)
				require.Equal(t, internal, resumed)
				require.NoError(t, server.FlushSessions(time.Time{}))
				resumed, _ = h.visit(t, client, server, sess)
				require.False(t, resumed, "nowhere any more")
			})
		}
	})
}

// garbage is what a store may hold in the place of what was put there.
func garbage(entry []byte) map[string][]byte {
	noise := make([]byte, 300)
	rand.Read(noise)
	return map[string][]byte{
		"nothing":      {},
		"a byte":       {0x30},
		"text":         []byte("[object Object]"),
		"noise":        noise,
		"much":         make([]byte, store.MaxData),
		"half of it":   entry[:len(entry)/2],
		"more than it": append(bytes.Clone(entry), 0),
		"it twice":     append(bytes.Clone(entry), entry...),
		"it, as hex":   []byte(fmt.Sprintf("%x", entry)),
	}
}

// The store's entry is spoilt before the client comes back. The client gets a full handshake and a new, good session.
func TestNode_GarbageFromTheStore(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		client := h.client(t)
		heals := func(t *testing.T, server *libssl.Context, spoil func()) {
			_, sess := h.visit(t, client, server, nil)
			spoil()
			resumed, next := h.visit(t, client, server, sess)
			require.False(t, resumed)
			resumed, _ = h.visit(t, client, server, next)
			require.True(t, resumed)
		}
		for what := range garbage([]byte("it")) {
			t.Run("hooks/"+what, func(t *testing.T) {
				var book notebook
				heals(t, h.server(t, idContext("node"), book.on), func() {
					for id, der := range book.der {
						book.der[id] = garbage(der)[what]
					}
				})
			})
			for name, opt := range map[string]libssl.StoreOptions{"sealed": {}, "plain": {Plaintext: true}} {
				t.Run(name+" store/"+what, func(t *testing.T) {
					st := newShared()
					opt.Keys = newRing(t)
					server, cache := h.node(t, st, opt)
					heals(t, server, func() {
						for _, id := range ids(t, st.mem) {
							r, err := st.mem.Get(t.Context(), id)
							require.NoError(t, err)
							r.Data = garbage(r.Data)[what]
							require.NoError(t, st.mem.Put(t.Context(), r))
						}
					})
					require.EqualValues(t, 1, cache.Stats().Rejected+cache.Stats().Undecodable)
					require.EqualValues(t, 1, cache.Stats().Hits)
					require.Zero(t, cache.Stats().Errors)
				})
			}
		}
	})
}

// gate holds up goroutines that pass until it is opened; entered gets a value for each.
type gate struct{ entered, open chan struct{} }

func newGate() *gate { return &gate{make(chan struct{}, 16), make(chan struct{})} }

func (g *gate) pass() {
	g.entered <- struct{}{}
	<-g.open
}

// The client hangs up while the hook is still looking. The answer comes all the same, to a connection that is no more,
// and the next client finds the session as it was.
func TestNode_AnswerAfterTheSocketEnded(t *testing.T) {
	leave := map[string]func(l *link) error{
		"end":   func(l *link) error { return l.client.NetConn().Close() },
		"reset": func(l *link) error { return errors.Join(linger0(l), l.client.NetConn().Close()) },
	}
	// A hook or a store that waits at the gate when it is told to.
	layers := map[string]func(t *testing.T, h *host, wait func()) *libssl.Context{
		"hook": func(t *testing.T, h *host, wait func()) *libssl.Context {
			var book notebook
			server := h.server(t, idContext("node"), book.on)
			look := server.SessGetCallback()
			server.SetSessGetCallback(func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				wait()
				return look(ssl, id)
			})
			return server
		},
		"store": func(t *testing.T, h *host, wait func()) *libssl.Context {
			st := newShared()
			st.on(func(context.Context) error { wait(); return nil }, beforeGet)
			server, _ := h.node(t, st, libssl.StoreOptions{Keys: newRing(t)})
			return server
		},
	}
	each(t, lookups, func(t *testing.T, h *host) {
		for layer, make := range layers {
			for how, end := range leave {
				t.Run(layer+"/"+how, func(t *testing.T) {
					g := newGate()
					shut := false
					server, client := make(t, h, func() {
						if shut {
							g.pass()
						}
					}), h.client(t)
					_, sess := h.visit(t, client, server, nil)
					shut = true
					l := open(t, client, server, h.name, sess)
					asked, served := run(l.client.Handshake), run(l.server.Handshake)
					receive(t, "the lookup", g.entered)
					require.NoError(t, end(l))
					require.Error(t, receive(t, "the client", asked))
					select {
					case <-served:
						require.Fail(t, "the handshake did not wait for the answer")
					default:
					}
					close(g.open)
					require.Error(t, receive(t, "the server", served))
					l.close()
					shut = false
					resumed, _ := h.visit(t, client, server, sess)
					require.True(t, resumed)
				})
			}
		}
	})
}

func linger0(l *link) error {
	return l.client.NetConn().(interface{ SetLinger(int) error }).SetLinger(0)
}

func run(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// Connections are dealt out to the workers of two clusters by turns. A session or ticket is good for all workers that
// share a key, and costs the others nothing.
func TestNode_SessionsAndTicketsOfSeveralServers(t *testing.T) {
	each(t, everyWay, func(t *testing.T, h *host) {
		st := newShared()
		var text bytes.Buffer
		_, err := newRing(t).WriteTo(&text)
		require.NoError(t, err)
		var workers []*libssl.Context
		for range 3 { // each reads the key by itself
			ring, err := ticket.ParseRing(text.Bytes())
			require.NoError(t, err)
			w, _ := h.member(t, st, ring)
			workers = append(workers, w)
		}
		outsider, cache := h.member(t, st, newRing(t))
		client := h.client(t)
		var sess *libssl.Session
		resumptions := []bool{}
		for _, worker := range []*libssl.Context{
			workers[0], workers[1], workers[2], workers[0], outsider, workers[1], workers[2], outsider, outsider, workers[0],
		} {
			var resumed bool
			resumed, sess = h.visit(t, client, worker, sess)
			resumptions = append(resumptions, resumed)
		}
		require.Equal(t, []bool{false, true, true, true, false, false, true, false, true, false}, resumptions)
		if cache != nil {
			require.EqualValues(t, 2, cache.Stats().Untagged, "the others' sessions are not even looked for")
		}
	})
}

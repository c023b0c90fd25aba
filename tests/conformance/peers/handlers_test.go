package peers_test

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/require"
)

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

// enter has the handler run for a connection that offers sess, and returns when the handler waits at the gate. The
// channel gets the connection's error after the gate has opened.
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

// A handler is replaced, by another or by nil, while it runs. The call under way ends as it began; the successor gets
// the next one.
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

package peers_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

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

// The entry is taken from the store for the first hello and is gone until the second one has come. A client that offers
// the ticket at another node meanwhile gets a full handshake, and the first client resumes.
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
	cn, sn, err := tlstest.TCPPair()
	require.NoError(t, err)
	l, err := connectOver(&wire{Conn: cn, before: before}, sn, client, server, h.name, offer)
	require.NoError(t, err)
	t.Cleanup(l.close)
	return l
}

package peers_test

import (
	"sync"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slot is where a client's new handler leaves what it keeps, for the next connection to pick up.
type slot struct {
	mu   sync.Mutex
	sess *libssl.Session
	news int
}

func (s *slot) on(ctx *libssl.Context) error {
	ctx.SetSessionCacheMode(libssl.CacheClient | libssl.CacheNoInternal)
	ctx.SetSessNewCallback(func(_ *libssl.SSL, sess *libssl.Session) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.news++
		s.sess.Release()
		s.sess = sess
		return true
	})
	return nil
}

func (s *slot) take() *libssl.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	sess := s.sess
	s.sess = nil
	return sess
}

// The session outlives the connection and the Context it was made with, and serves a Context that never saw it.
func TestRustOpenSSL_ClientKeepsWhatNewGaveItAndResumes(t *testing.T) {
	each(t, everyWay, func(t *testing.T, h *host) {
		var book notebook
		server := h.server(t, idContext("rust"), book.on)
		live := cref.LiveSessions()
		var kept slot
		first := h.client(t, kept.on)
		l := open(t, first, server, h.name, nil)
		require.NoError(t, l.talk())
		require.False(t, l.client.SessionReused())
		l.close()
		require.NoError(t, first.Close())
		require.Equal(t, 1, kept.news)

		sess := kept.take()
		require.NotNil(t, sess)
		require.Equal(t, live+1, cref.LiveSessions(), "all that is left of the connection")
		require.True(t, sess.Resumable())
		require.Equal(t, h.version, sess.Version())

		l = open(t, h.client(t, kept.on), server, h.name, sess)
		sess.Release() // the connection has a reference of its own
		require.NoError(t, l.talk())
		require.True(t, l.client.SessionReused())
		require.True(t, l.server.SessionReused())
		l.close()
		last := kept.take()
		require.Equal(t, h.version == tickets13.version, last != nil, "a resumed 1.3 connection brings another")
		last.Release()
		require.Equal(t, live, cref.LiveSessions())
	})
}

// The servername handler moves the connection to another Context, whose own handlers stay out of it: new, get and
// remove are those of the Context that made the connection, also once the other is closed.
func TestRustOpenSSL_SwappedContextKeepsTheCreatorsCallbacks(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		var creators, swapped notebook
		second := h.server(t, idContext("second"), swapped.on)
		first := h.server(t, idContext("first"), creators.on)
		swaps := 0
		first.SetServerNameCallback(func(ssl *libssl.SSL, name string) *libssl.Context {
			swaps++
			assert.Same(t, first, ssl.Context())
			assert.Equal(t, h.name, name)
			return second
		})
		client := h.client(t)
		l := open(t, client, first, h.name, nil)
		require.NoError(t, l.talk())
		own, err := l.server.Session()
		require.NoError(t, err)
		require.Equal(t, "second", string(own.IDContext()), "or it was not swapped")
		own.Release()
		sess := l.session(t)
		l.close()
		resumed, _ := h.visit(t, client, first, sess)
		require.True(t, resumed)
		require.Equal(t, 2, swaps)

		// The second Context goes while a connection that was moved to it is open; then that one breaks.
		l = open(t, client, first, h.name, nil)
		require.NoError(t, l.talk())
		require.NoError(t, second.Close())
		_, _, removes := creators.calls()
		require.Zero(t, removes)
		l.server.Abort()
		l.client.Close()
		news, gets, removes := creators.calls()
		require.Equal(t, map[way]int{ids12: 2, stateful13: 3}[h.way], news)
		require.Equal(t, 1, gets)
		require.Equal(t, 1, removes)
		news, gets, removes = swapped.calls()
		require.Zero(t, news+gets+removes)
	})
}

// Handlers of the swapped Context alone are never asked.
func TestRustOpenSSL_SwappedContextBringsNoCallbacks(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		var swapped notebook
		second := h.server(t, idContext("both"), swapped.on)
		first := h.server(t, idContext("both"))
		first.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
		first.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return second })
		client := h.client(t)
		_, sess := h.visit(t, client, first, nil)
		resumed, _ := h.visit(t, client, first, sess)
		require.False(t, resumed)
		news, gets, removes := swapped.calls()
		require.Zero(t, news+gets+removes)

		_, sess = h.visit(t, client, second, nil)
		resumed, _ = h.visit(t, client, second, sess)
		require.True(t, resumed, "at home they work")
	})
}

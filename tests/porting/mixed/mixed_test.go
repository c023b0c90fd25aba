package mixed_test

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/porting/mixed"
	"github.com/libssl-go/libssl/tests/tlstest"
)

// TestMain fails a run that leaves a reference behind, Go's or C's.
func TestMain(m *testing.M) {
	code := m.Run()
	if live := libssl.LiveResources(); code == 0 && (live != libssl.Resources{} || cref.LiveSessions() != 0) {
		fmt.Fprintf(os.Stderr, "FAIL: left behind: %+v, %d SSL_SESSIONs\n", live, cref.LiveSessions())
		code = 1
	}
	os.Exit(code)
}

// made is a server's Context that Go made, with an internal cache and session ids.
func made(t *testing.T) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewServerContext(tlstest.NewCA(t, "ca").LeafFiles(t, "localhost"))
	require.NoError(t, err)
	ctx.SetOptions(libssl.OpNoTicket)
	require.NoError(t, ctx.SetSessionIDContext([]byte("mixed")))
	return ctx
}

// visit has C make and drive a connection to the SSL_CTX, and returns the client's session with a reference for C to free.
func visit(t *testing.T, server, offer unsafe.Pointer) (resumed bool, session unsafe.Pointer) {
	t.Helper()
	client := cref.NewContext(true)
	defer cref.FreeContext(client)
	p, err := cref.NewPair(client, server, "", offer)
	require.NoError(t, err)
	defer p.Free(true)
	require.True(t, p.Run())
	return p.Reused(), p.Session()
}

// aSession is a session from a handshake in C, with a reference for C to free.
func aSession(t *testing.T) unsafe.Pointer {
	t.Helper()
	ctx := made(t)
	defer ctx.Close()
	_, session := visit(t, ctx.Pointer(), nil)
	require.NotNil(t, session)
	return session
}

func TestContextPointer_CMayKeepTheContext(t *testing.T) {
	ctx := made(t)
	p := ctx.Pointer()
	news := 0
	ctx.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool {
		news++
		return false
	})
	mixed.ContextUpRef(p)
	destroyed := cref.ContextsDestroyed()
	require.NoError(t, ctx.Close())
	require.Nil(t, ctx.Pointer())
	require.Equal(t, destroyed, cref.ContextsDestroyed(), "C has a reference")

	_, session := visit(t, p, nil)
	mixed.SessionFree(session)
	require.Positive(t, news, "the handlers last as long as the SSL_CTX")
	destroyed = cref.ContextsDestroyed() // the client's is among them
	mixed.ContextFree(p)
	require.Equal(t, destroyed+1, cref.ContextsDestroyed())
}

func TestContextPointer_BothSidesSeeOneCache(t *testing.T) {
	ctx := made(t)
	defer ctx.Close()
	p := ctx.Pointer()
	fromC := aSession(t)
	inGo, err := libssl.WrapSession(fromC, libssl.Transfer)
	require.NoError(t, err)
	defer inGo.Release()
	both := func(n int) {
		t.Helper()
		require.Equal(t, n, mixed.Number(p))
		require.EqualValues(t, n, ctx.Stats().Number)
	}

	removed := 0
	ctx.SetSessRemoveCallback(func(c *libssl.Context, s *libssl.Session) {
		removed++
		assert.Same(t, ctx, c)
		assert.Equal(t, inGo.ID(), s.ID())
	})
	require.True(t, mixed.AddSession(p, inGo.Pointer()))
	both(1)
	added, err := ctx.AddSession(inGo)
	require.NoError(t, err)
	require.True(t, added, "a copy has taken its place")
	both(1)
	was, err := ctx.RemoveSession(inGo)
	require.NoError(t, err)
	require.True(t, was)
	both(0)
	added, err = ctx.AddSession(inGo)
	require.NoError(t, err)
	require.True(t, added)
	both(1)
	require.True(t, mixed.RemoveSession(p, inGo.Pointer()))
	both(0)
	require.Equal(t, 2, removed)
}

func TestSessionPointer_IsBorrowed(t *testing.T) {
	destroyed := cref.SessionsDestroyed
	t.Run("C keeps a reference of its own", func(t *testing.T) {
		s, err := libssl.WrapSession(aSession(t), libssl.Transfer)
		require.NoError(t, err)
		p, id := s.Pointer(), s.ID()
		before := destroyed()
		mixed.SessionUpRef(p)
		s.Release()
		require.Nil(t, s.Pointer())
		require.Equal(t, before, destroyed())
		require.Equal(t, id.Bytes(), mixed.SessionID(p))
		mixed.SessionFree(p)
		require.Equal(t, before+1, destroyed())
	})
	t.Run("C gives its reference back, Go has one", func(t *testing.T) {
		p := aSession(t)
		s, err := libssl.WrapSession(p, libssl.Copy)
		require.NoError(t, err)
		before, id := destroyed(), mixed.SessionID(p)
		mixed.SessionFree(p)
		require.Equal(t, before, destroyed())
		require.Equal(t, id, s.ID().Bytes())
		s.Release()
		require.Equal(t, before+1, destroyed())
	})
}

func TestSSLPointer_InAHandlerAndOnlyThere(t *testing.T) {
	ctx := made(t)
	defer ctx.Close()
	var kept *libssl.Session
	var late *libssl.SSL
	ctx.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
		if kept != nil {
			return false // the second ticket's
		}
		assert.Equal(t, ctx.Pointer(), cref.CurrentContext(ssl.Pointer()))
		assert.True(t, mixed.Mark(ssl.Pointer(), "seen by new"))
		p := mixed.Get1Session(ssl.Pointer())
		assert.Equal(t, s.Pointer(), p, "one object on both sides")
		var err error
		kept, err = libssl.WrapSession(p, libssl.Transfer)
		assert.NoError(t, err)
		late = ssl
		return false
	})
	client := cref.NewContext(true)
	defer cref.FreeContext(client)
	pair, err := cref.NewPair(client, ctx.Pointer(), "", nil)
	require.NoError(t, err)
	require.True(t, pair.Run())
	require.NotNil(t, kept)
	require.Equal(t, "seen by new", mixed.Unmark(pair.Server()))
	require.Nil(t, late.Pointer(), "the call is over")
	pair.Free(true)

	_, err = kept.MarshalBinary()
	require.NoError(t, err, "the reference that C took is Go's")
	kept.Release()
}

// A Go handler answers with sessions from a table in C. With Copy the table keeps its reference, with Transfer OpenSSL gets it.
func TestWrapSession_AnswersWithWhatCHas(t *testing.T) {
	for name, flag := range map[string]libssl.CopyFlag{"Copy": libssl.Copy, "Transfer": libssl.Transfer} {
		t.Run(name, func(t *testing.T) {
			ctx := made(t)
			defer ctx.Close()
			ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
			table := map[libssl.SessionID]unsafe.Pointer{} // one reference each, C's
			ctx.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
				mixed.SessionUpRef(s.Pointer())
				table[s.ID()] = s.Pointer()
				return false
			})
			ctx.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				p := table[id]
				if p == nil {
					return nil, libssl.Copy
				}
				if flag == libssl.Transfer { // C's own reference goes along
					delete(table, id)
				}
				s, err := libssl.WrapSession(p, flag)
				assert.NoError(t, err)
				return s, libssl.Transfer
			})
			_, offer := visit(t, ctx.Pointer(), nil)
			resumed, second := visit(t, ctx.Pointer(), offer)
			require.True(t, resumed)
			mixed.SessionFree(offer)
			mixed.SessionFree(second)
			for _, p := range table {
				mixed.SessionFree(p)
			}
		})
	}
}

func TestWrapSession_RefusesNil(t *testing.T) {
	_, err := libssl.WrapSession(nil, libssl.Copy)
	require.Error(t, err)
	p := aSession(t)
	_, err = libssl.WrapSession(p, 7)
	require.Error(t, err, "no such flag")
	mixed.SessionFree(p) // it stayed C's
}

// Both sides count references of one object at once, as many threads as there are.
func TestSession_BothSidesCountAtOnce(t *testing.T) {
	s, err := libssl.WrapSession(aSession(t), libssl.Transfer)
	require.NoError(t, err)
	p, id := s.Pointer(), s.ID()
	before := cref.SessionsDestroyed()
	var all sync.WaitGroup
	for range 8 {
		mixed.SessionUpRef(p) // the goroutine's
		all.Go(func() {
			for range 200 {
				r, err := s.Retain()
				assert.NoError(t, err)
				mixed.SessionUpRef(r.Pointer())
				q := r.Pointer()
				r.Release()
				assert.Equal(t, id.Bytes(), mixed.SessionID(q))
				w, err := libssl.WrapSession(q, libssl.Transfer)
				assert.NoError(t, err)
				assert.Equal(t, id, w.ID())
				w.Release()
			}
			mixed.SessionFree(p)
		})
	}
	all.Wait()
	require.Equal(t, before, cref.SessionsDestroyed())
	s.Release()
	require.Equal(t, before+1, cref.SessionsDestroyed())
}

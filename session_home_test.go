package libssl_test

import (
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// OpenSSL links an object into one cache and does not check. A map of sessions behind two Contexts in the default cache mode
// must not break either.
func TestSession_BelongsToOneCache(t *testing.T) {
	for _, m := range askingModes() {
		for name, flag := range map[string]libssl.CopyFlag{"Copy": libssl.Copy, "Transfer": libssl.Transfer} {
			t.Run(m.name+"/"+name, func(t *testing.T) {
				client, a := m.pair(t, true)
				_, b := m.pair(t, true)
				kept := map[libssl.SessionID]*libssl.Session{}
				for _, ctx := range []*libssl.Context{a, b} {
					ctx.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
						kept[s.ID()] = s
						return true
					})
					ctx.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
						s := kept[id]
						if s == nil || flag == libssl.Copy {
							return s, flag
						}
						r, err := s.Retain()
						assert.NoError(t, err)
						return r, flag
					})
				}
				offered, _ := offer(t, client, a, nil)
				for range 3 {
					for _, ctx := range []*libssl.Context{b, a} {
						_, reused := offer(t, client, ctx, offered)
						require.True(t, reused)
					}
				}
				flushBoth(t, a, b)
				for _, s := range kept {
					s.Release()
				}
			})
		}
	}
}

// flushBoth walks the lists of sessions of both caches.
func flushBoth(t *testing.T, a, b *libssl.Context) {
	t.Helper()
	for _, ctx := range []*libssl.Context{a, b, a} {
		require.NoError(t, ctx.FlushSessions(time.Time{}))
		require.Zero(t, ctx.Stats().Number)
	}
}

func TestAddSession_CopiesWhatAnotherCacheMayHold(t *testing.T) {
	m := modes[0]
	client, a := m.pair(t, true)
	_, b := m.pair(t, true)
	add := func(ctx *libssl.Context, s *libssl.Session) (pointers []any) {
		_, err := ctx.AddSession(s)
		require.NoError(t, err)
		ctx.SetSessRemoveCallback(func(_ *libssl.Context, s *libssl.Session) { pointers = append(pointers, s.Pointer()) })
		require.NoError(t, ctx.FlushSessions(time.Time{}))
		ctx.SetSessRemoveCallback(nil)
		require.Len(t, pointers, 1)
		return pointers
	}
	own := func(s *libssl.Session, ctx *libssl.Context) {
		t.Helper()
		require.Equal(t, []any{s.Pointer()}, add(ctx, s))
	}
	copied := func(s *libssl.Session, ctx *libssl.Context) {
		t.Helper()
		require.NotEqual(t, []any{s.Pointer()}, add(ctx, s))
	}

	parsed := makeSession(t, m)
	own(parsed, a)
	copied(parsed, b)
	own(parsed, a)
	retained, err := parsed.Retain()
	require.NoError(t, err)
	defer retained.Release()
	copied(retained, b)
	dup, err := parsed.Dup()
	require.NoError(t, err)
	defer dup.Release()
	retainedDup, err := dup.Retain()
	require.NoError(t, err)
	defer retainedDup.Release()
	own(retainedDup, b)
	copied(dup, a)

	wrapped, err := libssl.WrapSession(parsed.Pointer(), libssl.Copy)
	require.NoError(t, err)
	defer wrapped.Release()
	copied(wrapped, a)

	c, s := handshake(t, client, a, nil)
	require.NoError(t, a.FlushSessions(time.Time{}))
	of := sessionOf(t, s)
	own(of, a)
	copied(of, b)
	copied(sessionOf(t, c), b)
	closeBoth(c, s)
}

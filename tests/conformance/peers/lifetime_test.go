package peers_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
				// The callback answers with a decoded object and keeps no reference to it: the decoding's reference leaks.
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

// The Session that new or remove was lent is dead after the call, though OpenSSL's object may live on.
func TestHandlers_LentSessionsDieWithTheCall(t *testing.T) {
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

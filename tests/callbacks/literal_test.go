package callbacks_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/require"
)

// handlers is a server's new and get, in C or in Go, that keep the bytes of what new sees.
type handlers struct {
	made   func() []byte
	answer func(der []byte) // what get is to answer from now on; nil: a miss
	calls  func() (news, gets, removes int)
	free   func()
}

// literal installs C functions with the flags as C writes them.
func literal(t testing.TB, ctx *libssl.Context, keep bool, flag libssl.CopyFlag) handlers {
	t.Helper()
	cb, err := cref.Install(ctx.Pointer(), cref.New|cref.Get|cref.Remove)
	require.NoError(t, err)
	cb.Keep(keep)
	return handlers{
		made: cb.Made,
		answer: func(der []byte) {
			c := 1
			if flag == libssl.Transfer {
				c = 0
			}
			require.NoError(t, cb.Answer(der, c))
		},
		calls: cb.Calls,
		free:  cb.Free,
	}
}

// inGo sets handlers that say the same in this module's words.
func inGo(t testing.TB, ctx *libssl.Context, keep bool, flag libssl.CopyFlag) handlers {
	t.Helper()
	var der []byte
	var kept []*libssl.Session
	var answer *libssl.Session
	var news, gets, removes int
	ctx.OnCallbackError(func(e *libssl.CallbackError) { t.Error(e) })
	ctx.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
		news++
		var err error
		if der, err = s.MarshalBinary(); err != nil {
			t.Error(err)
		}
		if keep {
			kept = append(kept, s)
		}
		return keep
	})
	ctx.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		gets++
		s := answer
		if s.ID() != id {
			return nil, flag
		}
		if flag == libssl.Transfer {
			answer = nil
		}
		return s, flag
	})
	ctx.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { removes++ })
	return handlers{
		made: func() []byte { return der },
		answer: func(der []byte) {
			s, err := libssl.ParseSession(der)
			require.NoError(t, err)
			answer = s
		},
		calls: func() (int, int, int) { return news, gets, removes },
		free: func() {
			answer.Release()
			for _, s := range kept {
				s.Release()
			}
		},
	}
}

// story runs a full handshake and one that offers its session, and tells at every stage how many SSL_SESSIONs live
// and what was called.
func story(t testing.TB, m mode, e engine, internal, clean, keep bool, flag libssl.CopyFlag, answers bool,
	install func(testing.TB, *libssl.Context, bool, libssl.CopyFlag) handlers) (told []string) {
	t.Helper()
	start := cref.LiveSessions()
	client, server := newClient(t), m.server(t)
	cacheMode := libssl.CacheServer
	if !internal {
		cacheMode |= libssl.CacheNoInternal
	}
	server.SetSessionCacheMode(cacheMode)
	h := install(t, server, keep, flag)
	stage := func(name string) {
		news, gets, removes := h.calls()
		told = append(told, fmt.Sprintf("%s: %d live, new %d, get %d, remove %d", name, cref.LiveSessions()-start, news, gets, removes))
	}

	first := e.link(t, client, server, nil)
	stage("connected")
	first.close(clean)
	stage("closed")
	require.NoError(t, server.FlushSessions(time.Time{}))
	stage("flushed")
	if der := h.made(); answers && len(der) > 0 {
		h.answer(der)
	}
	second := e.link(t, client, server, first.session)
	stage(fmt.Sprintf("connected again, resumed %t", second.reused))
	first.session.Release()
	second.session.Release()
	second.close(clean)
	stage("closed again")
	client.Close()
	server.Close()
	stage("context closed")
	h.free()
	require.Zero(t, cref.LiveSessions()-start, "SSL_SESSIONs left at the end: %v", told)
	return told
}

// The destructions of SSL_SESSIONs are counted by OpenSSL, with C functions that set *copy and return 0 or 1 literally,
// and with Go handlers.
func TestSessGet_CountsReferencesAsLiteralC(t *testing.T) {
	require.Eventually(t, func() bool {
		runtime.GC() // earlier tests may have left sessions to the collector
		return cref.LiveSessions() == 0
	}, time.Minute, time.Millisecond)
	answers := []struct {
		name    string
		flag    libssl.CopyFlag
		answers bool
	}{{"Copy", libssl.Copy, true}, {"Transfer", libssl.Transfer, true}, {"miss", libssl.Copy, false}}
	for _, e := range engines {
		for _, m := range modes {
			for _, a := range answers {
				for _, internal := range []bool{true, false} {
					for _, clean := range []bool{true, false} {
						t.Run(fmt.Sprintf("%s SSLs/%s/%s/internal %t/clean %t", e.name, m.name, a.name, internal, clean), func(t *testing.T) {
							c := story(t, m, e, internal, clean, false, a.flag, a.answers, literal)
							g := story(t, m, e, internal, clean, false, a.flag, a.answers, inGo)
							require.Equal(t, c, g)
							resumes := m.asks && a.answers || m.options&libssl.OpNoTicket == 0
							require.Contains(t, fmt.Sprint(g), fmt.Sprintf("resumed %t", resumes))
						})
					}
				}
			}
		}
	}
}

func TestSessNew_CountsReferencesAsLiteralC(t *testing.T) {
	for _, e := range engines {
		for _, m := range modes {
			for _, keep := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s SSLs/%s/keep %t", e.name, m.name, keep), func(t *testing.T) {
					c := story(t, m, e, true, true, keep, libssl.Copy, true, literal)
					g := story(t, m, e, true, true, keep, libssl.Copy, true, inGo)
					require.Equal(t, c, g)
					require.Contains(t, g[0], fmt.Sprintf("new %d", m.news))
				})
			}
		}
	}
}

// With Copy one object answers any number of lookups and stays the handler's; with Transfer each needs its own.
func TestSessGet_CopyAnswersAgainAndAgain(t *testing.T) {
	for _, m := range modes {
		if !m.asks {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			start := cref.LiveSessions()
			client, server := newClient(t), m.server(t)
			server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
			var answer *libssl.Session
			server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
				if answer == nil {
					answer = s
					return true
				}
				return false
			})
			server.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				if answer.ID() != id {
					return nil, libssl.Copy
				}
				return answer, libssl.Copy
			})
			first := linkC(t, client, server, nil).closed()
			for range 5 {
				l := linkC(t, client, server, first.session).closed()
				require.True(t, l.reused)
				l.session.Release()
			}
			require.Equal(t, start+1+offered(first.session, answer), cref.LiveSessions())
			require.True(t, answer.Resumable())
			answer.Release()
			first.session.Release()
			require.Equal(t, start, cref.LiveSessions())
		})
	}
}

// offered is 1 where the client's session and the server's are two objects.
func offered(a, b *libssl.Session) int {
	if a.Pointer() == b.Pointer() {
		return 0
	}
	return 1
}

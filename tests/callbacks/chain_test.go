package callbacks_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A C function comes back from the getter as a func, and a Go handler calls it in its turn.
func TestSessNewCallback_ChainsToC(t *testing.T) {
	for _, keepC := range []bool{false, true} {
		for _, keepGo := range []bool{false, true} {
			for _, retain := range []bool{false, true} {
				t.Run(fmt.Sprintf("C keeps %t/Go keeps %t/Go retains %t", keepC, keepGo, retain), func(t *testing.T) {
					start := cref.LiveSessions()
					client, server := newClient(t), modes[0].server(t)
					server.OnCallbackError(func(e *libssl.CallbackError) { t.Error(e) })
					c, err := cref.Install(server.Pointer(), cref.New)
					require.NoError(t, err)
					c.Keep(keepC)
					next := server.SessNewCallback()
					require.NotNil(t, next)
					var lent, retained *libssl.Session
					server.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
						assert.Equal(t, keepC, next(ssl, s))
						assert.False(t, s.ID().IsZero(), "good until the handler returns")
						if retain {
							retained, _ = s.Retain()
						}
						lent = s
						return keepGo
					})
					require.Equal(t, cref.Others, cref.Installed(server.Pointer(), cref.New))
					linkC(t, client, server, nil).closed().session.Release()
					news, _, _ := c.Calls()
					require.Equal(t, 1, news)
					if keepC {
						require.Equal(t, 1, c.Kept())
					}
					// C's reference is the one that came with the callback.
					require.Equal(t, keepGo && !keepC, lent.Pointer() != nil)
					lent.Release()
					retained.Release()
					require.NoError(t, server.Close())
					if keepC {
						require.Equal(t, start+1, cref.LiveSessions(), "C's reference")
					}
					c.Free()
					require.Equal(t, start, cref.LiveSessions())
				})
			}
		}
	}
}

// Two calls of a C function that keeps are two references, as two C functions in a row would have to take.
func TestSessNewCallback_ChainedTwiceTakesTwo(t *testing.T) {
	start := cref.LiveSessions()
	client, server := newClient(t), modes[0].server(t)
	c, err := cref.Install(server.Pointer(), cref.New)
	require.NoError(t, err)
	c.Keep(true)
	next := server.SessNewCallback()
	server.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool { return next(ssl, s) && next(ssl, s) })
	linkC(t, client, server, nil).closed().session.Release()
	require.NoError(t, server.Close())
	require.Equal(t, 2, c.Kept())
	require.Equal(t, start+1, cref.LiveSessions(), "one object")
	c.Free()
	require.Equal(t, start, cref.LiveSessions())
}

func TestSessGetCallback_ChainsToC(t *testing.T) {
	for _, m := range asking() {
		for _, flag := range []int{0, 1} {
			for _, keep := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/copy %d/Go keeps a reference %t", m.name, flag, keep), func(t *testing.T) {
					start := cref.LiveSessions()
					client, server := newClient(t), m.server(t)
					server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
					server.OnCallbackError(func(e *libssl.CallbackError) { t.Error(e) })
					c, err := cref.Install(server.Pointer(), cref.New|cref.Get)
					require.NoError(t, err)
					next := server.SessGetCallback()
					var got []*libssl.Session
					server.SetSessGetCallback(func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
						s, f := next(ssl, id)
						if s == nil {
							return nil, libssl.Copy
						}
						assert.Equal(t, libssl.Transfer, f)
						assert.Equal(t, id, s.ID())
						if keep {
							got, f = append(got, s), libssl.Copy
						}
						return s, f
					})
					first := linkC(t, client, server, nil).closed()
					require.NoError(t, c.Answer(c.Made(), flag))
					second := linkC(t, client, server, first.session).closed()
					require.True(t, second.reused)
					third := linkC(t, client, server, first.session).closed()
					require.Equal(t, flag == 1, third.reused, "with copy 0 C has given its only one away")
					for _, l := range []link{first, second, third} {
						l.session.Release()
					}
					if keep {
						require.Len(t, got, 1+flag)
					}
					for _, s := range got {
						s.Release()
					}
					require.NoError(t, server.Close())
					c.Free()
					require.Equal(t, start, cref.LiveSessions())
				})
			}
		}
	}
}

func TestSessRemoveCallback_ChainsToC(t *testing.T) {
	how := map[string]func(t *testing.T, client, server *libssl.Context){
		"RemoveSession": func(t *testing.T, client, server *libssl.Context) {
			var kept *libssl.Session
			server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool { kept = s; return true })
			linkC(t, client, server, nil).closed().session.Release()
			ok, err := server.RemoveSession(kept)
			require.NoError(t, err)
			require.True(t, ok)
			kept.Release()
		},
		"flush": func(t *testing.T, client, server *libssl.Context) {
			linkC(t, client, server, nil).closed().session.Release()
			require.NoError(t, server.FlushSessions(time.Time{}))
		},
		"unclean end": func(t *testing.T, client, server *libssl.Context) {
			l := linkC(t, client, server, nil)
			l.session.Release()
			l.close(false)
		},
		"Context.Close": func(t *testing.T, client, server *libssl.Context) {
			linkC(t, client, server, nil).closed().session.Release()
			require.NoError(t, server.Close())
		},
		"last connection after Context.Close": func(t *testing.T, client, server *libssl.Context) {
			l := linkC(t, client, server, nil)
			l.session.Release()
			require.NoError(t, server.Close())
			l.close(true)
		},
	}
	for name, remove := range how {
		t.Run(name, func(t *testing.T) {
			start := cref.LiveSessions()
			client, server := newClient(t), modes[0].server(t)
			server.OnCallbackError(func(e *libssl.CallbackError) { t.Error(e) })
			c, err := cref.Install(server.Pointer(), cref.Remove)
			require.NoError(t, err)
			next := server.SessRemoveCallback()
			removes := 0
			server.SetSessRemoveCallback(func(ctx *libssl.Context, s *libssl.Session) {
				removes++
				next(ctx, s)
				assert.False(t, s.ID().IsZero())
			})
			remove(t, client, server)
			_, _, inC := c.Calls()
			require.Equal(t, 1, removes)
			require.Equal(t, 1, inC)
			require.NoError(t, server.Close())
			c.Free()
			require.Equal(t, start, cref.LiveSessions())
		})
	}
}

// A func from a getter does nothing where there is no call to chain from.
func TestGetters_ChainedFuncsAreSafeOutside(t *testing.T) {
	server := modes[0].server(t)
	c, err := cref.Install(server.Pointer(), cref.New|cref.Get|cref.Remove)
	require.NoError(t, err)
	next, get, remove := server.SessNewCallback(), server.SessGetCallback(), server.SessRemoveCallback()
	var ssl *libssl.SSL
	var session *libssl.Session
	server.SetSessNewCallback(func(l *libssl.SSL, s *libssl.Session) bool { ssl, session = l, s; return false })
	linkC(t, newClient(t), server, nil).closed().session.Release()
	before := calls(c)

	require.False(t, next(ssl, session), "dead views")
	require.False(t, next(nil, nil))
	s, _ := get(ssl, libssl.SessionID{})
	require.Nil(t, s)
	s, _ = get(nil, libssl.SessionID{})
	require.Nil(t, s)
	remove(server, session)
	remove(server, nil)
	remove(nil, nil)
	require.Equal(t, before, calls(c))
	require.NoError(t, server.Close())
	c.Free()
}

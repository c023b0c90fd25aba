package libssl_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mode is one way to resume.
type mode struct {
	name    string
	version uint16
	options libssl.Options
	asks    bool // get_session_cb is asked for what a client offers
	news    int  // calls of new_session_cb by a full handshake with two tickets
	renews  int  // and by a resumed one
}

var modes = []mode{
	{"1.2 ids", tls.VersionTLS12, libssl.OpNoTicket, true, 1, 0},
	{"1.2 tickets", tls.VersionTLS12, 0, false, 0, 0},
	{"1.3 tickets", tls.VersionTLS13, 0, false, 2, 1},
	{"1.3 stateful", tls.VersionTLS13, libssl.OpNoTicket, true, 2, 1},
}

func askingModes() (all []mode) {
	for _, m := range modes {
		if m.asks {
			all = append(all, m)
		}
	}
	return all
}

// pair are the contexts of a mode; the server's has no internal cache unless
// internal. A misuse that nobody expects fails the test.
func (m mode) pair(t testing.TB, internal bool) (client, server *libssl.Context) {
	t.Helper()
	ca := tlstest.NewCA(t, "ca")
	client, server = newClient(t, ca), newServer(t, ca)
	require.NoError(t, client.SetVerify(libssl.VerifyNone)) // of other pairs' servers too
	// One version only: a TLS 1.2 client that speaks 1.3 too sends random ids.
	require.NoError(t, client.SetVersions(m.version, m.version))
	require.NoError(t, server.SetVersions(m.version, m.version))
	require.NoError(t, server.SetSessionIDContext([]byte(t.Name())[:1]))
	server.SetOptions(m.options)
	if !internal {
		server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
	}
	server.OnCallbackError(func(e *libssl.CallbackError) { t.Errorf("%v\n%s", e, e.Stack) })
	return client, server
}

// offer is a handshake, closed; it returns the client's session.
func offer(t testing.TB, client, server *libssl.Context, sess *libssl.Session) (next *libssl.Session, reused bool) {
	t.Helper()
	c, s := handshake(t, client, server, sess)
	require.Equal(t, c.SessionReused(), s.SessionReused())
	next, err := c.Session()
	require.NoError(t, err)
	t.Cleanup(next.Release)
	reused = c.SessionReused()
	closeBoth(c, s)
	return next, reused
}

func parse(t testing.TB, der []byte) *libssl.Session {
	t.Helper()
	s, err := libssl.ParseSession(der)
	require.NoError(t, err)
	t.Cleanup(s.Release)
	return s
}

func TestSessNew_CalledOncePerSession(t *testing.T) {
	for _, m := range modes {
		for _, internal := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/internal %t", m.name, internal), func(t *testing.T) {
				client, server := m.pair(t, internal)
				ids := map[libssl.SessionID]bool{}
				sealed := map[libssl.SessionID][]byte{}
				calls := 0
				server.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
					calls++
					ids[s.ID()] = true
					sealed[s.ID()] = derOf(t, s)
					assert.NotNil(t, ssl.Conn())
					assert.Same(t, server, ssl.Context())
					assert.Equal(t, m.version, ssl.Version())
					assert.Equal(t, serverName, ssl.ServerName())
					assert.Equal(t, m.version, s.Version())
					assert.True(t, s.Resumable())
					return false
				})
				server.SetSessGetCallback(func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
					return parse(t, sealed[id]), libssl.Transfer
				})
				sess, _ := offer(t, client, server, nil)
				require.Equal(t, m.news, calls)
				require.Len(t, ids, m.news, "each has its id")
				require.NoError(t, server.FlushSessions(time.Time{}))
				_, reused := offer(t, client, server, sess)
				require.True(t, reused)
				require.Equal(t, m.news+m.renews, calls)
			})
		}
	}
}

func TestSessNew_KeepDecidesWhoseTheReferenceIs(t *testing.T) {
	for _, m := range modes {
		if m.news == 0 {
			continue
		}
		for _, keep := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%t", m.name, keep), func(t *testing.T) {
				client, server := m.pair(t, true)
				var got []*libssl.Session
				server.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
					got = append(got, s)
					s.Release() // of what is only lent: nothing
					return keep
				})
				before := libssl.LiveResources().Sessions
				offer(t, client, server, nil)
				require.Len(t, got, m.news)
				held := libssl.LiveResources().Sessions - before
				require.NoError(t, server.Close())
				for _, s := range got {
					_, err := s.MarshalBinary()
					if keep {
						require.NoError(t, err, "used after the connection and the context")
						require.False(t, s.ID().IsZero())
						s.Release()
					}
					_, err = s.MarshalBinary()
					require.ErrorIs(t, err, libssl.ErrReleased)
				}
				if keep {
					require.Equal(t, m.news+1, held, "and the client's")
				} else {
					require.Equal(t, 1, held)
				}
			})
		}
	}
}

// false gives the reference back, and does nothing else (SEMANTICS F1.9).
func TestSessNew_FalseDoesNotRemove(t *testing.T) {
	client, server := modes[0].pair(t, true)
	server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { return false })
	server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) {})
	sess, _ := offer(t, client, server, nil)
	require.Equal(t, 1, server.Stats().Number)
	_, reused := offer(t, client, server, sess)
	require.True(t, reused)
}

func TestSessGet_AnswersByFlag(t *testing.T) {
	for _, m := range modes {
		for _, internal := range []bool{true, false} {
			for _, answer := range []string{"Copy", "Transfer", "miss"} {
				t.Run(fmt.Sprintf("%s/internal %t/%s", m.name, internal, answer), func(t *testing.T) {
					client, server := m.pair(t, internal)
					sealed := map[libssl.SessionID][]byte{}
					server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
						sealed[s.ID()] = derOf(t, s)
						return false
					})
					var given *libssl.Session
					gets := 0
					server.SetSessGetCallback(func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
						gets++
						assert.NotNil(t, ssl.Conn())
						assert.Equal(t, m.version, ssl.Version())
						if answer == "miss" {
							return nil, libssl.Copy
						}
						given = parse(t, sealed[id])
						if answer == "Copy" {
							return given, libssl.Copy
						}
						return given, libssl.Transfer
					})
					sess, _ := offer(t, client, server, nil)
					require.Zero(t, gets)
					require.NoError(t, server.FlushSessions(time.Time{}))
					_, reused := offer(t, client, server, sess)
					if !m.asks {
						require.Zero(t, gets)
						require.True(t, reused)
						return
					}
					require.Equal(t, 1, gets)
					require.Equal(t, answer != "miss", reused)
					require.Equal(t, answer == "Copy", given.Pointer() != nil, "who has the reference")
					if internal && answer != "miss" && m.version == tls.VersionTLS12 {
						require.Equal(t, 1, server.Stats().Number, "the answer is cached (F2.9)")
						_, reused = offer(t, client, server, sess)
						require.True(t, reused)
						require.Equal(t, 1, gets, "and found there")
					}
				})
			}
		}
	}
}

// What a handler must not answer with is a miss, said once; the handshake is a
// full one.
func TestSessGet_BadAnswersAreMisses(t *testing.T) {
	type answer func(t *testing.T, der []byte, lent *libssl.Session) (*libssl.Session, libssl.CopyFlag)
	answers := map[string]struct {
		f   answer
		err error // in the CallbackError; nil: any. "nil" has none.
	}{
		"nil": {func(*testing.T, []byte, *libssl.Session) (*libssl.Session, libssl.CopyFlag) {
			return nil, libssl.Transfer
		}, nil},
		"released": {func(t *testing.T, der []byte, _ *libssl.Session) (*libssl.Session, libssl.CopyFlag) {
			s := parse(t, der)
			s.Release()
			return s, libssl.Copy
		}, libssl.ErrReleased},
		"released, transferred": {func(t *testing.T, der []byte, _ *libssl.Session) (*libssl.Session, libssl.CopyFlag) {
			s := parse(t, der)
			s.Release()
			return s, libssl.Transfer
		}, libssl.ErrReleased},
		"lent and dead": {func(_ *testing.T, _ []byte, lent *libssl.Session) (*libssl.Session, libssl.CopyFlag) {
			return lent, libssl.Copy
		}, libssl.ErrReleased},
		"no such flag": {func(t *testing.T, der []byte, _ *libssl.Session) (*libssl.Session, libssl.CopyFlag) {
			return parse(t, der), 7
		}, nil},
	}
	for name, a := range answers {
		for _, m := range askingModes() {
			t.Run(name+"/"+m.name, func(t *testing.T) {
				client, server := m.pair(t, false)
				var told []*libssl.CallbackError
				server.OnCallbackError(func(e *libssl.CallbackError) { told = append(told, e) })
				var lent *libssl.Session
				var der []byte
				server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
					lent, der = s, derOf(t, s)
					return false
				})
				gets := 0
				server.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
					gets++
					return a.f(t, der, lent)
				})
				sess, _ := offer(t, client, server, nil)
				_, reused := offer(t, client, server, sess)
				require.Equal(t, 1, gets)
				require.False(t, reused)
				if name == "nil" {
					require.Empty(t, told)
					return
				}
				require.Len(t, told, 1)
				require.Equal(t, "get", told[0].Callback)
				require.Nil(t, told[0].Stack)
				require.NotEmpty(t, told[0].Error())
				if a.err != nil {
					require.ErrorIs(t, told[0], a.err)
				}
			})
		}
	}
}

func TestSessGet_DoubleTransferIsAMissAndAnError(t *testing.T) {
	for _, m := range askingModes() {
		t.Run(m.name, func(t *testing.T) {
			client, server := m.pair(t, false)
			var told []*libssl.CallbackError
			server.OnCallbackError(func(e *libssl.CallbackError) { told = append(told, e) })
			var kept *libssl.Session
			server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
				if kept != nil {
					kept.Release()
				}
				kept = s
				return true
			})
			sess, _ := offer(t, client, server, nil)
			answer := kept // the last ticket's, which the client offers
			kept = nil
			server.SetSessNewCallback(nil)
			server.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				return answer, libssl.Transfer
			})
			_, reused := offer(t, client, server, sess)
			require.True(t, reused)
			require.Empty(t, told)
			require.Nil(t, answer.Pointer(), "spent")
			_, reused = offer(t, client, server, sess)
			require.False(t, reused)
			require.Len(t, told, 1)
			require.ErrorIs(t, told[0], libssl.ErrReleased)
			answer.Release()
		})
	}
}

// A session that a remove handler is lent cannot be handed over from in there.
func TestSessGet_BorrowedTransferIsAMiss(t *testing.T) {
	m := modes[0]
	client, server := m.pair(t, false)
	other, otherServer := m.pair(t, false)
	var sess *libssl.Session
	var told []error
	otherServer.OnCallbackError(func(e *libssl.CallbackError) { told = append(told, e) })
	var reused bool
	server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
		otherServer.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
			return s, libssl.Transfer
		})
		_, reused = offer(t, other, otherServer, sess)
		assert.NotNil(t, s.Pointer(), "still lent")
		return false
	})
	sess, _ = offer(t, other, otherServer, nil)
	offer(t, client, server, nil)
	require.False(t, reused)
	require.Len(t, told, 1)
	require.ErrorIs(t, told[0], libssl.ErrReleased)
}

func TestSessRemove_TellsWhatGoes(t *testing.T) {
	for _, m := range modes {
		if m.news == 0 {
			continue
		}
		for _, internal := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/internal %t", m.name, internal), func(t *testing.T) {
				client, server := m.pair(t, internal)
				var gone []libssl.SessionID
				var retained []*libssl.Session
				server.SetSessRemoveCallback(func(ctx *libssl.Context, s *libssl.Session) {
					assert.Same(t, server, ctx)
					assert.False(t, s.Resumable(), "marked (F3.4)")
					gone = append(gone, s.ID())
					r, err := s.Retain()
					assert.NoError(t, err)
					retained = append(retained, r)
				})
				offer(t, client, server, nil)
				require.Empty(t, gone, "a clean end removes nothing")
				cached := 0
				if internal {
					cached = m.news
				}
				require.NoError(t, server.FlushSessions(time.Time{}))
				require.Len(t, gone, cached)

				c, s := handshake(t, client, server, nil)
				require.NoError(t, s.Abort())
				c.Close()
				require.Len(t, gone, cached+1, "the connection's session")
				require.NoError(t, server.Close())
				require.Len(t, gone, max(2*cached, 1), "what was cached, without the one that had gone")
				for i, r := range retained {
					require.Equal(t, gone[i], r.ID(), "retained, after the context")
					r.Release()
				}
			})
		}
	}
}

func TestSessRemove_AlertOfThePeerRemoves(t *testing.T) {
	client, server := modes[0].pair(t, false)
	var removes int
	var conn *libssl.Conn
	errs := map[string]error{}
	server.SetSessRemoveCallback(func(_ *libssl.Context, s *libssl.Session) {
		removes++
		if conn == nil {
			return
		}
		// Inside conn's own step.
		_, errs["Read"] = conn.Read(make([]byte, 1))
		_, errs["Write"] = conn.Write([]byte{1})
		errs["Handshake"] = conn.Handshake()
		errs["CloseWrite"] = conn.CloseWrite()
		assert.NoError(t, conn.Close(), "takes effect later")
	})
	c, s := handshake(t, client, server, nil)
	conn = s
	// A fatal alert in the clear is a bad record to the server.
	_, err := c.NetConn().Write([]byte{21, 3, 3, 0, 2, 2, 40})
	require.NoError(t, err)
	_, err = s.Read(make([]byte, 1))
	require.Error(t, err)
	require.Equal(t, 1, removes)
	require.ErrorIs(t, errs["Read"], libssl.ErrReentrant)
	require.ErrorIs(t, errs["Write"], libssl.ErrReentrant)
	require.ErrorIs(t, errs["CloseWrite"], libssl.ErrReentrant)
	require.NoError(t, errs["Handshake"], "it is done")
	_, err = s.Write([]byte{1})
	require.ErrorIs(t, err, libssl.ErrClosed)
}

// ---- panics ---------------------------------------------------------------------

func TestHandlers_PanicCountsAsAbsent(t *testing.T) {
	panics := func() { panic("on purpose") }
	installs := map[string]func(server *libssl.Context){
		"new": func(c *libssl.Context) {
			c.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { panics(); return true })
		},
		"get": func(c *libssl.Context) {
			c.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				panics()
				return nil, libssl.Copy
			})
		},
		"remove": func(c *libssl.Context) {
			c.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { panics() })
		},
		"servername": func(c *libssl.Context) {
			c.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { panics(); return nil })
		},
		"keylog": func(c *libssl.Context) {
			c.SetKeyLogWriter(writerFunc(func([]byte) (int, error) { panics(); return 0, nil }))
		},
	}
	reporters := map[string]func(*libssl.CallbackError){"told": nil, "nil": nil, "panics too": func(*libssl.CallbackError) { panic("again") }}
	for name, install := range installs {
		for _, m := range modes {
			for how, report := range reporters {
				t.Run(name+"/"+m.name+"/"+how, func(t *testing.T) {
					client, server := m.pair(t, true)
					var told []*libssl.CallbackError
					if how == "told" {
						report = func(e *libssl.CallbackError) { told = append(told, e) }
					}
					server.OnCallbackError(report)
					install(server)
					calls := map[string]int{"new": m.news, "get": 0, "remove": 0, "servername": 1}
					sess, _ := offer(t, client, server, nil)
					if name == "keylog" {
						require.Equal(t, how == "told", len(told) > 0)
						calls["keylog"] = len(told)
					}
					if how == "told" {
						require.Len(t, told, calls[name])
					}
					if name == "get" || name == "remove" {
						told = nil
						number := server.Stats().Number
						require.NoError(t, server.FlushSessions(time.Time{}))
						require.Zero(t, server.Stats().Number)
						if how == "told" && name == "remove" {
							require.Len(t, told, number)
						}
						_, reused := offer(t, client, server, sess)
						if name == "get" && m.asks {
							require.False(t, reused)
							if how == "told" {
								require.Len(t, told, 1)
							}
						}
					} else {
						_, reused := offer(t, client, server, sess)
						require.True(t, reused)
					}
					for _, e := range told {
						require.Equal(t, name, e.Callback)
						require.Equal(t, "on purpose", e.Value)
						require.Contains(t, string(e.Stack), "TestHandlers_PanicCountsAsAbsent", "where it was")
						require.Contains(t, e.Error(), "on purpose")
					}
				})
			}
		}
	}
}

func TestCallbackError_UnwrapsWhatWasThrown(t *testing.T) {
	client, server := modes[0].pair(t, true)
	var told error
	server.OnCallbackError(func(e *libssl.CallbackError) { told = e })
	server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { panic(io.ErrNoProgress) })
	offer(t, client, server, nil)
	require.ErrorIs(t, told, io.ErrNoProgress)
	var e *libssl.CallbackError
	require.ErrorAs(t, told, &e)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// ---- re-entry --------------------------------------------------------------------

// contextCalls are the calls that need the lock of a context.
func contextCalls(ctx *libssl.Context, s *libssl.Session) map[string]func() error {
	return map[string]func() error{
		"AddSession":    func() error { _, err := ctx.AddSession(s); return err },
		"RemoveSession": func() error { _, err := ctx.RemoveSession(s); return err },
		"FlushSessions": func() error { return ctx.FlushSessions(time.Time{}) },
	}
}

// Why a connection failed is still known after a handler whose calls use OpenSSL's error queue.
func TestSessRemove_LeavesTheReasonOfAFailure(t *testing.T) {
	for _, m := range askingModes() {
		t.Run(m.name, func(t *testing.T) {
			clientCtx, serverCtx := m.pair(t, false)
			removed := 0
			serverCtx.SetSessRemoveCallback(func(_ *libssl.Context, s *libssl.Session) {
				removed++
				_, err := s.MarshalBinary()
				assert.NoError(t, err)
				_, err = libssl.ParseSession([]byte("garbage"))
				assert.Error(t, err)
			})
			client, server := handshake(t, clientCtx, serverCtx, nil)
			_, err := client.NetConn().Write([]byte("\x17\x03\x03\x00\x20 a record of 32 bytes that is bad"))
			require.NoError(t, err)
			_, err = server.Read(make([]byte, 1))
			require.Equal(t, 1, removed)
			var e *libssl.Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Queue)
			require.Contains(t, err.Error(), "decryption failed or bad record mac")
			require.NotContains(t, err.Error(), "asn1")
		})
	}
}

func TestSessRemove_ReentryIsRefusedAtOnce(t *testing.T) {
	// Each makes at least one call of remove that may come with the lock held.
	paths := map[string]func(t *testing.T, client, server *libssl.Context){
		"FlushSessions": func(t *testing.T, client, server *libssl.Context) {
			require.NoError(t, server.FlushSessions(time.Time{}))
		},
		"AddSession that evicts": func(t *testing.T, client, server *libssl.Context) {
			server.SetSessionCacheSize(2)
			for range 3 {
				ok, err := server.AddSession(makeSession(t, modes[0]))
				require.NoError(t, err)
				require.True(t, ok)
			}
		},
		"handshake that evicts": func(t *testing.T, client, server *libssl.Context) {
			server.SetSessionCacheSize(2)
			for range 3 {
				offer(t, client, server, nil)
			}
		},
		"broken connection": func(t *testing.T, client, server *libssl.Context) {
			c, s := handshake(t, client, server, nil)
			require.NoError(t, s.Abort())
			c.Close()
		},
		"Context.Close": func(t *testing.T, client, server *libssl.Context) { require.NoError(t, server.Close()) },
	}
	for name, run := range paths {
		for _, m := range askingModes() {
			t.Run(name+"/"+m.name, func(t *testing.T) {
				client, server := m.pair(t, true)
				_, other := m.pair(t, true)
				spare := makeSession(t, m)
				// An object is in one context's cache at most.
				spareOther := parse(t, derOf(t, spare))
				offer(t, client, server, nil)
				removes := 0
				server.SetSessRemoveCallback(func(ctx *libssl.Context, s *libssl.Session) {
					removes++
					for name, call := range contextCalls(ctx, spare) {
						start := time.Now()
						assert.ErrorIs(t, call(), libssl.ErrReentrant, name)
						assert.Less(t, time.Since(start), 5*time.Second)
					}
					for name, call := range contextCalls(other, spareOther) {
						assert.NoError(t, call(), "another context: %s", name)
					}
					_, err := s.MarshalBinary()
					assert.NoError(t, err)
				})
				run(t, client, server)
				require.Positive(t, removes)
				if name != "Context.Close" {
					removes = 0
					server.SetSessRemoveCallback(nil)
					for _, call := range contextCalls(server, spare) {
						require.NoError(t, call(), "and outside again")
					}
				}
			})
		}
	}
}

// makeSession is a session of the mode, of a context that has gone.
func makeSession(t testing.TB, m mode) *libssl.Session {
	t.Helper()
	client, server := m.pair(t, false)
	var der []byte
	server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool { der = derOf(t, s); return false })
	offer(t, client, server, nil)
	require.NotEmpty(t, der)
	return parse(t, der)
}

// OpenSSL holds no lock when it removes on request.
func TestSessRemove_NestsInsideRemoveSession(t *testing.T) {
	client, server := modes[0].pair(t, true)
	var kept []*libssl.Session
	server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool { kept = append(kept, s); return true })
	for range 3 {
		offer(t, client, server, nil)
	}
	var gone []libssl.SessionID
	server.SetSessRemoveCallback(func(ctx *libssl.Context, s *libssl.Session) {
		gone = append(gone, s.ID())
		if len(gone) < len(kept) {
			ok, err := ctx.RemoveSession(kept[len(gone)])
			assert.NoError(t, err)
			assert.True(t, ok)
			return
		}
		// Flushing from here is another matter for the handlers it calls.
		removing := len(gone)
		_, err := ctx.AddSession(makeSession(t, modes[0]))
		assert.NoError(t, err)
		ctx.SetSessRemoveCallback(func(ctx *libssl.Context, s *libssl.Session) {
			gone = append(gone, s.ID())
			assert.ErrorIs(t, ctx.FlushSessions(time.Time{}), libssl.ErrReentrant)
		})
		assert.NoError(t, ctx.FlushSessions(time.Time{}))
		assert.Len(t, gone, removing+1)
	})
	ok, err := server.RemoveSession(kept[0])
	require.NoError(t, err)
	require.True(t, ok)
	require.Len(t, gone, 4)
	require.Zero(t, server.Stats().Number)
	for _, s := range kept {
		s.Release()
	}
	require.NoError(t, server.FlushSessions(time.Time{}))
}

// Two contexts whose remove handlers flush each other come to an end.
func TestSessRemove_ReentryThroughAnotherContext(t *testing.T) {
	client, a := modes[0].pair(t, true)
	_, b := modes[0].pair(t, true)
	for _, ctx := range []*libssl.Context{a, b} {
		offer(t, client, ctx, nil)
	}
	inner := 0
	b.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) {
		inner++
		assert.ErrorIs(t, a.FlushSessions(time.Time{}), libssl.ErrReentrant)
	})
	a.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { assert.NoError(t, b.FlushSessions(time.Time{})) })
	require.NoError(t, a.FlushSessions(time.Time{}))
	require.Equal(t, 1, inner)
}

func TestSessNewAndGet_MayCallTheContext(t *testing.T) {
	for _, m := range askingModes() {
		t.Run(m.name, func(t *testing.T) {
			client, server := m.pair(t, true)
			spare := makeSession(t, m)
			var removes int
			server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { removes++ })
			calls := 0
			server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool {
				for name, call := range contextCalls(server, spare) {
					calls++
					assert.NoError(t, call(), name)
				}
				return false
			})
			server.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				for name, call := range contextCalls(server, spare) {
					calls++
					assert.NoError(t, call(), name)
				}
				server.SetSessNewCallback(nil)
				return nil, libssl.Copy
			})
			sess, _ := offer(t, client, server, nil)
			require.NoError(t, server.FlushSessions(time.Time{}))
			offer(t, client, server, sess)
			require.Equal(t, 3*(m.news+1), calls)
			require.Positive(t, removes)
		})
	}
}

func TestHandlers_OwnConnIsReentrant(t *testing.T) {
	for _, m := range askingModes() {
		for _, end := range []string{"Close", "Abort", ""} {
			t.Run(m.name+"/"+end, func(t *testing.T) {
				client, server := m.pair(t, false)
				check := func(c *libssl.Conn) {
					_, err := c.Read(make([]byte, 1))
					assert.ErrorIs(t, err, libssl.ErrReentrant)
					_, err = c.Write([]byte{1})
					assert.ErrorIs(t, err, libssl.ErrReentrant)
					assert.ErrorIs(t, c.Handshake(), libssl.ErrReentrant)
					assert.NotPanics(t, func() { c.SessionReused(); c.ConnectionState() })
					switch end {
					case "Close":
						assert.NoError(t, c.Close())
						assert.ErrorIs(t, c.Close(), libssl.ErrClosed)
					case "Abort":
						assert.NoError(t, c.Abort())
					}
				}
				news := 0
				server.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
					if news++; news == 1 {
						check(ssl.Conn())
					}
					return false
				})
				cn, sn := tcpPipe(t)
				c, s := wrap(t, cn, sn, client, server)
				err := exchange(c, s)
				require.Equal(t, m.news, news)
				if end == "" {
					require.NoError(t, err)
					return
				}
				require.Error(t, err)
				_, err = s.Read(make([]byte, 1))
				require.ErrorIs(t, err, libssl.ErrClosed)
			})
		}
	}
}

// A handler of one connection drives another, whose handlers call the first.
func TestHandlers_OwnConnIsReentrantThroughAnother(t *testing.T) {
	client, server := modes[0].pair(t, false)
	innerClient, innerServer := modes[0].pair(t, false)
	checked := false
	server.SetSessNewCallback(func(outer *libssl.SSL, _ *libssl.Session) bool {
		conn := outer.Conn()
		cn, sn := tcpPipe(t)
		c, s := wrap(t, cn, sn, innerClient, innerServer)
		done := make(chan error, 1)
		go func() { done <- c.Handshake() }()
		innerServer.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool {
			checked = true
			_, err := conn.Read(make([]byte, 1))
			assert.ErrorIs(t, err, libssl.ErrReentrant)
			assert.NotPanics(t, func() { conn.SessionReused() })
			return false
		})
		assert.NoError(t, s.Handshake()) // on this thread
		assert.NoError(t, <-done)
		return false
	})
	offer(t, client, server, nil)
	require.True(t, checked)
}

func TestHandlers_CloseOfTheirContext(t *testing.T) {
	for _, m := range askingModes() {
		t.Run(m.name, func(t *testing.T) {
			client, server := m.pair(t, true)
			removes := 0
			server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { removes++ })
			server.SetSessNewCallback(func(ssl *libssl.SSL, _ *libssl.Session) bool {
				assert.NoError(t, ssl.Context().Close())
				return false
			})
			c, s := handshake(t, client, server, nil)
			require.ErrorIs(t, server.FlushSessions(time.Time{}), libssl.ErrClosed)
			require.Zero(t, removes, "the connection holds the SSL_CTX")
			closeBoth(c, s)
			require.Equal(t, m.news, removes)
		})
	}
	t.Run("in remove", func(t *testing.T) {
		client, server := modes[0].pair(t, true)
		offer(t, client, server, nil)
		removes := 0
		server.SetSessRemoveCallback(func(ctx *libssl.Context, _ *libssl.Session) {
			removes++
			assert.NoError(t, ctx.Close())
		})
		require.NoError(t, server.FlushSessions(time.Time{}))
		require.Equal(t, 1, removes)
		require.ErrorIs(t, server.FlushSessions(time.Time{}), libssl.ErrClosed)
	})
}

// ---- setters and getters -----------------------------------------------------------

func TestGetters_GiveBackTheClosure(t *testing.T) {
	_, server := modes[0].pair(t, false)
	require.Nil(t, server.SessNewCallback())
	require.Nil(t, server.SessGetCallback())
	require.Nil(t, server.SessRemoveCallback())
	var called []string
	server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { called = append(called, "new"); return true })
	server.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		called = append(called, "get")
		return nil, libssl.Transfer
	})
	server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { called = append(called, "remove") })
	require.True(t, server.SessNewCallback()(nil, nil))
	_, flag := server.SessGetCallback()(nil, libssl.SessionID{})
	require.Equal(t, libssl.Transfer, flag)
	server.SessRemoveCallback()(nil, nil)
	require.Equal(t, []string{"new", "get", "remove"}, called)
	server.SetSessNewCallback(nil)
	server.SetSessGetCallback(nil)
	server.SetSessRemoveCallback(nil)
	require.Nil(t, server.SessNewCallback())
	require.Nil(t, server.SessGetCallback())
	require.Nil(t, server.SessRemoveCallback())
}

func TestSetters_WhileServing(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			client, server := m.pair(t, true)
			server.SetSessionCacheSize(3)
			var mu sync.Mutex
			sealed := map[libssl.SessionID][]byte{}
			var called atomic.Int64
			news := []libssl.NewSessionFunc{nil, func(_ *libssl.SSL, s *libssl.Session) bool {
				called.Add(1)
				mu.Lock()
				defer mu.Unlock()
				sealed[s.ID()] = derOf(t, s)
				return false
			}, func(_ *libssl.SSL, s *libssl.Session) bool { s.Release(); return false }}
			gets := []libssl.GetSessionFunc{nil, func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				called.Add(1)
				mu.Lock()
				der, ok := sealed[id]
				mu.Unlock()
				if !ok {
					return nil, libssl.Copy
				}
				s, err := libssl.ParseSession(der)
				assert.NoError(t, err)
				return s, libssl.Transfer
			}}
			removes := []libssl.RemoveSessionFunc{nil, func(_ *libssl.Context, s *libssl.Session) { called.Add(1); s.ID() }}
			stop := make(chan struct{})
			var others sync.WaitGroup
			forever := func(f func(i int)) {
				others.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
							f(i)
						}
					}
				})
			}
			forever(func(i int) { server.SetSessNewCallback(news[i%len(news)]); server.SessNewCallback() })
			forever(func(i int) { server.SetSessGetCallback(gets[i%len(gets)]); server.SessGetCallback() })
			forever(func(i int) { server.SetSessRemoveCallback(removes[i%len(removes)]); server.SessRemoveCallback() })
			forever(func(int) { assert.NoError(t, server.FlushSessions(time.Time{})); server.Stats() })
			spare := makeSession(t, modes[0])
			forever(func(int) {
				// A fresh object each time: one that a handshake evicts must not come
				// back meanwhile (SEMANTICS F3.7).
				s, err := spare.Dup()
				assert.NoError(t, err)
				_, err = server.AddSession(s)
				assert.NoError(t, err)
				_, err = server.RemoveSession(s)
				assert.NoError(t, err)
				s.Release()
			})
			var serving sync.WaitGroup
			for range 4 {
				serving.Go(func() {
					var sess *libssl.Session
					for i := range 15 {
						c, s := handshake(t, client, server, sess)
						sess.Release()
						var err error
						sess, err = c.Session()
						assert.NoError(t, err)
						if i%4 == 3 {
							s.Abort()
						}
						closeBoth(c, s)
					}
					sess.Release()
				})
			}
			serving.Wait()
			close(stop)
			others.Wait()
			t.Logf("%d calls", called.Load())
		})
	}
}

// ---- clients ------------------------------------------------------------------------

func TestSessNew_OnAClient(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			client, server := m.pair(t, true)
			calls := 0
			var kept *libssl.Session
			client.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
				calls++
				assert.Same(t, client, ssl.Context())
				assert.NotNil(t, ssl.Conn())
				kept.Release()
				kept = s
				return true
			})
			offer(t, client, server, nil)
			require.Zero(t, calls, "the default mode is the server's")
			client.SetSessionCacheMode(libssl.CacheClient | libssl.CacheNoInternal)
			offer(t, client, server, nil)
			want := 1
			if m.version == tls.VersionTLS13 {
				want = 2 // one a ticket
			}
			require.Equal(t, want, calls)
			sess := kept
			kept = nil
			require.Equal(t, m.options&libssl.OpNoTicket == 0 || m.version == tls.VersionTLS13, sess.HasTicket())
			_, reused := offer(t, client, server, sess)
			require.True(t, reused)
			if m.version == tls.VersionTLS13 {
				require.Equal(t, 3, calls)
			} else {
				require.Equal(t, 1, calls)
			}
			sess.Release()
			kept.Release()
		})
	}
}

// ---- names ------------------------------------------------------------------------------

func TestServerName_SwitchKeepsTheHandlers(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	for _, m := range askingModes() {
		t.Run(m.name, func(t *testing.T) {
			client, first := m.pair(t, false)
			second := newServer(t, ca)
			second.SetOptions(m.options)
			require.NoError(t, second.SetSessionIDContext([]byte("second")))
			second.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { t.Error("new of the second"); return false })
			sealed := map[libssl.SessionID][]byte{}
			var contexts []string
			first.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
				assert.Same(t, first, ssl.Context())
				assert.Equal(t, serverName, ssl.ServerName())
				sealed[s.ID()] = derOf(t, s)
				contexts = append(contexts, string(s.IDContext()))
				return false
			})
			first.SetSessGetCallback(func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				assert.Same(t, first, ssl.Context())
				return parse(t, sealed[id]), libssl.Transfer
			})
			names := []string{}
			first.SetServerNameCallback(func(ssl *libssl.SSL, name string) *libssl.Context {
				names = append(names, name)
				assert.Same(t, first, ssl.Context())
				assert.NotNil(t, ssl.Conn())
				return second
			})
			sess, _ := offer(t, client, first, nil)
			_, reused := offer(t, client, first, sess)
			require.True(t, reused)
			require.Equal(t, []string{serverName, serverName}, names)
			require.Equal(t, []string{"second"}, slices.Compact(contexts))

			// Back home the session is another's.
			first.SetServerNameCallback(nil)
			_, reused = offer(t, client, first, sess)
			require.False(t, reused)
		})
	}
}

func TestServerName_ClosedContextStays(t *testing.T) {
	client, first := modes[0].pair(t, false)
	_, gone := modes[0].pair(t, false)
	require.NoError(t, gone.Close())
	var told []error
	first.OnCallbackError(func(e *libssl.CallbackError) { told = append(told, e) })
	first.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return gone })
	offer(t, client, first, nil)
	require.Len(t, told, 1)
	require.ErrorIs(t, told[0], net.ErrClosed)
}

// ---- dead views ---------------------------------------------------------------------------

func TestSSL_IsDeadAfterTheCall(t *testing.T) {
	client, server := modes[0].pair(t, false)
	var ssls []*libssl.SSL
	server.SetSessNewCallback(func(ssl *libssl.SSL, _ *libssl.Session) bool { ssls = append(ssls, ssl); return false })
	server.SetServerNameCallback(func(ssl *libssl.SSL, _ string) *libssl.Context { ssls = append(ssls, ssl); return nil })
	server.SetSessGetCallback(func(ssl *libssl.SSL, _ libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		ssls = append(ssls, ssl)
		return nil, libssl.Copy
	})
	sess, _ := offer(t, client, server, nil)
	offer(t, client, server, sess)
	require.Len(t, ssls, 5)
	for _, ssl := range append(ssls, nil, new(libssl.SSL)) {
		require.Nil(t, ssl.Conn())
		require.Nil(t, ssl.Context())
		require.Empty(t, ssl.ServerName())
		require.Zero(t, ssl.Version())
		require.Nil(t, ssl.Pointer())
	}
}

func TestOnCallbackError_HearsOfRefusedSetters(t *testing.T) {
	_, server := modes[0].pair(t, false)
	told := map[string]error{}
	server.OnCallbackError(func(e *libssl.CallbackError) { told[e.Callback] = e })
	require.NoError(t, server.Close())
	server.SetSessNewCallback(nil)
	server.SetSessGetCallback(nil)
	server.SetSessRemoveCallback(nil)
	require.Equal(t, []string{"get", "new", "remove"}, slices.Sorted(maps.Keys(told)))
	for _, err := range told {
		require.ErrorIs(t, err, libssl.ErrClosed)
		require.True(t, errors.Is(err, net.ErrClosed))
	}
}

package libssl_test

import (
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// contextCalls are the calls that need the lock of a context.
func contextCalls(ctx *libssl.Context, s *libssl.Session) map[string]func() error {
	return map[string]func() error{
		"AddSession":    func() error { _, err := ctx.AddSession(s); return err },
		"RemoveSession": func() error { _, err := ctx.RemoveSession(s); return err },
		"FlushSessions": func() error { return ctx.FlushSessions(time.Time{}) },
	}
}

// A handler whose calls use OpenSSL's error queue leaves the error of its connection alone.
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
		// A flush from here calls handlers that may not flush themselves.
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

// OpenSSL would call the handler for the same session again, without an end.
func TestSessRemove_OfItsOwnSessionIsRefused(t *testing.T) {
	client, server := modes[0].pair(t, true)
	_, other := modes[0].pair(t, true)
	offer(t, client, server, nil)
	spare := makeSession(t, modes[0])
	calls := 0
	// again removes what the handler got, and what stands for the same session.
	again := func(s *libssl.Session) {
		if calls++; calls > 2 {
			return
		}
		for name, same := range map[string]*libssl.Session{"itself": s, "a copy": parse(t, derOf(t, s))} {
			removed, err := server.RemoveSession(same)
			assert.ErrorIs(t, err, libssl.ErrReentrant, name)
			assert.False(t, removed)
		}
	}
	server.SetSessRemoveCallback(func(_ *libssl.Context, s *libssl.Session) { again(s) })
	_, err := server.RemoveSession(spare)
	require.NoError(t, err)
	require.Equal(t, 1, calls)

	// The same by way of another Context.
	other.SetSessRemoveCallback(func(_ *libssl.Context, s *libssl.Session) { again(s) })
	server.SetSessRemoveCallback(func(_ *libssl.Context, s *libssl.Session) {
		_, err := other.RemoveSession(s)
		assert.NoError(t, err)
	})
	_, err = server.RemoveSession(spare)
	require.NoError(t, err)
	require.Equal(t, 2, calls)
	server.SetSessRemoveCallback(nil)
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

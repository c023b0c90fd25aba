package libssl_test

import (
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
					s.Release() // no effect: the Session is only lent
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

// A forbidden answer of a get handler counts as a miss and is reported once. The
// handshake is a full one.
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

// A remove handler cannot hand over the session that it is lent.
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
				require.Len(t, gone, max(2*cached, 1), "the cached sessions, without the one already removed")
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

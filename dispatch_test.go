package libssl_test

import (
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

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
					calls := map[string]int{"new": m.news, "get": 0, "remove": 0}
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

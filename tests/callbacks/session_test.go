package callbacks_test

import (
	"encoding/hex"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/require"
)

func TestWrapSession_TakesOrCopiesTheReference(t *testing.T) {
	start := cref.LiveSessions()
	for _, flag := range []libssl.CopyFlag{libssl.Copy, libssl.Transfer} {
		p := cref.BlankSession()
		s, err := libssl.WrapSession(p, flag)
		require.NoError(t, err)
		require.Equal(t, p, s.Pointer())
		s.Release()
		if flag == libssl.Copy {
			require.Equal(t, start+1, cref.LiveSessions(), "the caller's reference is the caller's")
			s, err = libssl.WrapSession(p, libssl.Transfer)
			require.NoError(t, err)
			s.Release()
		}
		require.Equal(t, start, cref.LiveSessions())
	}
}

func TestSession_WithoutACipherHasNoSerialForm(t *testing.T) {
	s, err := libssl.WrapSession(cref.BlankSession(), libssl.Transfer)
	require.NoError(t, err)
	defer s.Release()
	_, err = s.MarshalBinary()
	var e *libssl.Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, err.Error())
	_, err = s.MarshalPEM()
	require.ErrorAs(t, err, &e)
	require.NotPanics(t, func() { _ = s.Text() })
	require.Zero(t, s.CipherSuite())
	require.True(t, s.ID().IsZero())
	require.False(t, s.Resumable())
}

func TestSession_TextHoldsNoSecret(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			l := linkC(t, newClient(t), m.server(t), nil).closed()
			defer l.session.Release()
			key := cref.MasterKey(l.session.Pointer())
			require.GreaterOrEqual(t, len(key), 32)
			der, err := l.session.MarshalBinary()
			require.NoError(t, err)
			require.Contains(t, string(der), string(key), "the DER does hold it")
			for _, text := range []string{l.session.Text(), fmt.Sprint(l.session.ID()), fmt.Sprintf("%v", libssl.LiveResources())} {
				require.NotContains(t, strings.ToLower(text), hex.EncodeToString(key)[:16])
				require.NotContains(t, text, string(key))
			}
		})
	}
}

// The binding and OpenSSL both count a Session that a handler forgets.
func TestSession_ForgottenIsGivenBack(t *testing.T) {
	start := cref.LiveSessions()
	before := libssl.LiveResources().ForgottenSessions
	client, server := newClient(t), modes[0].server(t)
	server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { return true }) // kept, and dropped
	linkC(t, client, server, nil).closed().session.Release()
	require.NoError(t, server.Close())
	for range 1000 {
		if cref.LiveSessions() == start {
			break
		}
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
	require.Equal(t, start, cref.LiveSessions())
	require.Equal(t, before+1, libssl.LiveResources().ForgottenSessions)
	forgotten.ForgottenSessions++
}

// OpenSSL follows the cipher of an answer unseen. A session without one, which only C can make, never gets there.
func TestSessGet_RefusesASessionWithoutACipher(t *testing.T) {
	for _, e := range engines {
		for _, m := range modes {
			if !m.asks {
				continue
			}
			for _, flag := range []libssl.CopyFlag{libssl.Copy, libssl.Transfer} {
				t.Run(fmt.Sprintf("%s SSLs/%s/%d", e.name, m.name, flag), func(t *testing.T) {
					start := cref.LiveSessions()
					client, server := newClient(t), m.server(t)
					server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
					var told []*libssl.CallbackError
					server.OnCallbackError(func(e *libssl.CallbackError) { told = append(told, e) })
					answer, err := libssl.WrapSession(cref.BlankSession(), libssl.Transfer)
					require.NoError(t, err)
					server.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
						return answer, flag
					})
					first := e.link(t, client, server, nil).closed()
					told = nil // a new client's random id makes a TLS 1.2 server ask, too
					second := e.link(t, client, server, first.session).closed()
					require.False(t, second.reused)
					require.Len(t, told, 1)
					require.Equal(t, "get", told[0].Callback)
					require.ErrorContains(t, told[0], "no cipher")
					require.NotNil(t, answer.Pointer(), "still the handler's")
					answer.Release()
					first.session.Release()
					second.session.Release()
					require.Equal(t, start, cref.LiveSessions())
				})
			}
		}
	}
}

package libssl_test

import (
	"crypto/tls"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// mode is one way to resume.
type mode struct {
	name    string
	version uint16
	options libssl.Options
	asks    bool // get_session_cb is called for an offered session
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

// pair makes the contexts of a mode. The server has an internal cache only if
// internal is true. A CallbackError fails the test unless it sets its own handler.
func (m mode) pair(t testing.TB, internal bool) (client, server *libssl.Context) {
	t.Helper()
	ca := tlstest.NewCA(t, "ca")
	client, server = newClient(t, ca), newServer(t, ca)
	require.NoError(t, client.SetVerify(libssl.VerifyNone)) // the client may meet servers of other pairs
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
	next = sessionOf(t, c)
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

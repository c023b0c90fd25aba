package peers_test

import (
	"bytes"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

// peerName is who the client of a connection is, by the server's word.
func peerName(l *link) string {
	if certs := l.server.ConnectionState().PeerCertificates; len(certs) > 0 {
		return certs[0].Subject.CommonName
	}
	return ""
}

// Two listeners trust different CAs with their clients. A session of the one opens nothing at the other: its client is
// asked for a certificate there, and refused without a good one.
func TestEnvoy_ClientCAOfAnotherListener(t *testing.T) {
	each(t, everyWay, func(t *testing.T, h *host) {
		oneCA, twoCA := tlstest.NewCA(t, "one"), tlstest.NewCA(t, "two")
		st, ring := newShared(), newRing(t)
		one, _ := h.member(t, st, ring, demands(libssl.VerifyRequirePeer, oneCA))
		two, cache := h.member(t, st, ring, demands(libssl.VerifyRequirePeer, twoCA))
		alice := h.client(t, certificate(oneCA.Leaf(t, "alice")))
		bob := h.client(t, certificate(twoCA.Leaf(t, "bob")))

		_, sess := h.visit(t, alice, one, nil)
		h.refused(t, alice, two, sess)
		if cache != nil {
			require.EqualValues(t, 1, cache.Stats().Rejected, "found, and not for this listener")
		}
		h.refused(t, bob, one, nil)

		// Bob offers Alice's session: at his listener he is still Bob.
		l := open(t, bob, two, h.name, sess)
		require.NoError(t, l.talk())
		require.False(t, l.server.SessionReused())
		require.Equal(t, "bob", peerName(l))
		l.close()

		l = open(t, alice, one, h.name, sess)
		require.NoError(t, l.talk())
		require.True(t, l.server.SessionReused())
		require.Equal(t, "alice", peerName(l))
		l.close()
	})
}

// A listener becomes stricter or laxer between two connections. Sessions from before the change do not resume, in either
// direction.
func TestEnvoy_ChangedVerification(t *testing.T) {
	each(t, everyWay, func(t *testing.T, h *host) {
		clientCA, otherCA := tlstest.NewCA(t, "clients"), tlstest.NewCA(t, "others")
		none := setting(verifyNone)
		optional, required := demands(libssl.VerifyPeer, clientCA), demands(libssl.VerifyRequirePeer, clientCA)
		widened := func(ctx *libssl.Context) error { return ctx.AddClientCAsPEM(otherCA.PEM) }
		for _, c := range []struct {
			name          string
			before, after setting
			anonymous     bool // the client has no certificate
			refused       bool // after the change
		}{
			{"none to optional", none, optional, false, false},
			{"none to required", none, required, false, false},
			{"none to required, anonymous", none, required, true, true},
			{"optional to required, anonymous", optional, required, true, true},
			{"required to optional", required, optional, false, false},
			{"required to none", required, none, false, false},
			{"another CA too", required, widened, false, false},
		} {
			t.Run(c.name, func(t *testing.T) {
				listener, cache := h.member(t, newShared(), newRing(t), c.before)
				client := h.client(t)
				if !c.anonymous {
					require.NoError(t, client.UseCertificatePEM(clientCA.Leaf(t, "client.test")))
				}
				_, sess := h.visit(t, client, listener, nil)
				resumed, sess := h.visit(t, client, listener, sess)
				require.True(t, resumed)
				require.NoError(t, c.after(listener))
				if c.refused {
					h.refused(t, client, listener, sess)
				} else {
					var next *libssl.Session
					resumed, next = h.visit(t, client, listener, sess)
					require.False(t, resumed)
					resumed, _ = h.visit(t, client, listener, next)
					require.True(t, resumed)
				}
				if cache != nil {
					require.EqualValues(t, 1, cache.Stats().Rejected)
				}
			})
		}
	})
}

// A ticket under a key that the listener does not have, from a ring or OpenSSL's own, gets a full handshake. No
// handshake fails.
func TestEnvoy_WrongTicketKey(t *testing.T) {
	each(t, stateless, func(t *testing.T, h *host) {
		for name, listen := range map[string]func() *libssl.Context{
			"OpenSSL's": func() *libssl.Context { return h.server(t, idContext("envoy")) },
			"a ring's": func() *libssl.Context {
				ctx, _ := h.member(t, nil, newRing(t), idContext("envoy"))
				return ctx
			},
		} {
			t.Run(name, func(t *testing.T) {
				one, two, client := listen(), listen(), h.client(t)
				_, ofOne := h.visit(t, client, one, nil)
				require.True(t, ofOne.HasTicket())
				resumed, ofTwo := h.visit(t, client, two, ofOne)
				require.False(t, resumed)
				for server, sess := range map[*libssl.Context]*libssl.Session{one: ofOne, two: ofTwo} {
					resumed, _ = h.visit(t, client, server, sess)
					require.True(t, resumed)
				}
			})
		}
	})
}

// Three listeners have the old key, both, and the new one: a fleet half way through a rotation. The one with both accepts
// the old ticket, and hands out one that is good where the old key has gone.
func TestEnvoy_RotatedTicketKeys(t *testing.T) {
	each(t, stateless, func(t *testing.T, h *host) {
		old := newRing(t)
		both := sameRing(t, old, 1)
		require.NoError(t, both.Rotate())
		rings := map[string]*ticket.Ring{"old": old, "both": both, "new": sameRing(t, both, 1)}
		client := h.client(t)
		listeners := map[string]*libssl.Context{}
		for name, ring := range rings {
			listeners[name], _ = h.member(t, nil, ring)
		}
		_, ofOld := h.visit(t, client, listeners["old"], nil)
		resumed, _ := h.visit(t, client, listeners["new"], ofOld)
		require.False(t, resumed)
		resumed, renewed := h.visit(t, client, listeners["both"], ofOld)
		require.True(t, resumed)
		resumed, _ = h.visit(t, client, listeners["new"], renewed)
		require.True(t, resumed)
		resumed, _ = h.visit(t, client, listeners["old"], renewed)
		require.False(t, resumed)

		require.NoError(t, old.Replace(both)) // the last listener learns of the key while it serves
		resumed, _ = h.visit(t, client, listeners["old"], renewed)
		require.True(t, resumed)
	})
}

// sameRing reads the newest n keys of a ring as another process would.
func sameRing(t testing.TB, r *ticket.Ring, n int) *ticket.Ring {
	t.Helper()
	var text bytes.Buffer
	_, err := r.WriteTo(&text)
	require.NoError(t, err)
	lines := bytes.SplitAfter(text.Bytes(), []byte("\n"))
	same, err := ticket.ParseRing(bytes.Join(lines[:n], nil))
	require.NoError(t, err)
	require.Equal(t, n, same.Len())
	return same
}

// The right key is not enough where the listener's id context is another.
func TestEnvoy_TicketOfAnotherIDContext(t *testing.T) {
	each(t, stateless, func(t *testing.T, h *host) {
		listener := h.server(t, idContext("before"))
		client := h.client(t)
		_, sess := h.visit(t, client, listener, nil)
		require.NoError(t, listener.SetSessionIDContext([]byte("after")))
		resumed, next := h.visit(t, client, listener, sess)
		require.False(t, resumed)
		resumed, _ = h.visit(t, client, listener, next)
		require.True(t, resumed)
	})
}

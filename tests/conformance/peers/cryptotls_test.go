package peers_test

import (
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// One client, who always offers what it got last, through what happens to its server.
func TestCryptoTLS_ResumptionStory(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		st, ring := newShared(), newRing(t)
		opt := libssl.StoreOptions{Keys: ring}
		server, _ := h.node(t, st, opt)
		client := h.client(t, groups("X25519:P-256"))
		var sess, old *libssl.Session
		for _, step := range []struct {
			name    string
			happens func()
			resumes bool
		}{
			{"handshake", func() {}, false},
			{"resume", func() { old = sess }, true},
			{"resume again", func() {}, true},
			{"an older session", func() { sess = old }, true},
			{"no session", func() { sess = nil }, false},
			{"resume what came of that", func() {}, true},
			{"another key exchange", func() { server, _ = h.node(t, st, opt, groups("P-256")) }, true},
			{"resume after that", func() {}, true},
			{"the store's key is rotated", func() { require.NoError(t, ring.Rotate()) }, true},
			{"resume under the new key", func() {}, true},
			{"the store is emptied", func() {
				_, err := st.mem.Purge(t.Context(), false)
				require.NoError(t, err)
			}, false},
			{"resume after that", func() {}, true},
			{"the server prefers other ciphers", func() {
				server, _ = h.node(t, st, opt, func(ctx *libssl.Context) error {
					return errors.Join(ctx.SetCiphers("ECDHE-ECDSA-AES128-GCM-SHA256"), ctx.SetCipherSuites("TLS_AES_128_GCM_SHA256"))
				})
			}, false},
			{"resume with those", func() {}, true},
			{"the client is another", func() { client = h.client(t) }, true},
		} {
			step.happens()
			var resumed bool
			resumed, sess = h.visit(t, client, server, sess)
			require.Equal(t, step.resumes, resumed, step.name)
		}
	})
}

// A session that has expired by the server's clock gets a full handshake. In TLS 1.2 it is also removed.
func TestCryptoTLS_ExpiredOnTheServer(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		var book notebook
		server, client := h.server(t, idContext("crypto/tls"), book.on), h.client(t)
		look := server.SessGetCallback()
		age := func(by time.Duration) {
			server.SetSessGetCallback(func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				s, flag := look(ssl, id)
				s.SetTime(time.Now().Add(-by))
				return s, flag
			})
		}
		_, sess := h.visit(t, client, server, nil)
		lifetime := sess.Timeout()
		age(lifetime / 2)
		resumed, _ := h.visit(t, client, server, sess)
		require.True(t, resumed)
		_, _, removes := book.calls()
		require.Zero(t, removes)
		age(lifetime + 10*time.Second)
		resumed, next := h.visit(t, client, server, sess)
		require.False(t, resumed)
		_, gets, removes := book.calls()
		require.Equal(t, 2, gets)
		require.Equal(t, map[way]int{ids12: 1, stateful13: 0}[h.way], removes)
		age(0)
		resumed, _ = h.visit(t, client, server, sess)
		require.Equal(t, h.way == stateful13, resumed)
		resumed, _ = h.visit(t, client, server, next)
		require.True(t, resumed)
	})
}

// A client does not offer a session that has expired by its clock in TLS 1.3. In TLS 1.2 the server's clock decides.
func TestCryptoTLS_ExpiredOnTheClient(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		var book notebook
		server, client := h.server(t, idContext("crypto/tls"), book.on), h.client(t)
		_, sess := h.visit(t, client, server, nil)
		require.NoError(t, sess.SetTime(time.Now().Add(-sess.Timeout()-10*time.Second)))
		resumed, _ := h.visit(t, client, server, sess)
		require.Equal(t, h.way == ids12, resumed)
		_, gets, _ := book.calls()
		require.Equal(t, map[way]int{ids12: 1, stateful13: 0}[h.way], gets)
	})
}

// A client that lost its trust in the server's CA refuses it, also with a session from before. OpenSSL and crypto/tls
// verify nothing in a resumption; here the session is not offered.
func TestCryptoTLS_ChangedRootsOnTheClient(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		server, _ := h.node(t, newShared(), libssl.StoreOptions{Keys: newRing(t)})
		_, sess := h.visit(t, h.client(t), server, nil)
		otherRoots := func() *libssl.Context {
			ctx, err := libssl.NewContext(libssl.ClientRole)
			require.NoError(t, err)
			t.Cleanup(func() { ctx.Close() })
			require.NoError(t, ctx.AddRootCAsPEM(tlstest.NewCA(t, "other").PEM))
			return ctx
		}
		for _, offer := range []*libssl.Session{nil, sess} {
			l := open(t, otherRoots(), server, h.name, offer)
			require.Error(t, l.talk())
			require.ErrorContains(t, l.clientErr, "certificate verify failed")
			l.close()
		}
	})
}

// A session made in one version is offered where the other is negotiated: a full handshake, after which both the old
// and the new session are good in the version of each.
func TestCryptoTLS_SessionOfTheOtherVersion(t *testing.T) {
	h := newHost(t, ids12)
	const tls12, tls13 = tls.VersionTLS12, tls.VersionTLS13
	for _, c := range []struct {
		name           string
		made, other    uint16
		client, server setting // of the visit in the other version
	}{
		{"1.2 where both speak 1.3", tls12, tls13, versions(0, 0), versions(0, 0)},
		{"1.2 where only 1.3 is spoken", tls12, tls13, versions(0, 0), versions(tls13, tls13)},
		{"1.2 by a client of 1.3", tls12, tls13, versions(tls13, tls13), versions(0, 0)},
		{"1.3 where the server speaks 1.2", tls13, tls12, versions(0, 0), versions(tls12, tls12)},
		{"1.3 by a client of 1.2", tls13, tls12, versions(tls12, tls12), versions(0, 0)},
	} {
		for _, how := range []string{"callbacks", "store"} {
			t.Run(c.name+"/"+how, func(t *testing.T) {
				var book notebook
				st, ring := newShared(), newRing(t)
				serve := func(set setting) *libssl.Context {
					if how == "callbacks" {
						return h.server(t, idContext("crypto/tls"), book.on, set)
					}
					ctx, _ := h.node(t, st, libssl.StoreOptions{Keys: ring}, set)
					return ctx
				}
				maker := serve(versions(c.made, c.made))
				makers := h.client(t, versions(c.made, c.made))
				_, sess := h.visit(t, makers, maker, nil)
				require.Equal(t, c.made, sess.Version())

				other, others := serve(c.server), h.client(t, c.client)
				resumed, next := h.visit(t, others, other, sess)
				require.False(t, resumed)
				require.Equal(t, c.other, next.Version())
				resumed, _ = h.visit(t, others, other, next)
				require.True(t, resumed)
				resumed, _ = h.visit(t, makers, maker, sess)
				require.True(t, resumed)
			})
		}
	}
}

// ---- the other end is crypto/tls ----------------------------------------------------

// meet talks, and closes; the session is our client's, if one is.
func meet(t testing.TB, client, server tlsConn) (resumed bool, next *libssl.Session) {
	t.Helper()
	limit(client, server)
	defer closeBoth(client, server)
	clientErr, serverErr := talk(client, server)
	require.NoError(t, clientErr)
	require.NoError(t, serverErr)
	resumed = server.ConnectionState().DidResume
	require.Equal(t, resumed, client.ConnectionState().DidResume)
	if c, ours := client.(*libssl.Conn); ours {
		next = sessionOf(t, c)
	}
	return resumed, next
}

// goClient is crypto/tls's client with a cache of its own, which it keeps over the visits.
type goClient struct {
	h      *host
	config *tls.Config
}

func (h *host) goClient() *goClient {
	return &goClient{h, &tls.Config{
		RootCAs: h.ca.Pool(), ServerName: h.name, MinVersion: h.version, MaxVersion: h.version,
		ClientSessionCache: tls.NewLRUClientSessionCache(4),
	}}
}

func (g *goClient) visit(t testing.TB, server *libssl.Context) (resumed bool) {
	t.Helper()
	cn, sn, err := tlstest.TCPPair()
	require.NoError(t, err)
	s, err := libssl.Server(sn, server)
	require.NoError(t, err)
	resumed, _ = meet(t, tls.Client(cn, g.config), s)
	return resumed
}

// With stateless tickets crypto/tls resumes where the key is that sealed them: at the Context that made one for itself,
// or at all that share a ring.
func TestCryptoTLS_ItsClientWithStatelessTickets(t *testing.T) {
	each(t, stateless, func(t *testing.T, h *host) {
		ring := newRing(t)
		one, two := h.server(t), h.server(t)
		first, _ := h.member(t, nil, ring)
		second, _ := h.member(t, nil, ring)
		client := h.goClient()
		resumptions := []bool{}
		for _, server := range []*libssl.Context{one, one, one, two, two, one, one, first, first, second, first, two, second} {
			resumptions = append(resumptions, client.visit(t, server))
		}
		require.Equal(t, []bool{false, true, true, false, true, false, true, false, true, true, true, false, false}, resumptions)
	})
}

// To crypto/tls a stateful ticket is like any other: it resumes on every node. crypto/tls knows no session ids of TLS 1.2:
// there each visit is a full handshake and leaves an entry in the store that no client ever offers.
func TestCryptoTLS_ItsClientOverAStore(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		st, opt := newShared(), libssl.StoreOptions{Keys: newRing(t)}
		one, oneCache := h.node(t, st, opt)
		two, twoCache := h.node(t, st, opt)
		client := h.goClient()
		stateful := h.way == stateful13
		for i, server := range []*libssl.Context{one, two, two, one, one} {
			require.Equal(t, stateful && i > 0, client.visit(t, server))
		}
		want := map[way]uint64{ids12: 0, stateful13: 4}[h.way]
		require.Equal(t, want, oneCache.Stats().Hits+twoCache.Stats().Hits)
		require.EqualValues(t, 5, oneCache.Stats().Stored+twoCache.Stats().Stored)

		_, err := st.mem.Purge(t.Context(), false)
		require.NoError(t, err)
		require.False(t, client.visit(t, one), "the store has forgotten")
		require.Equal(t, stateful, client.visit(t, two))
		client.config = client.config.Clone()
		client.config.ClientSessionCache = nil
		require.False(t, client.visit(t, two), "without a cache")
	})
}

// Our client, with the session it got last, through what happens to a server of crypto/tls's.
func TestCryptoTLS_ItsServer(t *testing.T) {
	each(t, stateless, func(t *testing.T, h *host) {
		cert, err := tls.X509KeyPair(h.cert, h.key)
		require.NoError(t, err)
		config := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: h.version, MaxVersion: h.version, ClientCAs: h.ca.Pool()}
		keys := func(k ...byte) func() {
			return func() {
				var all [][32]byte
				for _, b := range k {
					all = append(all, [32]byte{b})
				}
				config.SetSessionTicketKeys(all)
			}
		}
		later := func(d time.Duration) func() {
			return func() { config.Time = func() time.Time { return time.Now().Add(d) } }
		}
		client := h.client(t, versions(0, 0), certificate(h.ca.Leaf(t, "client.test")))
		other := map[uint16]uint16{tls.VersionTLS12: tls.VersionTLS13, tls.VersionTLS13: tls.VersionTLS12}[h.version]
		var sess *libssl.Session
		for _, step := range []struct {
			name    string
			happens func()
			resumes bool
		}{
			{"handshake", keys(1), false},
			{"resume", func() {}, true},
			{"rotated", keys(2, 1), true},
			{"rotated away", keys(2), true}, // the visit before brought a ticket under the new key
			{"wrong key", keys(3), false},
			{"resume after that", func() {}, true},
			{"six hours later", later(6 * time.Hour), true},
			{"eight days later", later(8 * 24 * time.Hour), false},
			{"and back", func() { config.Time = nil; sess = nil }, false},
			{"client certificates required", func() { config.ClientAuth = tls.RequireAndVerifyClientCert }, false},
			{"resume with one", func() {}, true},
			{"other version", func() { config.MinVersion, config.MaxVersion = other, other }, false},
			{"resume in that", func() {}, true},
			{"tickets off", func() { config.SessionTicketsDisabled = true }, false},
		} {
			step.happens()
			cn, sn, err := tlstest.TCPPair()
			require.NoError(t, err)
			c, err := libssl.Client(cn, client, h.name)
			require.NoError(t, err)
			if sess != nil {
				require.NoError(t, c.SetSession(sess))
			}
			var resumed bool
			resumed, sess = meet(t, c, tls.Server(sn, config))
			require.Equal(t, step.resumes, resumed, step.name)
		}
	})
}

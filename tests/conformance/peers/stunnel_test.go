package peers_test

import (
	"fmt"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// A client whose certificate does not verify is refused, and refused again when it offers what the refused handshake
// left it with. Nothing of it is stored, and those with a good certificate come in before and after.
func TestStunnel_RefusedClientStaysRefused(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		for _, how := range []string{"callbacks", "store"} {
			t.Run(how, func(t *testing.T) {
				clientCA := tlstest.NewCA(t, "clients")
				var book notebook
				st := newShared()
				var server *libssl.Context
				if how == "store" {
					server, _ = h.node(t, st, libssl.StoreOptions{Keys: newRing(t)}, demands(libssl.VerifyRequirePeer, clientCA))
				} else {
					server = h.server(t, demands(libssl.VerifyRequirePeer, clientCA), idContext("stunnel"), book.on)
				}
				kept := func() int { return len(book.der) + st.mem.Len() }
				good := h.client(t, certificate(clientCA.Leaf(t, "good")))
				_, sess := h.visit(t, good, server, nil)
				require.Equal(t, 1, kept())

				for name, stranger := range map[string]*libssl.Context{
					"other CA":       h.client(t, certificate(tlstest.NewCA(t, "clients").Leaf(t, "stranger"))),
					"no certificate": h.client(t),
				} {
					l := open(t, stranger, server, h.name, nil)
					require.Error(t, l.talk())
					require.Error(t, l.serverErr)
					// As DER it has lost the mark that says not to resume it.
					left := parse(t, derOf(t, l.session(t)))
					t.Cleanup(left.Release)
					l.close()
					require.Equal(t, 1, kept(), name)
					for range 2 {
						h.refused(t, stranger, server, left)
					}
					require.Equal(t, 1, kept(), name)
				}
				resumed, _ := h.visit(t, good, server, sess)
				require.True(t, resumed)
			})
		}
	})
}

// A server's verify callback accepts a client whose certificate does not verify. The verify result survives every
// resumption, here or on another node: a program that decides by it decides the same.
func TestStunnel_VerifyResultSurvives(t *testing.T) {
	const ok = 0 // X509_V_OK
	each(t, lookups, func(t *testing.T, h *host) {
		clientCA := tlstest.NewCA(t, "clients")
		st, opt := newShared(), libssl.StoreOptions{Keys: newRing(t)}
		var nodes []*libssl.Context
		for range 2 {
			node, _ := h.node(t, st, opt, demands(libssl.VerifyPeer, clientCA))
			cref.LetAllIn(node.Pointer())
			nodes = append(nodes, node)
		}
		for name, c := range map[string]struct {
			ca   *tlstest.CA
			good bool
		}{"good": {clientCA, true}, "stranger": {tlstest.NewCA(t, "others"), false}} {
			t.Run(name, func(t *testing.T) {
				client := h.client(t, verifyNone, certificate(c.ca.Leaf(t, name)))
				var first int
				var offer *libssl.Session
				for i := range 5 {
					p, err := cref.NewPair(client.Pointer(), nodes[i%2].Pointer(), h.name, offer.Pointer())
					require.NoError(t, err)
					require.True(t, p.Run())
					require.Equal(t, i > 0, p.Reused())
					result := cref.VerifyResult(p.Server())
					if i == 0 {
						first = result
						require.Equal(t, c.good, result == ok)
					}
					require.Equal(t, first, result, fmt.Sprintf("visit %d", i))
					offer, err = libssl.WrapSession(p.Session(), libssl.Transfer)
					require.NoError(t, err)
					t.Cleanup(offer.Release)
					p.Free(true)
				}

				// A Conn says so by leaving out the chain that it would have verified.
				l := open(t, client, nodes[0], h.name, nil)
				require.NoError(t, l.talk())
				require.Equal(t, c.good, len(l.server.ConnectionState().VerifiedChains) > 0)
				sess := l.session(t)
				l.close()
				l = open(t, client, nodes[1], h.name, sess)
				require.NoError(t, l.talk())
				require.True(t, l.server.SessionReused())
				require.Equal(t, name, peerName(l))
				require.Equal(t, c.good, len(l.server.ConnectionState().VerifiedChains) > 0)
				l.close()
			})
		}
	})
}

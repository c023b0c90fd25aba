package libssl_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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

			// Without the switch the session belongs to another id context.
			first.SetServerNameCallback(nil)
			_, reused = offer(t, client, first, sess)
			require.False(t, reused)
		})
	}
}

// The Context that was chosen is closed while the handshake is parked: nothing takes its place.
func TestServerName_ChosenContextIsClosedMeanwhile(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		front, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t)})
		chosen := f.server(t)
		front.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return chosen })
		var told []error
		front.OnCallbackError(func(e *libssl.CallbackError) { told = append(told, e) })
		first := f.visit(t, front, nil)
		st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
			chosen.Close()
			return st.mem.Get(ctx, id)
		}
		cn, sn := tcpPipe(t)
		c, s := f.ends(t, cn, sn, front, first.next)
		require.ErrorContains(t, agree(c, s), "unrecognized name")
		require.Len(t, told, 1)
		require.ErrorIs(t, told[0], net.ErrClosed)
		require.EqualValues(t, 1, cache.Stats().Suspended)
	})
}

func TestServerName_SwitchesCertificateAndPolicy(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		host := func(name string) *libssl.Context {
			ctx := f.server(t)
			require.NoError(t, ctx.UseCertificatePEM(f.ca.Leaf(t, name)))
			return ctx
		}
		open, guarded := host("open.test"), host("guarded.test")
		require.NoError(t, guarded.AddClientCAsPEM(f.ca.PEM))
		require.NoError(t, guarded.SetVerify(libssl.VerifyRequirePeer))
		front := host("front.test")
		var asked []string
		front.SetServerNameCallback(func(ssl *libssl.SSL, name string) *libssl.Context {
			asked = append(asked, name)
			require.Same(t, front, ssl.Context())
			return map[string]*libssl.Context{"open.test": open, "guarded.test": guarded, "front.test": front}[name]
		})
		stranger, member := newClient(t, f.ca), newClient(t, f.ca)
		require.NoError(t, member.UseCertificatePEM(f.ca.Leaf(t, "member")))

		for _, c := range []struct {
			client *libssl.Context
			name   string
			says   string
			asked  string
			peer   string
		}{
			{client: stranger, name: "open.test", asked: "open.test"},
			{client: stranger, name: "front.test", asked: "front.test"},
			{client: stranger, name: "guarded.test", asked: "guarded.test", says: "peer did not return a certificate"},
			{client: member, name: "guarded.test", asked: "guarded.test", peer: "member"},
			{client: member, name: "open.test", asked: "open.test"},
			{client: stranger, name: "unknown.test", asked: "unknown.test", says: "hostname mismatch"},
			{client: stranger, name: "127.0.0.1", asked: "", says: "IP address mismatch"}, // no name to send
		} {
			asked = nil
			cn, sn := tcpPipe(t)
			s, err := libssl.Server(sn, front)
			require.NoError(t, err)
			defer s.Close()
			cl, err := libssl.Client(cn, c.client, c.name)
			require.NoError(t, err)
			defer cl.Close()
			err = agree(cl, s)
			require.Equal(t, []string{c.asked}, asked, c.name)
			if c.says != "" {
				require.Error(t, err)
				// Releases spell it with and without a capital.
				require.Contains(t, strings.ToLower(err.Error()), strings.ToLower(c.says))
				continue
			}
			require.NoError(t, err, c.name)
			require.Equal(t, c.name, cl.ConnectionState().PeerCertificates[0].Subject.CommonName)
			state := s.ConnectionState()
			require.Equal(t, c.name, state.ServerName)
			if c.peer == "" {
				require.Empty(t, state.PeerCertificates)
			} else {
				require.Equal(t, c.peer, state.PeerCertificates[0].Subject.CommonName)
			}
			require.NoError(t, exchange(cl, s))
		}
	})
}

// A session is good for the name that it was made under, and for others of the same certificate. ServerName is that of
// the ClientHello of this connection.
func TestServerName_OfAResumption(t *testing.T) {
	const first, second, foreign = "a.test", "b.test", "c.test"
	ca := tlstest.NewCA(t, "ca")
	client := newClient(t, ca)
	require.NoError(t, client.SetVerify(libssl.VerifyNone)) // it asks for what the certificate does not cover
	for how, prepare := range map[string]func(t testing.TB, server *libssl.Context){
		"tickets":     func(testing.TB, *libssl.Context) {},
		"ticket keys": func(t testing.TB, server *libssl.Context) { require.NoError(t, server.UseTicketKeys(newRing(t))) },
		"store":       func(t testing.TB, server *libssl.Context) { useStore(t, server, memstore.New(memstore.Options{}), nil) },
		"handlers": func(t testing.TB, server *libssl.Context) {
			server.SetOptions(libssl.OpNoTicket)
			server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
			kept := map[libssl.SessionID][]byte{}
			server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool { kept[s.ID()] = derOf(t, s); return false })
			server.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				if kept[id] == nil {
					return nil, libssl.Copy // a client of TLS 1.3 sends a random id
				}
				return parse(t, kept[id]), libssl.Transfer
			})
		},
	} {
		for _, version := range versions {
			for _, c := range []struct {
				from, to string
				resumed  bool
			}{
				{first, first, true}, {first, "A.test", true}, {first, second, true}, {first, "", true},
				{"", first, true}, {foreign, foreign, true}, {first, foreign, false}, {foreign, first, false}, {foreign, "", true},
			} {
				t.Run(fmt.Sprintf("%s/%s/%s to %s", how, tls.VersionName(version), c.from, c.to), func(t *testing.T) {
					server, err := libssl.NewContext(libssl.ServerRole)
					require.NoError(t, err)
					defer server.Close()
					require.NoError(t, server.UseCertificatePEM(ca.Leaf(t, first, second)))
					require.NoError(t, server.SetVersions(version, version))
					require.NoError(t, server.SetSessionIDContext([]byte("names")))
					prepare(t, server)
					var sess *libssl.Session
					for _, name := range []string{c.from, c.to} {
						cn, sn := tcpPipe(t)
						cl, s := wrapNamed(t, cn, sn, client, server, name)
						if sess != nil {
							require.NoError(t, cl.SetSession(sess))
						}
						require.NoError(t, exchange(cl, s))
						require.Equal(t, name, s.ConnectionState().ServerName)
						require.Equal(t, sess != nil && c.resumed, s.SessionReused())
						sess = sessionOf(t, cl)
						closeBoth(cl, s)
					}
				})
			}
		}
	}
}

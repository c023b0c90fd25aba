package libssl_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

func TestStore_IDContextIsThePolicy(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		otherCA := tlstest.NewCA(t, "other")
		otherCert, otherKey := f.ca.Leaf(t, serverName, "also.test")
		ask := func(m libssl.VerifyMode) func(t *testing.T, c *libssl.Context) {
			return func(t *testing.T, c *libssl.Context) {
				require.NoError(t, c.AddClientCAsPEM(f.ca.PEM))
				require.NoError(t, c.SetVerify(m))
			}
		}
		cert, key := f.ca.Leaf(t, "client.test")
		require.NoError(t, f.client.UseCertificatePEM(cert, key))
		for name, policy := range map[string]func(t *testing.T, c *libssl.Context){
			"certificate": func(t *testing.T, c *libssl.Context) { require.NoError(t, c.UseCertificatePEM(otherCert, otherKey)) },
			"may prove":   ask(libssl.VerifyPeer),
			"must prove":  ask(libssl.VerifyRequirePeer),
			"ciphers": func(t *testing.T, c *libssl.Context) {
				require.NoError(t, c.SetCiphers("ECDHE-ECDSA-AES256-GCM-SHA384"))
			},
			"cipher suites": func(t *testing.T, c *libssl.Context) { require.NoError(t, c.SetCipherSuites("TLS_AES_256_GCM_SHA384")) },
			"explicit":      func(t *testing.T, c *libssl.Context) { require.NoError(t, c.SetSessionIDContext([]byte("mine"))) },
			"other CA, asked": func(t *testing.T, c *libssl.Context) {
				require.NoError(t, c.AddClientCAsPEM(otherCA.PEM))
				ask(libssl.VerifyPeer)(t, c)
			},
		} {
			t.Run(name, func(t *testing.T) {
				st, ring := newSpy(), newRing(t)
				opt := &libssl.StoreOptions{Keys: ring}
				plain, _ := f.node(t, st, opt)
				server := func() (*libssl.Context, *libssl.SessionCache) {
					c := f.server(t)
					policy(t, c)
					return c, useStore(t, c, st, opt)
				}
				a, _ := server()
				b, cacheB := server()
				first := f.visit(t, a, nil)
				same := f.visit(t, b, first.next)
				require.True(t, same.resumed, "the same policy")
				require.Equal(t, first.idContext, same.idContext)

				old := f.visit(t, plain, nil)
				require.NotEqual(t, old.idContext, first.idContext)
				require.False(t, f.visit(t, b, old.next).resumed, "made under another policy")
				require.EqualValues(t, 1, cacheB.Stats().Rejected)
				require.False(t, f.visit(t, plain, first.next).resumed)
			})
		}
		t.Run("may prove against must prove", func(t *testing.T) {
			st, opt := newSpy(), &libssl.StoreOptions{Keys: newRing(t)}
			may, must := f.server(t), f.server(t)
			ask(libssl.VerifyPeer)(t, may)
			ask(libssl.VerifyRequirePeer)(t, must)
			useStore(t, may, st, opt)
			useStore(t, must, st, opt)
			require.False(t, f.visit(t, must, f.visit(t, may, nil).next).resumed)
		})
		t.Run("other CA among those asked for", func(t *testing.T) {
			st, opt := newSpy(), &libssl.StoreOptions{Keys: newRing(t)}
			one, two := f.server(t), f.server(t)
			ask(libssl.VerifyPeer)(t, one)
			ask(libssl.VerifyPeer)(t, two)
			require.NoError(t, two.AddClientCAsPEM(otherCA.PEM))
			useStore(t, one, st, opt)
			useStore(t, two, st, opt)
			require.False(t, f.visit(t, two, f.visit(t, one, nil).next).resumed)
		})
	})
}

func TestStore_IDContextIgnoresTheOrderOfCAs(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		cas := []*tlstest.CA{f.ca}
		for range 4 {
			cas = append(cas, tlstest.NewCA(t, fmt.Sprintf("ca %d", len(cas))))
		}
		cert, key := f.ca.Leaf(t, "client.test")
		require.NoError(t, f.client.UseCertificatePEM(cert, key))
		st, opt := newSpy(), &libssl.StoreOptions{Keys: newRing(t)}
		var nodes [2]*libssl.Context
		for i := range nodes {
			nodes[i] = f.server(t)
			require.NoError(t, nodes[i].SetVerify(libssl.VerifyRequirePeer))
			for _, ca := range cas {
				require.NoError(t, nodes[i].AddClientCAsPEM(ca.PEM))
			}
			useStore(t, nodes[i], st, opt)
			slices.Reverse(cas)
		}
		require.True(t, f.visit(t, nodes[1], f.visit(t, nodes[0], nil).next).resumed)
	})
}

func TestStore_ExplicitIDContextOverrides(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st, ring := newSpy(), newRing(t)
		var nodes [2]*libssl.Context
		for i := range nodes {
			nodes[i] = f.server(t)
			cert, key := f.ca.Leaf(t, serverName, fmt.Sprintf("%d.test", i)) // other names for each
			require.NoError(t, nodes[i].UseCertificatePEM(cert, key))
			require.NoError(t, nodes[i].SetSessionIDContext([]byte("shared")))
			useStore(t, nodes[i], st, &libssl.StoreOptions{Keys: ring})
		}
		require.NoError(t, nodes[1].SetCiphers("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256"))
		first := f.visit(t, nodes[0], nil)
		require.Equal(t, []byte("shared"), first.idContext)
		second := f.visit(t, nodes[1], first.next)
		require.True(t, second.resumed)
		require.Equal(t, []byte("shared"), second.idContext)
	})
}

func TestStore_PolicyChangedLaterCounts(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t)})
		first := f.visit(t, server, nil)
		require.NoError(t, server.UseCertificatePEM(f.ca.Leaf(t, serverName, "another.test")))
		second := f.visit(t, server, first.next)
		require.False(t, second.resumed)
		require.NotEqual(t, first.idContext, second.idContext)
		require.EqualValues(t, 1, cache.Stats().Rejected)
		third := f.visit(t, server, second.next)
		require.True(t, third.resumed)
		require.NoError(t, server.UseCertificatePEM(f.cert, f.key))
		require.True(t, f.visit(t, server, first.next).resumed, "the old policy, restored")
	})
}

func TestStore_HostsDoNotShareSessions(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		require.NoError(t, f.client.SetVerify(libssl.VerifyNone)) // or it would not offer what servers have to refuse
		for how, shared := range map[string]struct{ idContext, cert bool }{
			"nothing": {false, false}, "the id context": {true, false}, "the id context and the certificate": {true, true},
		} {
			t.Run("they share "+how, func(t *testing.T) {
				st, hostStore, opt := newSpy(), newSpy(), &libssl.StoreOptions{Keys: newRing(t)}
				hosts := map[string]*libssl.Context{}
				for _, name := range []string{"a.test", "b.test"} {
					host := f.server(t)
					names := []string{name}
					if shared.cert {
						names = append(names, "a.test", "b.test")
					}
					require.NoError(t, host.UseCertificatePEM(f.ca.Leaf(t, names...)))
					if shared.idContext {
						require.NoError(t, host.SetSessionIDContext([]byte("both")))
					}
					hosts[name] = host
				}
				hostCache := useStore(t, hosts["b.test"], hostStore, opt)
				front, cache := f.node(t, st, opt)
				front.SetServerNameCallback(func(_ *libssl.SSL, name string) *libssl.Context { return hosts[name] })
				at := func(name string, sess *libssl.Session) visit {
					f.name = name
					defer func() { f.name = serverName }()
					v := f.visit(t, front, sess)
					require.Equal(t, name, v.state.ServerName)
					return v
				}
				a, b := at("a.test", nil), at("b.test", nil)
				require.True(t, at("a.test", a.next).resumed)
				require.True(t, at("b.test", b.next).resumed)
				require.Equal(t, shared.cert, at("b.test", a.next).resumed)
				require.Equal(t, shared.cert, at("a.test", b.next).resumed)
				own := at(serverName, nil) // a name without a Context: the front answers
				require.True(t, at(serverName, own.next).resumed)
				require.False(t, at("a.test", own.next).resumed)
				require.False(t, at(serverName, a.next).resumed)
				if !shared.cert {
					require.EqualValues(t, 4, cache.Stats().Rejected)
				}
				if !shared.cert { // known before OpenSSL compares the id contexts
					require.EqualValues(t, 4, cache.Stats().RejectedFor[libssl.RejectedName])
				}
				require.NotEmpty(t, st.asked(&st.puts))
				require.Empty(t, hostStore.asked(&hostStore.puts), "the cache is the one of the Context that made the connection")
				require.Empty(t, hostStore.asked(&hostStore.gets))
				require.Zero(t, hostCache.Stats())
			})
		}
	})
}

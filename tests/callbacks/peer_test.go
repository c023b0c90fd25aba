package callbacks_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

// sharing are the ways in which two servers share the sessions of a mode.
func (m mode) sharing(t *testing.T) map[string]func(*libssl.Context) {
	ring, err := ticket.NewRing()
	require.NoError(t, err)
	if !m.asks {
		return map[string]func(*libssl.Context){"ring": func(c *libssl.Context) { require.NoError(t, c.UseTicketKeys(ring)) }}
	}
	mem := memstore.New(memstore.Options{})
	return map[string]func(*libssl.Context){
		"store":    func(c *libssl.Context) { useStore(t, c, mem, &libssl.StoreOptions{Keys: ring}) },
		"handlers": newCache(t).install,
	}
}

// A session resumes only with a client certificate that a full handshake would accept: one is there where the server requires
// it, and it is valid now. The servers' id contexts are equal, and tell nothing of their policies.
func TestResumption_JudgesTheClientCertificate(t *testing.T) {
	ca := tlstest.NewCA(t, "clients")
	cert, key := ca.Leaf(t, "client")
	requires := func(ctx *libssl.Context) {
		require.NoError(t, ctx.AddClientCAsPEM(ca.PEM))
		require.NoError(t, ctx.SetVerify(libssl.VerifyRequirePeer))
	}
	at := func(years int) func(*libssl.Context) {
		return func(ctx *libssl.Context) {
			requires(ctx)
			cref.LetAllIn(ctx.Pointer()) // so that the full handshake succeeds
			cref.SetVerifyTime(ctx.Pointer(), time.Now().AddDate(years, 0, 0))
		}
	}
	for _, tt := range []struct {
		name           string
		issuer, server func(*libssl.Context)
		resumes        bool
	}{
		{"required and there", requires, requires, true},
		{"required and missing", func(*libssl.Context) {}, requires, false},
		{"expired", requires, at(10), false},
		{"not yet valid", requires, at(-10), false},
		{"valid by another clock", at(0), at(0), true},
	} {
		for _, m := range modes {
			for _, e := range engines {
				for how, share := range m.sharing(t) {
					t.Run(tt.name+"/"+m.name+"/"+e.name+"/"+how, func(t *testing.T) {
						client, issuer, server := newClient(t), m.server(t), m.server(t)
						require.NoError(t, client.UseCertificatePEM(cert, key))
						tt.issuer(issuer)
						tt.server(server)
						share(issuer)
						share(server)
						_, sess := visit(t, e, client, issuer, nil)
						resumed, _ := visit(t, e, client, server, sess)
						require.Equal(t, tt.resumes, resumed)
					})
				}
			}
		}
	}
}

// An entry of a store ends with the client certificate.
func TestStore_EntriesEndWithTheClientCertificate(t *testing.T) {
	ca := tlstest.NewCA(t, "clients")
	end := time.Now().Add(10 * time.Minute).Truncate(time.Second)
	cert, key := ca.LeafWith(t, func(c *x509.Certificate) { c.NotAfter = end }, "client")
	for _, m := range storeModes() {
		t.Run(m.name, func(t *testing.T) {
			mem, client, server := memstore.New(memstore.Options{}), newClient(t), m.server(t)
			require.NoError(t, client.UseCertificatePEM(cert, key))
			require.NoError(t, server.AddClientCAsPEM(ca.PEM))
			require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
			useStore(t, server, mem, nil)
			linkC(t, client, server, nil).closed().session.Release()
			require.Equal(t, 1, mem.Len())
			require.NoError(t, mem.List(t.Context(), func(_ store.ID, _ int, expires time.Time) error {
				require.WithinDuration(t, end, expires, time.Second)
				return nil
			}))
		})
	}
}

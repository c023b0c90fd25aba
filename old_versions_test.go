package libssl_test

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/stretchr/testify/require"
)

// allow sets a version before TLS 1.2, and the security level that it needs.
func allow(t *testing.T, ctx *libssl.Context, version uint16) {
	t.Helper()
	require.NoError(t, ctx.SetCiphers("DEFAULT@SECLEVEL=0"))
	err := ctx.SetVersions(version, version)
	if err != nil && strings.Contains(err.Error(), "built without") {
		t.Skip(err)
	}
	require.NoError(t, err)
}

func eachOldVersion(t *testing.T, test func(t *testing.T, f *fleet, server func() *libssl.Context)) {
	for name, version := range map[string]uint16{"TLSv1": tls.VersionTLS10, "TLSv1.1": tls.VersionTLS11} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, version)
			allow(t, f.client, version)
			test(t, f, func() *libssl.Context {
				ctx := newServer(t, f.ca)
				require.NoError(t, ctx.UseCertificatePEM(f.cert, f.key))
				allow(t, ctx, version)
				return ctx
			})
		})
	}
}

func TestOldVersions_ResumeThroughTheStore(t *testing.T) {
	eachOldVersion(t, func(t *testing.T, f *fleet, newServer func() *libssl.Context) {
		st := memstore.New(memstore.Options{})
		var nodes [2]*libssl.Context
		for i := range nodes {
			nodes[i] = newServer()
			require.NoError(t, nodes[i].AddClientCAsPEM(f.ca.PEM))
			require.NoError(t, nodes[i].SetVerify(libssl.VerifyRequirePeer))
			useStore(t, nodes[i], st, nil)
		}
		require.NoError(t, f.client.UseCertificatePEM(f.ca.Leaf(t, "client")))
		full := f.visit(t, nodes[0], nil)
		require.False(t, full.resumed)
		der, err := full.next.MarshalBinary()
		require.NoError(t, err)
		parsed, err := libssl.ParseSession(der)
		require.NoError(t, err)
		defer parsed.Release()
		require.Equal(t, f.version, parsed.Version())
		resumed := f.visit(t, nodes[1], parsed)
		require.True(t, resumed.resumed)
		require.Equal(t, full.id, resumed.from)
		for _, state := range []tls.ConnectionState{full.state, resumed.state} {
			require.Equal(t, f.version, state.Version)
			require.Equal(t, "client", state.PeerCertificates[0].Subject.CommonName)
			require.Equal(t, serverName, state.ServerName)
		}
	})
}

func TestOldVersions_ResumeWithTickets(t *testing.T) {
	eachOldVersion(t, func(t *testing.T, f *fleet, newServer func() *libssl.Context) {
		ring := newRing(t)
		var nodes [2]*libssl.Context
		for i := range nodes {
			nodes[i] = newServer()
			require.NoError(t, nodes[i].UseTicketKeys(ring))
		}
		full := f.visit(t, nodes[0], nil)
		require.True(t, full.next.HasTicket())
		require.True(t, f.visit(t, nodes[1], full.next).resumed)
	})
}

// A session of an old version does not bring it back: the client has moved on, or the server has.
func TestOldVersions_EndWithTheBounds(t *testing.T) {
	eachOldVersion(t, func(t *testing.T, f *fleet, newServer func() *libssl.Context) {
		st := memstore.New(memstore.Options{})
		old := newServer()
		useStore(t, old, st, nil)
		sess := f.visit(t, old, nil).next

		both, modern := newFleet(t, tls.VersionTLS12).client, f.client
		require.NoError(t, both.AddRootCAsPEM(f.ca.PEM))
		require.NoError(t, both.SetCiphers("DEFAULT@SECLEVEL=0"))
		require.NoError(t, both.SetVersions(f.version, 0))
		wide, cache := f.wide(t, st)
		f.client = both
		v := f.visit(t, wide, sess)
		require.False(t, v.resumed)
		require.Equal(t, uint16(tls.VersionTLS13), v.state.Version)
		require.Zero(t, cache.Stats().Hits)

		f.client, f.version = modern, tls.VersionTLS12
		cn, sn := tcpPipe(t)
		c, s := f.ends(t, cn, sn, f.server(t), sess)
		require.ErrorContains(t, bothHandshake(c, s), "version")
		require.ErrorContains(t, s.Handshake(), "unsupported protocol")
	})
}

// wide is a server of the fleet with all versions.
func (f *fleet) wide(t *testing.T, st *memstore.Store) (*libssl.Context, *libssl.SessionCache) {
	ctx := newServer(t, f.ca)
	require.NoError(t, ctx.UseCertificatePEM(f.cert, f.key))
	require.NoError(t, ctx.SetCiphers("DEFAULT@SECLEVEL=0"))
	require.NoError(t, ctx.SetVersions(f.version, 0))
	return ctx, useStore(t, ctx, st, nil)
}

func TestSetVersions_NeedsTheSecurityLevel(t *testing.T) {
	for _, role := range []libssl.Role{libssl.ServerRole, libssl.ClientRole} {
		ctx, err := libssl.NewContext(role)
		require.NoError(t, err)
		defer ctx.Close()
		require.NoError(t, ctx.SetCiphers("DEFAULT@SECLEVEL=4"))
		for _, bounds := range [][2]uint16{{tls.VersionTLS10, 0}, {tls.VersionTLS11, tls.VersionTLS12}, {0, tls.VersionTLS11}} {
			err := ctx.SetVersions(bounds[0], bounds[1])
			require.ErrorIs(t, err, libssl.ErrUnsupported)
			require.Regexp(t, `TLSv1(\.1)? needs a security level of at most [0-3], and this Context has 4: .*SECLEVEL=[0-3]|built without`, err.Error())
		}
		require.NoError(t, ctx.SetVersions(tls.VersionTLS12, 0), "which every level allows")
		allow(t, ctx, tls.VersionTLS10)
	}
}

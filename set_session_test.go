package libssl_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// fieldVerifyResult is absent where it is X509_V_OK.
const fieldVerifyResult = 105

// A client that verifies offers only sessions that were verified, for the name it asks for now: a resumption makes up for no
// verification.
func TestSetSession_OffersWhatWasVerified(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		strangers := tlstest.NewCA(t, "strangers")
		expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
		const unverified, other = "not verified when it was made", "not verified for"
		for name, c := range map[string]struct {
			ca         *tlstest.CA // of the server
			edit       func(*x509.Certificate)
			loose      bool // the first client verifies nothing
			forget     bool // the session has the verification's result removed
			looseAgain bool // neither does the second
			first      string
			second     string
			refused    string
			resumed    bool
		}{
			"verified":                       {first: "a.test", second: "a.test", resumed: true},
			"another case":                   {first: "a.test", second: "A.TEST", resumed: true},
			"another name, same certificate": {first: "a.test", second: "b.test", resumed: true},
			"an address":                     {first: "127.0.0.1", second: "127.0.0.1", resumed: true},
			"a name and its address":         {first: "a.test", second: "127.0.0.1", resumed: true},
			"another name":                   {first: "a.test", second: "c.test", refused: other},
			"another address":                {first: "127.0.0.1", second: "127.0.0.2", refused: other},
			"no name, then an address":       {loose: true, first: "", second: "127.0.0.2", refused: other},
			"unverified":                     {ca: strangers, loose: true, first: "a.test", second: "a.test", refused: unverified},
			"verified for another name":      {loose: true, first: "c.test", second: "a.test", refused: unverified},
			"expired":                        {edit: expired, loose: true, forget: true, first: "a.test", second: "a.test"},
			"nothing is to be verified":      {ca: strangers, loose: true, looseAgain: true, first: "c.test", second: "c.test", resumed: true},
		} {
			t.Run(name, func(t *testing.T) {
				if c.ca == nil {
					c.ca = f.ca
				}
				server, strict, loose := f.server(t), newClient(t, f.ca), newClient(t, f.ca)
				require.NoError(t, loose.SetVerify(libssl.VerifyNone))
				require.NoError(t, server.UseCertificatePEM(c.ca.LeafWith(t, c.edit, "a.test", "b.test", "127.0.0.1")))
				clientOf := map[bool]*libssl.Context{true: loose, false: strict}

				cn, sn := tcpPipe(t)
				cl, s := wrapNamed(t, cn, sn, clientOf[c.loose], server, c.first)
				require.NoError(t, exchange(cl, s))
				der := derOf(t, sessionOf(t, cl))
				closeBoth(cl, s)
				if c.forget {
					der = withoutField(t, der, fieldVerifyResult)
				}

				cn, sn = tcpPipe(t)
				cl, s = wrapNamed(t, cn, sn, clientOf[c.looseAgain], server, c.second)
				defer closeBoth(cl, s)
				err := cl.SetSession(parse(t, der))
				if c.refused != "" {
					require.ErrorContains(t, err, c.refused)
				} else {
					require.NoError(t, err)
				}
				if c.resumed {
					require.NoError(t, exchange(cl, s))
				} else if c.ca == f.ca && c.edit == nil && c.second == "a.test" {
					require.NoError(t, exchange(cl, s), "a full handshake")
				} else {
					require.ErrorContains(t, agree(cl, s), "certificate verify failed")
				}
				require.Equal(t, c.resumed, cl.SessionReused())
			})
		}
	})
}

// withoutField is a session without one of its fields that have a tag.
func withoutField(t testing.TB, der []byte, field int) []byte {
	t.Helper()
	var seq, v asn1.RawValue
	_, err := asn1.Unmarshal(der, &seq)
	require.NoError(t, err)
	var kept []byte
	for rest := seq.Bytes; len(rest) > 0; {
		rest, err = asn1.Unmarshal(rest, &v)
		require.NoError(t, err)
		if v.Class != asn1.ClassContextSpecific || 100+v.Tag != field {
			kept = append(kept, v.FullBytes...)
		}
	}
	require.Less(t, len(kept), len(seq.Bytes), "the session has no such field")
	out, err := asn1.Marshal(asn1.RawValue{Class: seq.Class, Tag: seq.Tag, IsCompound: true, Bytes: kept})
	require.NoError(t, err)
	return out
}

// A session was verified by what its client knew then. It is offered only where a full handshake would accept its server now.
func TestSetSession_OffersWhatVerifiesNow(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		inter, strangers := f.ca.Intermediate(t, "intermediate"), tlstest.NewCA(t, "strangers")
		cert, key := inter.Leaf(t, serverName)
		other, _ := inter.Leaf(t, "other.test")
		server := f.server(t)
		require.NoError(t, server.UseCertificatePEM(append(cert, inter.PEM...), key))
		const unknownIssuer = 20
		for name, c := range map[string]struct {
			ca    *tlstest.CA // of another Context that offers the session
			lists [][]byte
			code  int // of the verification
		}{
			"as before":            {},
			"by another Context":   {ca: f.ca},
			"other roots":          {ca: strangers, code: unknownIssuer},
			"not revoked":          {lists: [][]byte{f.ca.CRL(t), inter.CRL(t, other)}},
			"revoked":              {lists: [][]byte{f.ca.CRL(t), inter.CRL(t, cert)}, code: verifyRevoked},
			"revoked elsewhere":    {ca: f.ca, lists: [][]byte{f.ca.CRL(t), inter.CRL(t, cert)}, code: verifyRevoked},
			"revoked intermediate": {lists: [][]byte{f.ca.CRL(t, inter.PEM), inter.CRL(t)}, code: verifyRevoked},
			"without a list":       {lists: [][]byte{f.ca.CRL(t)}, code: verifyNoCRL},
		} {
			for form, through := range map[string]func(*libssl.Session) *libssl.Session{
				"":        func(s *libssl.Session) *libssl.Session { return s },
				" as DER": func(s *libssl.Session) *libssl.Session { return parse(t, derOf(t, s)) },
			} {
				t.Run(name+form, func(t *testing.T) {
					client := newClient(t, f.ca)
					cl, s := handshake(t, client, server, nil)
					sess := through(sessionOf(t, cl))
					closeBoth(cl, s)
					if c.ca != nil {
						client = newClient(t, c.ca)
					}
					for _, list := range c.lists {
						require.NoError(t, client.AddCRLsPEM(list))
					}
					cn, sn := tcpPipe(t)
					cl, s = wrap(t, cn, sn, client, server)
					require.NoError(t, cl.SetSession(sess))
					err := agree(cl, s)
					if c.code == 0 {
						require.NoError(t, err)
					} else {
						requireVerifyError(t, err, c.code)
					}
					require.Equal(t, c.code == 0, cl.SessionReused())
				})
			}
		}
	})
}

// A client shows the same certificates in a resumed connection, and in the next one, however it kept the session.
func TestSetSession_KeepsTheServersChain(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		inter := f.ca.Intermediate(t, "intermediate")
		cert, key := inter.Leaf(t, serverName)
		server, client := f.server(t), newClient(t, f.ca)
		require.NoError(t, server.UseCertificatePEM(append(cert, inter.PEM...), key))
		for form, through := range map[string]func(*libssl.Session) *libssl.Session{
			"itself": func(s *libssl.Session) *libssl.Session { return s },
			"DER":    func(s *libssl.Session) *libssl.Session { return parse(t, derOf(t, s)) },
			"copy": func(s *libssl.Session) *libssl.Session {
				s, err := s.Dup()
				require.NoError(t, err)
				t.Cleanup(s.Release)
				return s
			},
		} {
			t.Run(form, func(t *testing.T) {
				var sess *libssl.Session
				var want tls.ConnectionState
				for visit := range 3 {
					c, s := handshake(t, client, server, sess)
					state := c.ConnectionState()
					require.Equal(t, visit > 0, state.DidResume)
					if visit == 0 {
						want = state
						require.Len(t, want.PeerCertificates, 2)
						require.Len(t, want.VerifiedChains, 1)
						require.Len(t, want.VerifiedChains[0], 3)
					}
					require.Equal(t, want.PeerCertificates, state.PeerCertificates)
					require.Equal(t, want.VerifiedChains, state.VerifiedChains)
					sess = through(sessionOf(t, c))
					closeBoth(c, s)
				}
			})
		}
	})
}

// The handler of new sessions gets them with the chain too. Above a bound it stays in memory, and a session without it is not
// offered.
func TestSetSession_ChainsAreBounded(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		inter := f.ca.Intermediate(t, "intermediate")
		cert, key := inter.Leaf(t, serverName)
		chain := append(cert, inter.PEM...)
		for i, resumes := range []bool{true, false} {
			server, client := f.server(t), newClient(t, f.ca)
			require.NoError(t, server.UseCertificatePEM(chain, key))
			var der []byte
			client.SetSessionCacheMode(libssl.CacheClient | libssl.CacheNoInternal)
			client.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
				der = derOf(t, s)
				return false
			})
			c, s := handshake(t, client, server, nil)
			require.Len(t, c.ConnectionState().PeerCertificates, 2+60*i)
			fresh := sessionOf(t, c)
			closeBoth(c, s)
			require.Less(t, len(der), 16<<10)
			c, s = handshake(t, client, server, parse(t, der))
			require.Equal(t, resumes, c.SessionReused())
			closeBoth(c, s)
			c, s = handshake(t, client, server, fresh)
			require.True(t, c.SessionReused())
			require.Len(t, c.ConnectionState().PeerCertificates, 2+60*i)
			closeBoth(c, s)
			for range 60 {
				chain = append(chain, tlstest.NewCA(t, strings.Repeat("x", 60)).PEM...)
			}
		}
	})
}

package libssl_test

import (
	"crypto/x509"
	"encoding/asn1"
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

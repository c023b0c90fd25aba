package libssl_test

import (
	"bytes"
	"crypto/tls"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

// timestamp is an SCT of version 1 by an unknown log.
func timestamp(log byte) []byte {
	var b bytes.Buffer
	b.WriteByte(0)
	b.Write(bytes.Repeat([]byte{log}, 32))
	b.Write([]byte{0, 0, 1, 2, 3, 4, 5, 6, 0, 0}) // time, no extensions
	b.Write([]byte{4, 3, 0, 2, 0x30, 0})          // ECDSA with SHA-256
	return b.Bytes()
}

func TestConnectionState_SignedCertificateTimestamps(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		// Of OpenSSL a server sends none, so this is crypto/tls.
		cert, err := tls.X509KeyPair(f.cert, f.key)
		require.NoError(t, err)
		config := &tls.Config{MinVersion: f.version, MaxVersion: f.version}
		visit := func(t *testing.T, ctx *libssl.Context, sess *libssl.Session) (tls.ConnectionState, *libssl.Session) {
			config.Certificates = []tls.Certificate{cert}
			cn, sn := tcpPipe(t)
			c, err := libssl.Client(cn, ctx, serverName)
			require.NoError(t, err)
			if sess != nil {
				require.NoError(t, c.SetSession(sess))
			}
			s := tls.Server(sn, config)
			defer closeBoth(c, s)
			require.NoError(t, bothHandshake(c, s))
			require.NoError(t, exchange(c, s))
			return c.ConnectionState(), sessionOf(t, c)
		}
		blind, err := libssl.NewContext(libssl.ClientRole)
		require.NoError(t, err)
		defer blind.Close()
		require.NoError(t, blind.SetVerify(libssl.VerifyNone))
		for _, ctx := range []*libssl.Context{f.client, blind} {
			for name, test := range map[string]struct{ sent, got [][]byte }{
				"none":            {nil, nil},
				"some":            {[][]byte{timestamp(1), timestamp(2), timestamp(3)}, [][]byte{timestamp(1), timestamp(2), timestamp(3)}},
				"a later version": {[][]byte{{7, 7, 7}}, [][]byte{{7, 7, 7}}},
				"malformed":       {[][]byte{timestamp(1), {0, 1, 2}}, nil},
			} {
				t.Run(name, func(t *testing.T) {
					cert.SignedCertificateTimestamps = test.sent
					cert.OCSPStaple = []byte{0x30, 3, 0x0a, 1, 1}
					state, sess := visit(t, ctx, nil)
					require.Equal(t, test.got, state.SignedCertificateTimestamps)
					require.Equal(t, cert.OCSPStaple, state.OCSPResponse)
					state, _ = visit(t, ctx, sess)
					require.True(t, state.DidResume)
					if f.version == tls.VersionTLS13 {
						test.got = nil // for the server sends no certificate
					}
					require.Equal(t, test.got, state.SignedCertificateTimestamps)
					require.Nil(t, state.OCSPResponse)
				})
			}
		}
	})
}

//go:build !asan

// The provider loads the token's library with RTLD_DEEPBIND, which
// AddressSanitizer refuses.

package libssl_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

const tokenVariable = "LIBSSL_TEST_TOKEN"

func TestOpenCertificate_Token(t *testing.T) {
	if !needProviders(t) {
		return
	}
	if dir := os.Getenv(tokenVariable); dir != "" {
		testToken(t, dir)
		return
	}
	dir := t.TempDir()
	config, softhsm := tlstest.Token(t, dir, serverName)
	again(t, config, tokenVariable+"="+dir, softhsm)
}

// A process that has logged in to a token stays so: what needs a login comes last.
func testToken(t *testing.T, dir string) {
	pemCA, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	ca := &tlstest.CA{PEM: pemCA}
	asked := 0
	pin := func(word string) *libssl.KeyOptions {
		return &libssl.KeyOptions{Passphrase: func() ([]byte, error) { asked++; return []byte(word), nil }}
	}
	for _, c := range []struct {
		uri  string
		opt  *libssl.KeyOptions
		says string
	}{
		{"pkcs11:token=test;object=ec", nil, "encrypted"},
		{"pkcs11:token=test;object=rsa", pin("WRONG-PIN"), "wrong passphrase"},
		{"pkcs11:token=test;object=ec?pin-value=WRONG-PIN", nil, "needs a"},
		{"pkcs11:token=none?pin-value=" + tlstest.TokenPIN, nil, "no certificate"},
		{"pkcs11:token=test;object=none", pin(tlstest.TokenPIN), "no private key, or the wrong passphrase"},
		{"pkcs11:token=test;object=none?pin-value=" + tlstest.TokenPIN, nil, "no certificate"},
		{"pkcs11:token=test;id=%03?pin-value=" + tlstest.TokenPIN, nil, "no private key"},
		{"pkcs11:token=test;object=ec;type=private?pin-value=" + tlstest.TokenPIN, nil, "no certificate"},
	} {
		_, err := libssl.OpenCertificate(c.uri, c.opt)
		name, _, _ := strings.Cut(c.uri, "?")
		t.Log(err)
		require.ErrorContains(t, err, name)
		require.ErrorContains(t, err, c.says, c.uri)
		require.NotRegexp(t, "(GOOD|WRONG)-PIN", err.Error())
	}
	require.Equal(t, 2, asked)
	for label, sent := range map[string]int{"ec": 2, "rsa": 1} {
		cert, err := libssl.OpenCertificate("pkcs11:token=test;object="+label, nil)
		require.NoError(t, err)
		defer cert.Close()
		for _, version := range versions {
			require.Equal(t, sent, serves(t, ca, cert, version))
		}
	}
	whole, err := libssl.OpenCertificate("pkcs11:token=test", nil)
	require.NoError(t, err)
	defer whole.Close()
	serves(t, ca, whole, tls.VersionTLS13)
	for properties, signs := range map[string]bool{"?provider=default": true, "provider=default": false} {
		server, err := libssl.NewContextWith(libssl.ServerRole, libssl.ContextOptions{Properties: properties})
		require.NoError(t, err)
		defer server.Close()
		require.NoError(t, server.UseCertificate(whole))
		failed, _ := handshakeOrNot(t, newClient(t, ca), server)
		require.Equal(t, signs, failed == nil, "%s: %v", properties, failed)
	}
}

//go:build !asan

// The provider loads the token's library with RTLD_DEEPBIND, which
// AddressSanitizer refuses.

package libssl_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

const tokenVariable = "LIBSSL_TEST_TOKEN"

const tokenPIN = "GOOD-PIN"

// globbed is the first file that matches one of the patterns, or "".
func globbed(patterns ...string) string {
	for _, pattern := range patterns {
		if all, _ := filepath.Glob(pattern); len(all) > 0 {
			return all[0]
		}
	}
	return ""
}

// modules is where a module of OpenSSL is, or "".
func modules(module string) string {
	if dir := os.Getenv("OPENSSL_MODULES"); dir != "" {
		return globbed(filepath.Join(dir, module))
	}
	return globbed("/usr/lib/*/ossl-modules/"+module, "/usr/lib64/ossl-modules/"+module)
}

// command runs a command of the set-up.
func command(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// makeToken makes a token of SoftHSM with two pairs of a key and a certificate, an intermediate, and a certificate without
// a key. It returns a configuration of OpenSSL, and where SoftHSM's is.
func makeToken(t *testing.T, dir string) (config, softhsm string) {
	pkcs11, library := modules("pkcs11.so"), globbed("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so")
	for _, program := range []string{"softhsm2-util", "pkcs11-tool"} {
		if _, err := exec.LookPath(program); err != nil || pkcs11 == "" || library == "" {
			t.Skip("a token needs the Debian packages softhsm2, opensc and pkcs11-provider for this OpenSSL")
		}
	}
	ca := tlstest.NewCA(t, "ca")
	mid := ca.Intermediate(t, "intermediate")
	cert, key := mid.Leaf(t, serverName)
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	rsaCert, rsaKey := ca.LeafWithKey(t, k, serverName)
	write(t, filepath.Join(dir, "ca.pem"), ca.PEM)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "tokens"), 0o700))
	softhsm = write(t, filepath.Join(dir, "softhsm2.conf"), []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\n"))
	t.Setenv("SOFTHSM2_CONF", softhsm)
	command(t, "softhsm2-util", "--init-token", "--free", "--label", "test", "--pin", tokenPIN, "--so-pin", "0815")
	for i, o := range []struct {
		label     string
		cert, key []byte
	}{{"ec", cert, key}, {"rsa", rsaCert, rsaKey}, {"ec", mid.PEM, nil}} {
		id := fmt.Sprintf("%02d", i+1)
		file := write(t, filepath.Join(dir, o.label), derOfPEM(o.cert))
		command(t, "pkcs11-tool", "--module", library, "--token-label", "test", "--login", "--pin", tokenPIN, "--write-object", file, "--type", "cert", "--label", o.label, "--id", id)
		if o.key != nil {
			file = write(t, filepath.Join(dir, o.label), o.key)
			command(t, "softhsm2-util", "--import", file, "--token", "test", "--label", o.label, "--id", id, "--pin", tokenPIN)
		}
		require.NoError(t, os.Remove(file))
	}
	// SoftHSM uses OpenSSL too, which has ended when the provider ends: hence no-deinit.
	return "openssl_conf = init\n[init]\nproviders = providers\n[providers]\ndefault = always\npkcs11 = token\n[always]\nactivate = 1\n" +
		"[token]\nmodule = " + pkcs11 + "\npkcs11-module-path = " + library + "\npkcs11-module-quirks = no-deinit no-operation-state\nactivate = 1\n", softhsm
}

func TestOpenCertificate_Token(t *testing.T) {
	if !needProviders(t) {
		return
	}
	if dir := os.Getenv(tokenVariable); dir != "" {
		testToken(t, dir)
		return
	}
	dir := t.TempDir()
	config, softhsm := makeToken(t, dir)
	again(t, config, tokenVariable+"="+dir, "SOFTHSM2_CONF="+softhsm)
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
		{"pkcs11:token=none?pin-value=" + tokenPIN, nil, "no certificate"},
		{"pkcs11:token=test;object=none", pin(tokenPIN), "no private key, or the wrong passphrase"},
		{"pkcs11:token=test;object=none?pin-value=" + tokenPIN, nil, "no certificate"},
		{"pkcs11:token=test;id=%03?pin-value=" + tokenPIN, nil, "no private key"},
		{"pkcs11:token=test;object=ec;type=private?pin-value=" + tokenPIN, nil, "no certificate"},
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

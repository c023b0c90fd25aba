package tlstest

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TokenPIN opens the token that Token makes.
const TokenPIN = "GOOD-PIN"

// first is the first file that matches one of the patterns, or "".
func first(patterns ...string) string {
	for _, pattern := range patterns {
		if all, _ := filepath.Glob(pattern); len(all) > 0 {
			return all[0]
		}
	}
	return ""
}

// Token makes a token of SoftHSM, named test, in dir. It has two keys with their certificates, ec and rsa, the intermediate of
// ec, and a certificate without a key; their CA is ca.pem in dir. Token returns a configuration of OpenSSL with the token's
// provider, and the variable that SoftHSM needs in the environment. Without the programs it skips the test.
func Token(t testing.TB, dir string, hosts ...string) (config, variable string) {
	t.Helper()
	modules := os.Getenv("OPENSSL_MODULES")
	if modules == "" {
		modules = "/usr/lib*/*/ossl-modules"
	}
	provider := first(filepath.Join(modules, "pkcs11.so"))
	library := first("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so")
	for _, program := range []string{"softhsm2-util", "pkcs11-tool"} {
		if _, err := exec.LookPath(program); err != nil || provider == "" || library == "" {
			t.Skip("a token needs the Debian packages softhsm2, opensc and pkcs11-provider for this OpenSSL")
		}
	}
	ca := NewCA(t, "ca")
	mid := ca.Intermediate(t, "intermediate")
	cert, key := mid.Leaf(t, hosts...)
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	rsaCert, rsaKey := ca.LeafWithKey(t, k, hosts[0])
	check(t, os.WriteFile(filepath.Join(dir, "ca.pem"), ca.PEM, 0o600))
	check(t, os.Mkdir(filepath.Join(dir, "tokens"), 0o700))
	settings := filepath.Join(dir, "softhsm2.conf")
	check(t, os.WriteFile(settings, []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\n"), 0o600))
	variable = "SOFTHSM2_CONF=" + settings
	run := func(name string, args ...string) {
		t.Helper()
		c := exec.Command(name, args...)
		c.Env = append(os.Environ(), variable)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run("softhsm2-util", "--init-token", "--free", "--label", "test", "--pin", TokenPIN, "--so-pin", "0815")
	file := filepath.Join(dir, "object")
	for i, o := range []struct {
		label     string
		cert, key []byte
	}{{"ec", cert, key}, {"rsa", rsaCert, rsaKey}, {"ec", mid.PEM, nil}} {
		id := fmt.Sprintf("%02d", i+1)
		block, _ := pem.Decode(o.cert)
		check(t, os.WriteFile(file, block.Bytes, 0o600))
		run("pkcs11-tool", "--module", library, "--token-label", "test", "--login", "--pin", TokenPIN,
			"--write-object", file, "--type", "cert", "--label", o.label, "--id", id)
		if o.key != nil {
			check(t, os.WriteFile(file, o.key, 0o600))
			run("softhsm2-util", "--import", file, "--token", "test", "--label", o.label, "--id", id, "--pin", TokenPIN)
		}
		check(t, os.Remove(file))
	}
	// SoftHSM uses OpenSSL too, which has ended when the provider ends: hence no-deinit.
	return "openssl_conf = init\n[init]\nproviders = providers\n[providers]\ndefault = always\npkcs11 = token\n[always]\nactivate = 1\n" +
		"[token]\nmodule = " + provider + "\npkcs11-module-path = " + library + "\npkcs11-module-quirks = no-deinit no-operation-state\nactivate = 1\n", variable
}

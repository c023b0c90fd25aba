package libssl_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

func TestNewContextWith_Properties(t *testing.T) {
	if !needProviders(t) {
		return
	}
	ca := tlstest.NewCA(t, "ca")
	server, err := libssl.NewContextWith(libssl.ServerRole, libssl.ContextOptions{Properties: "provider=default"})
	require.NoError(t, err)
	defer server.Close()
	require.NoError(t, server.UseCertificate(parsedLeaf(t, ca, serverName)))
	served(t, newClient(t, ca), server)
	for _, r := range []libssl.Role{libssl.ServerRole, libssl.ClientRole} {
		_, err := libssl.NewContextWith(r, libssl.ContextOptions{Properties: "absent=yes"})
		require.ErrorContains(t, err, `the properties "absent=yes": is a module missing`)
		require.ErrorContains(t, err, "the providers default")
	}
	_, err = libssl.NewContextWith(libssl.ServerRole, libssl.ContextOptions{Properties: "a\x00"})
	require.ErrorContains(t, err, "zero byte")
}

// again runs one test in a process of its own, whose OpenSSL has another configuration.
func again(t *testing.T, config string, env ...string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	conf := write(t, filepath.Join(t.TempDir(), "openssl.cnf"), []byte(config))
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	cmd.Env = append(append(os.Environ(), "OPENSSL_CONF="+conf), env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// FIPS reports what is asked for. In a process of its own.
func TestFIPS(t *testing.T) {
	const variable = "LIBSSL_TEST_FIPS"
	if !needProviders(t) {
		require.False(t, libssl.FIPS())
		return
	}
	if os.Getenv(variable) == "" {
		require.False(t, libssl.FIPS())
		again(t, "openssl_conf = init\n[init]\nalg_section = algorithms\n[algorithms]\ndefault_properties = fips=yes\n", variable+"=1")
		return
	}
	_, err := libssl.NewContext(libssl.ServerRole)
	require.True(t, libssl.FIPS())
	require.ErrorContains(t, err, "the default fips=yes: is a module missing")
}

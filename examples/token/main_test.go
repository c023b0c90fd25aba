package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
)

func TestToken_Serves(t *testing.T) {
	if strings.HasPrefix(libssl.Version(), "OpenSSL 1.1.1") {
		_, err := libssl.OpenCertificate("pkcs11:token=test", nil)
		require.ErrorIs(t, err, libssl.ErrUnsupported)
		return
	}
	dir := t.TempDir()
	config, variable := tlstest.Token(t, dir, "localhost")
	program, conf := filepath.Join(dir, "token"), filepath.Join(dir, "openssl.cnf")
	require.NoError(t, os.WriteFile(conf, []byte(config), 0o600))
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	pemCA, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pemCA))

	server := exec.Command(program, "-uri", "pkcs11:token=test;object=ec", "-listen", "localhost:0")
	env := append(os.Environ(), "OPENSSL_CONF="+conf, variable)
	server.Env = append(env, "PIN="+tlstest.TokenPIN)
	log, err := server.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	lines := bufio.NewReader(log)
	line, err := lines.ReadString('\n')
	_, addr, found := strings.Cut(strings.TrimSpace(line), "listening on ")
	require.True(t, found, "%s %v", line, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		RootCAs: pool, ServerName: "localhost"}}}
	answer, err := client.Get("https://" + addr)
	require.NoError(t, err)
	text, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	require.NoError(t, err)
	require.Equal(t, "signed in the token\n", string(text))
	require.NoError(t, server.Process.Signal(os.Interrupt))
	rest, _ := io.ReadAll(lines)
	require.NoError(t, server.Wait(), "%s", rest)

	without := exec.Command(program, "-uri", "pkcs11:token=test;object=ec", "-listen", "localhost:0")
	without.Env = env
	out, err = without.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "no PIN")
}

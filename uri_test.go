package libssl_test

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// needProviders returns false on an OpenSSL without providers, after a look at what it answers.
func needProviders(t *testing.T) bool {
	t.Helper()
	if !strings.HasPrefix(libssl.Version(), "OpenSSL 1.1.1") {
		return true
	}
	_, err := libssl.OpenCertificate("file:///none", nil)
	require.ErrorIs(t, err, libssl.ErrUnsupported)
	_, err = libssl.NewContextWith(libssl.ServerRole, libssl.ContextOptions{Properties: "provider=default"})
	require.ErrorIs(t, err, libssl.ErrUnsupported)
	return false
}

// serves makes a handshake with a server that has the certificate, and returns how many certificates the client was sent.
func serves(t testing.TB, ca *tlstest.CA, cert *libssl.Certificate, version uint16) int {
	t.Helper()
	client := newClient(t, ca)
	server, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	defer server.Close()
	require.NoError(t, server.UseCertificate(cert))
	require.NoError(t, server.SetVersions(version, version))
	err, state := handshakeOrNot(t, client, server)
	require.NoError(t, err)
	leaf, err := cert.Leaf()
	require.NoError(t, err)
	require.Equal(t, leaf.SerialNumber, state.PeerCertificates[0].SerialNumber)
	return len(state.PeerCertificates)
}

func join(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func TestOpenCertificate_Files(t *testing.T) {
	if !needProviders(t) {
		return
	}
	ca := tlstest.NewCA(t, "ca")
	mid := ca.Intermediate(t, "intermediate")
	cert, key := mid.Leaf(t, serverName)
	other, _ := ca.Leaf(t, serverName)
	opt := &libssl.KeyOptions{Passphrase: secret}
	pkcs12 := openssl(t, join(cert, mid.PEM), key, "pkcs12", "-export", "-in", "cert.pem", "-inkey", "key.pem", "-passout", "pass:secret", "-out", "out")
	encrypted := openssl(t, cert, key, "pkcs8", "-topk8", "-in", "key.pem", "-passout", "pass:secret", "-out", "out")
	dir := t.TempDir()
	t.Chdir(dir)
	open := func(uri string, opt *libssl.KeyOptions) {
		t.Helper()
		c, err := libssl.OpenCertificate(uri, opt)
		require.NoError(t, err)
		defer c.Close()
		require.Equal(t, 2, serves(t, ca, c, tls.VersionTLS13))
	}
	for name, content := range map[string][]byte{
		"plain.pem":     join(cert, mid.PEM, key),
		"shuffled.pem":  join([]byte("a text\n"), other, mid.PEM, key, cert, []byte("another\n")),
		"encrypted.pem": join(encrypted, cert, mid.PEM),
		"bundle.p12":    pkcs12,
	} {
		write(t, filepath.Join(dir, name), content)
		open(name, opt)
	}
	file := filepath.Join(dir, "plain.pem")
	for _, uri := range []string{file, "./plain.pem", "file:" + file, "file://" + file, "file://localhost" + file, "FILE:" + file} {
		open(uri, nil)
	}
	write(t, filepath.Join(dir, "a:b"), join(cert, mid.PEM, key))
	open("./a:b", nil)
}

func TestOpenCertificate_SaysWhatIsWrong(t *testing.T) {
	if !needProviders(t) {
		return
	}
	ca := tlstest.NewCA(t, "ca")
	cert, key := ca.Leaf(t, serverName)
	_, otherKey := ca.Leaf(t, serverName)
	encrypted := openssl(t, cert, key, "pkcs8", "-topk8", "-in", "key.pem", "-passout", "pass:secret", "-out", "out")
	wrong := &libssl.KeyOptions{Passphrase: func() ([]byte, error) { return []byte("wrong"), nil }}
	errAsk := errors.New("no terminal")
	refused := &libssl.KeyOptions{Passphrase: func() ([]byte, error) { return nil, errAsk }}
	dir := t.TempDir()
	t.Chdir(dir)
	file := filepath.Join(dir, "f.pem")
	for name, c := range map[string]struct {
		content []byte
		opt     *libssl.KeyOptions
		says    string
	}{
		"no key":             {cert, nil, "no private key"},
		"no certificate":     {key, nil, "no certificate"},
		"another key":        {join(cert, otherKey), nil, "does not belong"},
		"empty":              {nil, nil, "is empty"},
		"garbage":            {[]byte("garbage"), nil, "no certificate"},
		"no passphrase":      {join(cert, encrypted), nil, "encrypted"},
		"wrong passphrase":   {join(cert, encrypted), wrong, "wrong passphrase"},
		"passphrase refused": {join(cert, encrypted), refused, "no terminal"},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, file, c.content)
			_, err := libssl.OpenCertificate("file:"+file, c.opt)
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, file)
		})
	}
	many := cert
	for range 129 {
		many = join(many, cert)
	}
	write(t, file, many)
	write(t, filepath.Join(dir, "absent:x"), cert)
	for uri, says := range map[string]string{
		"file:" + dir:                         dir,
		"file:" + file:                        "too many",
		"file:" + dir + "/none":               "no such file",
		"file:f.pem":                          "absolute",
		"file://elsewhere" + file:             "another host",
		"absent:x":                            "a file has the name",
		"absent:y":                            `no provider knows the scheme; OpenSSL has loaded the providers default`,
		"absent://user:4PIN@h/y?pin=4PIN":     "absent://h/y: no provider",
		"absent:y;pin-value=4PIN":             "no provider",
		"absent:y;x=?module=1&Pin-Value=4PIN": "absent:y;x=: no provider",
		"a\x00b":                              "zero byte",
	} {
		_, err := libssl.OpenCertificate(uri, nil)
		require.ErrorContains(t, err, says)
		require.NotContains(t, err.Error(), "4PIN")
	}
	require.Zero(t, libssl.LiveResources().Certificates)
}

// A thread of another user is refused the files of this one.
func TestLoadCertificate_NoPermission(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can read files as another user")
	}
	ca := tlstest.NewCA(t, "ca")
	certFile, keyFile := ca.LeafFiles(t, serverName)
	require.NoError(t, os.Chmod(certFile, 0o600))
	failed := make(chan [2]error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		syscall.Setfsuid(65534)
		_, load := libssl.LoadCertificate(certFile, keyFile, nil)
		_, open := libssl.OpenCertificate("file:"+keyFile, nil)
		failed <- [2]error{load, open}
	}()
	both := <-failed
	require.ErrorIs(t, both[0], os.ErrPermission)
	require.ErrorContains(t, both[0], certFile)
	if needProviders(t) {
		require.ErrorIs(t, both[1], os.ErrPermission)
		require.ErrorContains(t, both[1], keyFile)
	}
}

// A key that another user may have written is none.
func TestOpenCertificate_FileOfAnotherUser(t *testing.T) {
	if !needProviders(t) {
		return
	}
	cert, key := tlstest.NewCA(t, "ca").Leaf(t, serverName)
	file := write(t, filepath.Join(t.TempDir(), "f.pem"), join(cert, key))
	require.NoError(t, os.Chmod(file, 0o666))
	_, err := libssl.OpenCertificate("file:"+file, nil)
	require.ErrorContains(t, err, file)
}
